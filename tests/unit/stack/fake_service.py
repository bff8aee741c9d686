"""A service that computes nothing: ``fake_service.py NAME FLAG…``. FAKE_NAME says how it behaves.

unset      listens, is ready at once, drains on SIGTERM
refuse     cannot start: two lines and status 2
mute       says nothing, ends never
unready    says that it listens; its health never answers
endless    as unset, but its drain never ends
"""

import asyncio
import json
import os
import signal
import sys


def told(name: str) -> None:
    line = {"service": name, "event": "told", "flags": sys.argv[2:], "pid": os.getpid()}
    given = {key: value for key, value in os.environ.items() if key.startswith(("AQAA_", "OMP_"))}
    print(json.dumps({**line, "environ": given}), file=sys.stderr)


async def serve(name: str, behaviour: str) -> None:
    from prometheus_client import CollectorRegistry

    from aqaa.config import ServiceSettings
    from aqaa.rpc.server import Server
    from aqaa.telemetry import catalogue
    from aqaa.telemetry.log import make_log
    from aqaa.telemetry.metrics import Metrics
    from aqaa.telemetry.tracing import Tracing

    flags = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    settings = ServiceSettings(
        port=int(flags.get("--port", 0)), drain_seconds=float(flags["--drain-seconds"])
    )
    server = Server(
        settings,
        log=make_log(name, strict=True),
        metrics=Metrics(CollectorRegistry(), catalogue.RPC),
        tracing=Tracing.open(name),
        services=[],
    )

    async def never(_seconds: float) -> None:
        await asyncio.Event().wait()

    async with server:
        server.ready()
        await server.until_stopped(drain=never if behaviour == "endless" else None)


def main() -> int:
    name = sys.argv[1]
    told(name)
    behaviour = os.environ.get(f"FAKE_{name.upper()}", "")
    match behaviour:
        case "refuse":
            print(f"aqaa-{name} cannot start:\nbundle = 'x': not there", file=sys.stderr)
            return 2
        case "mute" | "unready":
            if behaviour == "unready":
                where = {"address": "127.0.0.1:1", "metrics_address": "127.0.0.1:2"}
                print(json.dumps({"event": "listening", "service": name, **where}), file=sys.stderr)
            while True:
                signal.pause()
        case _:
            asyncio.run(serve(name, behaviour))
    return 0


if __name__ == "__main__":
    sys.exit(main())
