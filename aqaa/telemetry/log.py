"""Logs: one JSON line an event, with the fields listed here and no others.

Sound, tokens and text have no field to stand in. A field that is not listed is an error under ``strict`` (the
development profile, every test); elsewhere it is dropped, and the line says which under ``dropped``.
"""

import logging
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, Final, TextIO, cast

import structlog
from structlog.contextvars import bind_contextvars, merge_contextvars
from structlog.typing import EventDict, FilteringBoundLogger

Log = FilteringBoundLogger

FIELDS: Final[Mapping[str, str]] = {
    "event": "what happened, a fixed phrase",
    "level": "debug, info, warning, error",
    "time": "UTC, ISO 8601",
    "service": "tokenizer, llm, vocoder or orchestrator",
    "dropped": "names of fields that are not in this list",
    "method": "gRPC method, /package.Service/Method",
    "code": "gRPC status code",
    "reason": "ErrorReason of a failed call or turn",
    "error_id": "names a fault to the caller, who is told nothing else about it",
    "traceback": "where an error came from; production leaves the messages out",
    "peer": "address of the other end",
    "caller": "tenant, or tenant/user",
    "seconds": "how long it took, or how long there is",
    "session_id": "the session",
    "turn_id": "the turn",
    "request_id": "the caller's name of a turn",
    "trace_id": "W3C trace id",
    "replica": "the process",
    "bundle": "digest of the model bundle",
    "stage": "the service or store that is called",
    "phase": "of a turn",
    "role": "front or runner",
    "owner": "epoch and nonce that hold a turn",
    "stream": "of a turn: query, answer, delivery",
    "sequence": "number of a log entry or chunk",
    "groups": "number of audio groups",
    "samples": "number of samples",
    "slots": "number of backbone slots",
    "batch": "streams that share a pass through a model",
    "in_flight": "number of calls",
    "attempt": "counts from 1",
    "address": "host and port that is listened on",
    "metrics_address": "host and port of the metrics",
    "signal": "that ended the process",
    "key": "name of a setting or file",
    "version": "of a program",
    "logger": "library whose own log line this is",
}
"""Every field and what it holds."""


_LONGEST_CHAIN = 10


class UnknownField(ValueError):
    """A log line has a field that ``FIELDS`` does not list."""


def make_log(
    service: str, *, file: TextIO | None = None, level: int = logging.INFO, strict: bool = False
) -> Log:
    """A logger that writes to ``file`` (standard error if None) and binds ``service``.

        log = make_log("tokenizer")
        log.info("the model is warm", seconds=1.3)

    Configures nothing globally. What ``bind`` has bound is in every line of the same task.
    """
    made = structlog.wrap_logger(
        structlog.WriteLogger(file or sys.stderr),  # a line is one write: gRPC writes to standard error, too
        processors=[
            merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _refuse_fields if strict else _drop_fields,
            _plain_values,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    ).bind(service=service)
    return cast(Log, made)


def bind(**fields: str | int) -> None:
    """Adds fields to every later line of this task and of those it starts.

    Raises:
        UnknownField: one is not in ``FIELDS``.
    """
    _refuse(fields)
    bind_contextvars(**fields)


def traceback_of(error: BaseException, *, messages: bool) -> str:
    """Files, lines, functions and kinds of ``error`` and its causes, innermost last.

    Without ``messages`` it holds nothing that a caller has sent: a KeyError quotes its key.
    """
    if messages:
        return "".join(traceback.format_exception(error))
    parts: list[str] = []
    link: BaseException | None = error
    while link is not None and len(parts) < _LONGEST_CHAIN:
        frames = "".join(traceback.format_tb(link.__traceback__))
        parts.append(f"{frames}{type(link).__module__}.{type(link).__qualname__}\n")
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "caused:\n".join(reversed(parts))


class LibraryLog(logging.Handler):
    """Hands on what libraries say with ``logging``: their name, and the fixed part of their message.

        logging.getLogger().addHandler(LibraryLog(log, messages=False))

    The values in a message may be anything, so they are filled in only with ``messages``.
    """

    def __init__(self, log: Log, *, messages: bool, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self._log = log
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        # asyncio writes the repr of an exception into later lines of its message
        event = record.getMessage() if self._messages else str(record.msg).partition("\n")[0]
        fields = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = traceback_of(record.exc_info[1], messages=self._messages)
        self._log.log(record.levelno, event, **fields)


_LONGEST_VALUE = 200


def _refuse(fields: Iterable[str]) -> None:
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise UnknownField(f"log fields {', '.join(unknown)} are not in aqaa.telemetry.log.FIELDS")


def _refuse_fields(_log: Any, _method: str, line: EventDict) -> EventDict:
    _refuse(line)
    return line


def _drop_fields(_log: Any, _method: str, line: EventDict) -> EventDict:
    if unknown := sorted(set(line) - set(FIELDS)):
        for name in unknown:
            del line[name]
        line["dropped"] = ",".join(unknown)
    return line


def _plain_values(_log: Any, _method: str, line: EventDict) -> EventDict:
    """A message or an array that strays into a field becomes the name of its type; long text is cut."""
    for name, value in line.items():
        if isinstance(value, str):
            if len(value) > _LONGEST_VALUE and name != "traceback":
                line[name] = f"{value[:_LONGEST_VALUE]}…"
        elif value is not None and not isinstance(value, bool | int | float):
            line[name] = f"<{type(value).__qualname__}>"
    return line
