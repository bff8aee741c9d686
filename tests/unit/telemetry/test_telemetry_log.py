"""Log lines hold the fields that are listed, and nothing that a caller said."""

import io
import json
import logging

import pytest

from aqaa.telemetry.log import FIELDS, LibraryLog, UnknownField, bind, make_log, traceback_of

WORDS = "what the caller said"


def lines(file):
    return [json.loads(line) for line in file.getvalue().splitlines()]


def failed():
    try:
        try:
            {}["the caller's words"]
        except KeyError as error:
            raise RuntimeError(f"about {WORDS}") from error
    except RuntimeError as error:
        return error


def test_a_line_is_json_with_its_service():
    file = io.StringIO()
    make_log("llm", file=file).info("the model is warm", seconds=1.5)
    (line,) = lines(file)
    assert line.pop("time").endswith("Z")
    assert line == {"event": "the model is warm", "level": "info", "service": "llm", "seconds": 1.5}


def test_a_field_that_is_not_listed_is_an_error_or_is_dropped_by_name():
    with pytest.raises(UnknownField, match="pcm, text"):
        make_log("llm", file=io.StringIO(), strict=True).info("said", text="hello", pcm=b"")
    file = io.StringIO()
    make_log("llm", file=file).info("said", text="hello", turn_id="t")
    (line,) = lines(file)
    assert line["dropped"] == "text"
    assert line["turn_id"] == "t"
    assert "hello" not in file.getvalue()


def test_what_is_no_plain_value_is_named_and_long_text_is_cut():
    file = io.StringIO()
    make_log("llm", file=file, strict=True).info(
        "x", stage=b"the caller's sound", phase="y" * 5000, slots=None
    )
    (line,) = lines(file)
    assert line["stage"] == "<bytes>"
    assert len(line["phase"]) < 250
    assert line["slots"] is None


def test_levels_below_are_silent_and_loggers_share_nothing():
    one, other = io.StringIO(), io.StringIO()
    make_log("llm", file=one, level=logging.WARNING).info("x")
    make_log("vocoder", file=other).info("x")
    assert not lines(one)
    assert lines(other)[0]["service"] == "vocoder"


def test_bound_fields_must_be_listed_too():
    with pytest.raises(UnknownField):
        bind(transcript="hello")


def test_a_traceback_without_messages_has_places_and_kinds_in_order():
    short = traceback_of(failed(), messages=False)
    assert WORDS not in short
    assert "test_telemetry_log.py" in short
    assert short.index("builtins.KeyError") < short.index("builtins.RuntimeError")
    assert f"about {WORDS}" in traceback_of(failed(), messages=True)


def test_libraries_say_the_fixed_part_alone():
    file = io.StringIO()
    library = logging.Logger("asyncio")
    library.addHandler(LibraryLog(make_log("llm", file=file, strict=True), messages=False))
    library.error("cannot parse %s", "the caller's words")
    library.error("Task exception was never retrieved\nfuture: KeyError('the caller')", exc_info=failed())
    library.info("not of interest")
    one, other = lines(file)
    assert (one["event"], one["logger"], one["level"]) == ("cannot parse %s", "asyncio", "error")
    assert other["event"] == "Task exception was never retrieved"
    assert "builtins.RuntimeError" in other["traceback"]
    assert "future" not in file.getvalue()


def test_no_field_is_meant_for_what_is_never_logged():
    assert (
        not {"text", "pcm", "audio", "tokens", "transcript", "answer", "question", "history"} & FIELDS.keys()
    )
    assert all(FIELDS.values())


def test_a_line_is_one_write():
    """Standard error may be unbuffered and shared: what another writes must not come into a line."""

    written = []

    class Shared(io.StringIO):
        def write(self, text):
            written.append(text)
            return len(text)

    make_log("tokenizer", file=Shared()).info("something has happened", seconds=1)
    (line,) = written
    assert line.endswith("\n")
    assert json.loads(line)["event"] == "something has happened"
