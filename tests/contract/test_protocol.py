"""docs/protocol.md is true: its commands run, its examples are messages, its tables are the code's."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import google_crc32c
import pytest
from google.protobuf.json_format import ParseDict

from aqaa import errors
from aqaa.rpc.status import CODES
from aqaa.v1 import errors_pb2, orchestrator_pb2
from services.orchestrator import doors
from services.orchestrator.config import OrchestratorSettings
from tests.faults.hostile_cases import orchestrator, turn_log
from tests.stages import StubStages

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
BIN = Path(sys.executable).parent
SECONDS = 300


def blocks(language: str) -> list[tuple[str, str]]:
    """What stands behind the language, and the text, of each block."""
    return re.findall(rf"^```{language}(?: (\w+))?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose first column has that heading."""
    found = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found is not None, heading
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in found[1].splitlines()]


def messages(text: str) -> list[dict]:
    """JSON objects, one behind the other."""
    found, at = [], 0
    while (at := len(text) - len(text[at:].lstrip())) < len(text):
        one, at = json.JSONDecoder().raw_decode(text, at)
        found.append(one)
    return found


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The page's shell blocks, one after the other, against an orchestrator with stub stages."""
    scratch = tmp_path_factory.mktemp("scratch")
    script = scratch / "session.sh"
    script.write_text("set -eu\n" + "".join(text for _, text in blocks("sh")))

    async def run(url: str) -> str:
        async with orchestrator(url, StubStages(), profile="development", resume_seconds=15) as front:
            environ = {
                **os.environ,
                "ORCHESTRATOR": f"http://{front.address}",
                "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
                "TMPDIR": str(scratch),
                "HOME": str(scratch),
            }
            made = await asyncio.to_thread(
                subprocess.run, ["bash", str(script)], cwd=ROOT, env=environ, capture_output=True, text=True,
                timeout=SECONDS,
            )  # fmt: skip
            assert made.returncode == 0, made.stdout[-2000:] + made.stderr
            return made.stdout

    with turn_log(tmp_path_factory.mktemp("valkey")) as url:
        said = asyncio.run(run(url))
    [folder] = [path for path in scratch.iterdir() if path.is_dir() and (path / "ask.json").exists()]
    return said, folder


def events(folder: Path, name: str) -> list[dict]:
    return [one.get("event") or one.get("turn") or one for one in messages((folder / name).read_text())]


def test_the_session_says_what_the_page_says(session):
    said, folder = session
    lines = said.splitlines()
    assert {"the same sound", "every sample once"} <= set(lines)
    for status in ("exit status 24", "exit status 56", "FORBIDDEN"):
        assert status in lines
        assert status in blocks("text")[0][1].splitlines()
    methods = [line.partition("/")[2] for line in lines if line.startswith("aqaa.v1.OrchestratorService/")]
    assert sorted(methods) == sorted(re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)[:6])

    asked = events(folder, "answer.json")
    manifest = asked[-1]["manifest"]
    assert [next(k for k in one if k != "turnId") for one in asked[:2]] == ["opened", "questionCommitted"]
    assert str(manifest["turnCrc32c"]) in lines  # the page's own crc32c.py says so
    assert google_crc32c.value((folder / "answer.pcm").read_bytes()) == manifest["turnCrc32c"]
    assert len((folder / "answer.pcm").read_bytes()) == 2 * int(manifest["samples"])

    talked = events(folder, "talked.json")
    assert "opened" in talked[0]
    assert talked[-1]["manifest"]["reason"] == "END_REASON_STOP"
    kept = next(one for one in messages(said[said.index('{\n  "sessionId"') :].split("exit status")[0]))
    assert [turn["turnId"] for turn in kept["turns"]] == [asked[0]["turnId"], talked[-1]["turnId"]]


def test_what_the_page_shows_are_messages_of_the_contract(session):
    _, folder = session
    shown = blocks("json")
    assert [kind for kind, _ in shown] == ["AskResponse", "CancelResponse"]
    for kind, text in shown:
        for one in messages(text):
            ParseDict(one, getattr(orchestrator_pb2, kind)())  # an unknown field is an error
    refusal = blocks("text")[0][1]
    [shown_refusal] = messages(refusal[refusal.index("{") : refusal.rindex("}") + 1])
    refused = json.loads((folder / "refused.json").read_text())
    assert (shown_refusal["code"], shown_refusal["message"]) == (refused["code"], refused["message"])
    assert shown_refusal["details"] == refused["details"]


def test_the_worked_turn_has_the_checksums_that_are_written():
    rows = table("`sequence`")
    whole = b""
    for i, (sequence, first, raw, crc, turn) in enumerate(rows):
        pcm = bytes.fromhex(raw.strip("`"))
        assert (int(sequence), int(first)) == (i + 1, len(whole) // 2)
        whole += pcm
        assert (int(crc), int(turn)) == (google_crc32c.value(pcm), google_crc32c.value(whole))
    assert f"{len(rows)} chunks, {len(whole) // 2} samples and {google_crc32c.value(whole)}" in PAGE
    assert f"0x{google_crc32c.value(b'123456789'):08X}" in PAGE


def test_every_reason_is_explained_with_its_code():
    written = {reason.strip("`"): code.strip("`") for reason, code, _, _ in table("reason")}
    codes = {kind.reason: code.name for kind, code in CODES.items()} | {errors.AqaaError.reason: "INTERNAL"}
    assert written == codes
    names = set(errors_pb2.ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}
    assert set(written) == {name.removeprefix("ERROR_REASON_") for name in names}


def test_limits_are_those_of_the_code():
    rows = table("limit")
    for _, value, setting in rows:
        if setting and (name := setting.strip("`")) != "max_message_bytes":
            default = OrchestratorSettings.model_fields[name].default
            assert re.search(rf"\b{default:g}( s|$)", value), (name, value)
    values = {limit: value for limit, value, _ in rows}
    assert doors.MAX_QUESTION_BYTES == 4 * 2**20
    assert values["a question"].startswith("4 MiB, and 30 s")
    assert doors.MAX_PIECE_BYTES == 2**20
    assert values["a piece of a question (`audio`)"].startswith("1 MiB")
    assert OrchestratorSettings.model_fields["max_message_bytes"].default == 5 * 2**20
    assert values["a message, either way"] == "5 MiB"


def test_every_event_is_explained():
    fields = orchestrator_pb2.TurnEvent.DESCRIPTOR.oneofs_by_name["event"].fields
    assert [row[0].strip("`") for row in table("event")] == [field.name for field in sorted_events(fields)]


def sorted_events(fields):
    """In the order of the page: as they come."""
    order = [row[0].strip("`") for row in table("event")]
    assert {field.name for field in fields} == set(order)
    return sorted(fields, key=lambda field: order.index(field.name))
