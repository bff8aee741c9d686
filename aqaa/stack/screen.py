"""What is seen of a stack: each part's log lines, the ready line, and why it ended."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TextIO

from rich.console import Console
from rich.text import Text

from aqaa.stack.plan import ORCHESTRATOR, SERVICES, VALKEY
from aqaa.stack.valkey import worth_showing

UP: Final = "up"
COLOURS: Final = {
    ORCHESTRATOR: "cyan",
    "tokenizer": "green",
    "llm": "magenta",
    "vocoder": "blue",
    VALKEY: "bright_black",
    UP: "white",
}
LEVELS: Final = {"warning": "yellow", "error": "bold red", "critical": "bold red"}
WIDTH: Final = max(map(len, COLOURS))


@dataclass(frozen=True)
class Ready:
    """A stack that serves: addresses of the services, of their metrics, all processes, the turn log's URL."""

    addresses: Mapping[str, str]
    metrics: Mapping[str, str]
    pids: Mapping[str, int]
    redis: str

    def line(self) -> str:
        """All of it in one line."""
        stages = " ".join(f"{name} {at}" for name, at in self.addresses.items() if name != ORCHESTRATOR)
        metrics = " ".join(f"{name} {at}" for name, at in self.metrics.items())
        return (
            f"ready: {ORCHESTRATOR} {self.addresses[ORCHESTRATOR]} | {stages} | metrics: {metrics} "
            f"| turn log {self.redis}"
        )

    def record(self) -> dict[str, Any]:
        """The object of ``--json-logs``."""
        return {
            "service": UP,
            "event": "ready",
            "addresses": dict(self.addresses),
            "metrics": dict(self.metrics),
            "pids": dict(self.pids),
            "redis": self.redis,
        }


class Screen:
    """Logs go to ``err``, the ready line to ``out``.

    For people a line is the part's name and what the line says, in colour on a terminal. With ``json_logs``
    every line of ``err`` is one JSON object: those of the services as they came, anything else as ``text``.
    """

    def __init__(self, *, out: TextIO, err: TextIO, json_logs: bool) -> None:
        self._out = out
        self._err = err
        self._json = json_logs
        self._console = Console(file=err, soft_wrap=True, highlight=False)

    def line(self, part: str, line: str) -> None:
        """One line of a part."""
        if part == VALKEY and not worth_showing(line):
            return
        if self._json:
            whole = isinstance(_record(line), dict)
            self._write(line if whole else _dump({"service": part, "event": "output", "text": line}))
        else:
            self._print(part, line_for_people(line))

    def say(self, text: str, level: str = "info") -> None:
        """Something of our own."""
        if self._json:
            self._write(_dump({"service": UP, "level": level, "event": text}))
        else:
            self._print(UP, Text(text, style=LEVELS.get(level, "")))

    def serves(self, part: str) -> None:
        """A part is ready; its own log says so."""

    def ready(self, ready: Ready) -> None:
        """The ready line, and what to do now."""
        with suppress(OSError):
            print(_dump(ready.record()) if self._json else ready.line(), file=self._out, flush=True)
        if not self._json:
            self.say("aqaa talk, in another terminal, holds a conversation; Ctrl-C stops everything")

    def failed(self, why: str, tail: Sequence[str]) -> None:
        """Why the stack ended, with the last lines of the part that is to blame."""
        if self._json:
            record = {"service": UP, "level": "error", "event": "failed", "text": why, "lines": list(tail)}
            self._write(_dump(record))
            return
        if tail:
            self._write("its last lines:")
        for line in tail:
            self._write(f"    {line_for_people(line).plain}")
        self._write(f"error: {why}")

    def _print(self, part: str, text: Text) -> None:
        prefix = Text(f"{part:<{WIDTH}} | ", style=COLOURS.get(part, ""))
        with suppress(OSError):  # nobody reads any more; the stack goes on until it is told to end
            self._console.print(prefix + text)

    def _write(self, line: str) -> None:
        with suppress(OSError):
            print(line, file=self._err, flush=True)


class Quiet(Screen):
    """Everything goes to ``log``; ``progress`` is told what a start still waits for, and the share done.

    ``failure``: why the stack ended, and the last lines of the part that is to blame, if one is.
    """

    def __init__(self, *, log: TextIO, progress: Callable[[str, float], None]) -> None:
        super().__init__(out=log, err=log, json_logs=False)
        self.failure: tuple[str, Sequence[str]] | None = None
        self._progress = progress
        self._awaited = [VALKEY, *SERVICES]

    def serves(self, part: str) -> None:
        self._awaited.remove(part)
        share = 1 - len(self._awaited) / (1 + len(SERVICES))
        self._progress(f"starting: {', '.join(self._awaited)} to come", share)

    def failed(self, why: str, tail: Sequence[str]) -> None:
        super().failed(why, tail)
        self.failure = why, tail


def line_for_people(line: str) -> Text:
    """A service's JSON line as time, event and fields; any other line as it is."""
    record = _record(line)
    if not isinstance(record, dict) or "event" not in record:
        return Text(line)
    level = str(record.pop("level", "info"))
    time = str(record.pop("time", ""))
    event, trace = str(record.pop("event")), record.pop("traceback", None)
    record.pop("service", None)
    text = Text()
    if clock := time[11:19]:
        text.append(f"{clock} ", style="dim")
    text.append(event if level == "info" else f"{level}: {event}", style=LEVELS.get(level, ""))
    for name, value in record.items():
        text.append(f" {name}=", style="dim")
        text.append(str(value))
    if trace:
        text.append(f"\n{str(trace).rstrip()}", style="dim")
    return text


def _record(line: str) -> Any:
    try:
        return json.loads(line) if line.startswith("{") else None
    except ValueError:
        return None


def _dump(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False)
