"""What the benchmarks make of turns as their callers heard them: playback, ratios, rounds."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from aqaa.errors import CapacityError
from aqaa.telemetry import catalogue
from aqaa.telemetry.metrics import Metrics
from benchmarks import turns
from benchmarks._batches import BATCHES, Passes, between, passes, passes_in
from benchmarks._caller import Dry, Heard, playback
from benchmarks._stack import Stack
from benchmarks.served import Alone, ratios, table


def heard(*chunks: tuple[float, float], text: str = "four") -> Heard:
    return Heard(committed=0.1, first_text=0.2, chunks=list(chunks), text=text)


@pytest.mark.parametrize(
    ("chunks", "dry"),
    [
        ([], Dry(0, 0.0)),
        ([(5.0, 1.0)], Dry(0, 0.0)),
        ([(0.0, 1.0), (1.0, 1.0), (1.5, 1.0)], Dry(0, 0.0)),
        ([(0.0, 1.0), (1.5, 1.0)], Dry(1, 0.5)),
        # it waited half a second for the second chunk: the third is needed half a second later too
        ([(0.0, 1.0), (1.5, 1.0), (2.5, 1.0)], Dry(1, 0.5)),
        ([(0.0, 1.0), (1.5, 1.0), (3.0, 1.0)], Dry(2, 1.0)),
    ],
)
def test_playback_begins_with_the_first_chunk_and_waits_where_it_runs_dry(
    chunks: list[tuple[float, float]], dry: Dry
) -> None:
    assert playback(chunks) == dry


def test_a_turn_is_timed_to_its_first_and_its_last_sound() -> None:
    turn = heard((0.5, 0.36), (0.8, 0.36), (1.08, 0.72))
    assert turn.first_pcm == 0.5
    assert turn.answer_seconds == pytest.approx(1.44)
    assert turn.rtf == pytest.approx(0.75)
    assert Heard().first_pcm is None
    assert Heard().rtf is None


def test_the_ratio_is_of_the_same_turns_and_tells_whether_they_are_the_same() -> None:
    alone = [Alone(0.1, 0.2, 0.4, "four"), Alone(0.1, 0.2, 0.6, "five"), Alone(0.1, 0.2, None, "")]
    served = [heard((0.5, 1.0)), heard((0.7, 1.0)), heard((9.0, 1.0))]
    figures = ratios(alone, served)
    assert figures["in_process"]["p50"] == pytest.approx(0.5)
    assert figures["served"]["p50"] == pytest.approx(0.6)
    assert figures["ratio"]["p50"] == pytest.approx(1.2)
    assert figures["ratio"]["p95"] == pytest.approx(0.69 / 0.59)
    assert (figures["turns"], figures["with_sound"], figures["same_text"]) == (3, 2, 1)
    assert "ratio" in table(figures)


def test_without_any_sound_there_is_no_ratio() -> None:
    with pytest.raises(ValueError, match="no turn gave a value"):
        ratios([Alone(0.1, 0.2, None, "")], [heard((0.5, 1.0))])


PASSES = {"tokenizer": Passes(4, 6), "llm": Passes(100, 175), "vocoder": Passes(0, 0)}


def test_a_round_counts_underruns_and_what_came_to_nothing() -> None:
    found = turns.Round(
        2, [heard((0.5, 1.0), (2.0, 1.0)), heard((0.7, 2.0)), Heard()], [CapacityError.reason], PASSES
    )
    made = turns.figures(found)
    assert (made["turns"], made["chunks"], made["underruns"]) == (3, 3, 1)
    assert made["dry_seconds"] == pytest.approx(0.5)
    assert made["ttfa"]["p50"] == pytest.approx(0.6)
    assert made["rtf"]["p50"] == pytest.approx(np.median([1.0, 0.35]))
    assert [made["batches"][stage]["mean"] for stage in BATCHES] == [1.5, 1.75, None]
    line = turns.row(made)
    assert "1 of 3" in line
    assert line.split()[-4:-1] == ["1.50", "1.75", "-"]
    assert CapacityError.reason in line


def test_a_round_without_sound_has_a_row_too() -> None:
    line = turns.row(turns.figures(turns.Round(8, [], ["CAPACITY"] * 2, PASSES)))
    assert line.split()[:2] == ["8", "0"]
    assert "nan" in line


def test_a_batch_is_the_mean_of_the_passes_between_two_readings_of_the_services() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, catalogue.TOKENIZER, catalogue.LLM, catalogue.VOCODER)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        address = f"127.0.0.1:{server.server_port}"
        stack = Stack({}, dict.fromkeys(BATCHES, address), {}, "")
        metrics[catalogue.TOKENIZER_BATCH].observe(8)
        before = passes(stack)
        for sessions in (1, 1, 4):
            metrics[catalogue.TOKENIZER_BATCH].observe(sessions)
        metrics[catalogue.VOCODER_BATCH].observe(3)
        found = between(before, passes(stack))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert found == {"tokenizer": Passes(3, 6), "llm": Passes(0, 0), "vocoder": Passes(1, 3)}
    assert (found["tokenizer"].mean, found["llm"].mean) == (2.0, None)
    with pytest.raises(KeyError, match="aqaa_llm_batch"):
        passes_in(generate_latest(CollectorRegistry()).decode(), "llm")
