"""What an edge between processes costs, over the barest thing that could stand there.

    python -m benchmarks.edges [--n 2000]

Each pair is measured in turns of 50, one at a time, from the moment of sending until the same bytes are
back or there:

- gRPC, unary and streaming: an echo of one 120 ms frame behind `aqaa.rpc` (its server with health, metrics,
  log lines, spans; its channel; typed errors; caller and trace in the metadata), over an echo of bare
  grpc.aio. A unary time is a whole call; a streaming one is a message and its echo on a call that is open.
  Server and caller are two processes.
- turn log: a record of one audio group, from the append (the fenced script, which wakes) until its follower
  hands it over, over XADD and a blocked XREAD on a bare stream of the same server. Writer and reader share a
  process, as front and runner do by default, and each has its own connection.

"added" is the difference of the two percentiles, not a percentile of differences.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from aqaa.config import ServiceSettings
from aqaa.rpc.caller import Caller, call_metadata
from aqaa.rpc.channel import open_channel
from aqaa.rpc.server import Server, run
from aqaa.rpc.status import typed_errors
from aqaa.stack import valkey
from aqaa.stack.health import listening_of
from aqaa.stack.plan import HOST
from aqaa.stack.ports import free_port
from aqaa.telemetry import catalogue
from aqaa.telemetry.log import make_log
from aqaa.telemetry.metrics import Metrics
from aqaa.telemetry.tracing import Tracing
from aqaa.turnlog import Link, Opened, Stream, TurnLog, history_digest
from aqaa.v1.audio_pb2 import QuestionAudio
from aqaa.v1.tokens_pb2 import AudioGroups
from aqaa.v1.turnlog_pb2 import History, QueryRecord, TurnSpec
from benchmarks._stack import running
from benchmarks.latency import Spread

FRAME: Final = QuestionAudio(first_byte=0, pcm=bytes(3840))
"""120 ms of 16 kHz, 16 bit."""
GROUP: Final = AudioGroups(linguistic=(700, 701), semantic=(3000, 3001, 3002))
SERVICE: Final = "aqaa.bench.Echo"
BLOCK: Final = 50
WAIT_SECONDS: Final = 60.0
TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Once = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Edge:
    """One edge and what it is measured against, in seconds."""

    name: str
    bare: Spread
    ours: Spread

    @property
    def added(self) -> tuple[float, float]:
        """Of the medians, of the 95th percentiles."""
        return self.ours.median - self.bare.median, self.ours.p95 - self.bare.p95


# -- the echo, in a process of its own --


class EchoSettings(ServiceSettings):
    """As every service has them."""

    service = "echo"


def handlers() -> grpc.GenericRpcHandler:
    """A unary and a streaming echo."""

    async def one(request: QuestionAudio, context: Any) -> QuestionAudio:
        return request

    async def many(requests: AsyncIterator[QuestionAudio], context: Any) -> AsyncIterator[QuestionAudio]:
        async for request in requests:
            yield request

    coding: dict[str, Any] = {
        "request_deserializer": QuestionAudio.FromString,
        "response_serializer": QuestionAudio.SerializeToString,
    }
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "One": grpc.unary_unary_rpc_method_handler(one, **coding),
            "Many": grpc.stream_stream_rpc_method_handler(many, **coding),
        },
    )


async def serve_bare() -> None:
    """Until SIGTERM."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers(),))
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    line = {"event": "listening", "address": f"{HOST}:{port}", "metrics_address": ""}
    print(json.dumps(line), flush=True)
    await stop.wait()
    await server.stop(None)


async def serve_ours() -> None:
    """As every service of AQAA is served."""
    server = Server(
        EchoSettings.at_start_up([], {}),
        log=make_log("echo"),
        metrics=Metrics(CollectorRegistry(), catalogue.RPC),
        tracing=Tracing.open("echo"),
        services=[SERVICE],
    )
    server.grpc.add_generic_rpc_handlers((handlers(),))
    async with server:
        server.ready()
        await server.until_stopped()


# -- measuring --


async def in_turns(bare: Once, ours: Once, number: int) -> tuple[Spread, Spread]:
    """Times of both, alternating block by block, after a block of each that does not count."""
    times: dict[Once, list[float]] = {bare: [], ours: []}
    for begun in range(-BLOCK, number, BLOCK):
        for once in (bare, ours):
            for _ in range(min(BLOCK, number - begun)):
                start = time.perf_counter()
                await once()
                if begun >= 0:
                    times[once].append(time.perf_counter() - start)
    return Spread.of(times[bare]), Spread.of(times[ours])


async def grpc_edges(bare_address: str, our_address: str, number: int) -> list[Edge]:
    """Unary and streaming."""
    coding: dict[str, Any] = {
        "request_serializer": QuestionAudio.SerializeToString,
        "response_deserializer": QuestionAudio.FromString,
    }
    async with grpc.aio.insecure_channel(bare_address) as bare, open_channel(our_address) as ours:
        metadata = call_metadata(caller=Caller("bench"), traceparent=TRACEPARENT)
        bare_one: Any = bare.unary_unary(f"/{SERVICE}/One", **coding)
        ours_one: Any = ours.unary_unary(f"/{SERVICE}/One", **coding)
        bare_many: Any = bare.stream_stream(f"/{SERVICE}/Many", **coding)()
        ours_many: Any = ours.stream_stream(f"/{SERVICE}/Many", **coding)(metadata=metadata)

        async def bare_call() -> None:
            await bare_one(FRAME)

        async def our_call() -> None:
            with typed_errors("echo"):
                await ours_one(FRAME, metadata=metadata, timeout=WAIT_SECONDS)

        async def bare_message() -> None:
            await bare_many.write(FRAME)
            await bare_many.read()

        async def our_message() -> None:
            with typed_errors("echo"):
                await ours_many.write(FRAME)
                await ours_many.read()

        edges = [
            Edge("gRPC, unary", *await in_turns(bare_call, our_call, number)),
            Edge("gRPC, streaming", *await in_turns(bare_message, our_message, number)),
        ]
        for call in (bare_many, ours_many):
            await call.done_writing()
            await call.read()
        return edges


async def log_edge(url: str, number: int) -> Edge:
    """From an append until its reader has it."""
    async with (
        await Link.connect(url) as link,
        TurnLog(link) as log,
        Redis.from_url(url) as writer,
        Redis.from_url(url) as reader,
    ):
        bare_reader: Any = reader
        turn, history = log.new_turn("bench"), History()
        spec = TurnSpec(
            session_id=turn.session,
            turn_id=turn.turn_id,
            caller="bench",
            history_digest=history_digest(history),
        )
        opened = await log.open(turn, "bench", spec, history)
        assert isinstance(opened, Opened)
        record = QueryRecord(groups=GROUP)
        fields: dict[Any, Any] = {"d": record.SerializeToString(), "h": bytes(16)}
        cursor = b"0"

        async def bare() -> None:
            nonlocal cursor
            reading = asyncio.create_task(
                bare_reader.xread({"bench": cursor}, block=round(WAIT_SECONDS * 1000))
            )
            await asyncio.sleep(0)  # it is sent before the entry is
            await writer.xadd("bench", fields)
            [[_, entries]] = await reading
            cursor = entries[-1][0]

        async with log.following.follow(turn, Stream.QUERY) as query:
            await query.next(WAIT_SECONDS)  # the spec

            async def ours() -> None:
                await opened.query.append(record)
                assert await query.next(WAIT_SECONDS) is not None

            return Edge("turn log", *await in_turns(bare, ours, number))


# -- what it runs on --


@contextmanager
def echo(side: str) -> Iterator[str]:
    """Where an echo listens."""
    words = (sys.executable, "-m", "benchmarks.edges", "--serve", side)
    with running(words, listening_of) as listening:
        yield listening.address


@contextmanager
def server() -> Iterator[str]:
    """The URL of an embedded turn log's server."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="aqaa-bench-") as folder:
        command = valkey.command(valkey.program(), port, Path(folder), os.environ, keep=False)
        with running(command.argv, valkey.ready_in):
            yield f"redis://{HOST}:{port}"


def table(edges: Sequence[Edge]) -> str:
    """For people, in milliseconds."""
    lines = [f"{'ms':16} {'bare p50':>9} {'p95':>7} {'ours p50':>9} {'p95':>7} {'added p50':>10} {'p95':>7}"]
    for edge in edges:
        numbers = (edge.bare.median, edge.bare.p95, edge.ours.median, edge.ours.p95, *edge.added)
        cells = zip(numbers, (9, 7, 9, 7, 10, 7), strict=True)
        lines.append(f"{edge.name:16} " + " ".join(f"{number * 1e3:{width}.3f}" for number, width in cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.edges",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--n", type=int, default=2000, help="of each")
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    parser.add_argument("--serve", choices=("bare", "ours"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve is not None:
        run(serve_bare() if given.serve == "bare" else serve_ours())
        return
    with echo("bare") as bare, echo("ours") as ours:
        edges = run(grpc_edges(bare, ours, given.n))
    with server() as url:
        edges.append(run(log_edge(url, given.n)))
    if given.out is not None:
        given.out.write_text(json.dumps([asdict(edge) for edge in edges], indent=1) + "\n", "utf-8")
    print(f"{given.n} of each")
    print(table(edges))


if __name__ == "__main__":
    main()
