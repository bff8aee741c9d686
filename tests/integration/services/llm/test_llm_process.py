"""The llm service as a process: it starts, says when it is warm, and drains on SIGTERM."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from llm_cases import BUNDLE, ROOT, Call, Step, groups_of

from aqaa.bundle import Bundle
from aqaa.errors import BundleError
from aqaa.rpc.channel import open_channel
from aqaa.v1 import backbone_pb2_grpc, tokens_pb2
from services.llm.config import LlmSettings
from services.llm.language import Language
from services.llm.service import serve

GROUP = tokens_pb2.AudioGroups(linguistic=[1, 2], semantic=[1, 2, 3])


async def until_logged(process, event):
    """Reads the log up to an event; the line."""
    async with asyncio.timeout(60):
        while line := await process.stderr.readline():
            fields = json.loads(line)
            if fields["event"] == event:
                return fields
    raise AssertionError(f"the log ended before {event!r}")


async def begun(*flags):
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.llm", "--bundle", str(BUNDLE), *flags),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=asyncio.subprocess.PIPE,
    )


def test_an_answer_that_runs_is_finished_before_the_process_ends():
    async def scenario():
        process = await begun("--slots", "2", "--slot-positions", "512")
        try:
            address = (await until_logged(process, "listening"))["address"]
            await until_logged(process, "the model is warm")
            async with open_channel(address) as channel:
                stub = backbone_pb2_grpc.BackboneServiceStub(channel)
                served = SimpleNamespace(stub=stub, language=Language.load(Bundle.open(BUNDLE)))
                async with Call(served) as call:
                    await call.send(Step(prompt=GROUP))
                    speech = tokens_pb2.START_MODE_SPEECH
                    await call.commit(prompt_groups=1, start_mode=speech, until_group=1)
                    await call.until_groups(1)
                    process.send_signal(signal.SIGTERM)
                    await until_logged(process, "draining")
                    await call.advance(0)
                    await call.rest()
                    assert call.pieces[-1].end.groups == groups_of(call.pieces)
            async with asyncio.timeout(20):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()

    asyncio.run(scenario())


def test_a_setting_out_of_range_is_named_before_anything_is_loaded():
    async def scenario():
        process = await begun("--slots", "0")
        _, errors = await process.communicate()
        return process.returncode, errors.decode()

    status, errors = asyncio.run(scenario())
    assert status == 2
    assert "slots = " in errors


def test_a_bundle_that_is_not_there_ends_the_start():
    with pytest.raises(BundleError, match="no bundle at nowhere"):
        asyncio.run(serve(LlmSettings(bundle=Path("nowhere"))))
