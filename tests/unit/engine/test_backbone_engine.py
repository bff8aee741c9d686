"""What a caller of the decode engine relies on: order, priorities, prefixes, cancelling, limits, failures."""

import json
from pathlib import Path

import numpy as np
import pytest
from backbone_cases import CONFIG, Countdown, Greedy, answer, finish, small_engine

from aqaa.bundle.public_backbone import load_public_backbone
from aqaa.engine.backbone import BackboneEngine, Emitted, Ended, EngineSettings, Priority
from aqaa.errors import AqaaError, Cancelled, CapacityError, InvalidToken

GOLDEN = Path(__file__).parents[2] / "golden" / "backbone"
PROMPT = list(range(2, 40))
MODES = pytest.mark.parametrize("mode", ["exact", "fast"])


@MODES
def test_golden_sequences_decode_together(mode):
    sequences = json.loads((GOLDEN / "expected.json").read_text())["sequences"]
    engine = BackboneEngine(load_public_backbone(GOLDEN), EngineSettings(mode=mode, capacity=128))
    requests = [engine.open(sequence["input_ids"]) for sequence in sequences]
    for request in requests:
        engine.commit(request, Countdown(32, vocabulary=352), Greedy())
    finish(engine)
    assert [list(request.tokens) for request in requests] == [s["greedy32"] for s in sequences]


def test_events_tell_each_token_in_order_and_the_end_once():
    engine = small_engine()
    request = answer(engine, PROMPT, 5)
    events = finish(engine)
    assert [event.index for event in events[:-1]] == [0, 1, 2, 3, 4]
    assert [event.token_id for event in events[:-1]] == list(request.tokens)
    assert all(isinstance(event, Emitted) for event in events[:-1])
    assert isinstance(events[-1], Ended)
    assert events[-1].reason == "stop"
    assert request.end is events[-1]
    assert not engine.busy


@MODES
def test_a_prompt_that_arrives_in_pieces_is_computed_as_it_arrives(mode):
    whole, pieces = small_engine(mode=mode), small_engine(mode=mode)
    want = answer(whole, PROMPT, 6)
    finish(whole)
    request = pieces.open()
    for start in range(0, len(PROMPT), 5):
        pieces.append(request, PROMPT[start : start + 5])
        finish(pieces)
    computed = pieces.stats.computed_rows
    assert computed == len(PROMPT)
    pieces.commit(request, Countdown(6), Greedy())
    assert len(pieces.step()) == 1  # the first token needs no further row
    assert pieces.stats.computed_rows == computed
    finish(pieces)
    assert request.tokens == want.tokens


def test_a_second_task_forks_from_a_running_prompt():
    engine = small_engine()
    first = answer(engine, [*PROMPT, 50], 10)
    engine.step()
    before = engine.stats
    second = answer(engine, [*PROMPT, 60, 61], 3)
    finish(engine)
    assert engine.stats.reused_rows - before.reused_rows == len(PROMPT)
    alone = small_engine()
    assert second.tokens == answer_alone(alone, [*PROMPT, 60, 61], 3)
    assert first.tokens == answer_alone(alone, [*PROMPT, 50], 10)


def answer_alone(engine, ids, tokens):
    return list(engine.generate(ids, Countdown(tokens), Greedy()))


def test_a_resumed_answer_goes_on_as_the_undisturbed_one():
    want = answer_alone(small_engine(), PROMPT, 12)
    engine = small_engine()
    request = engine.open(PROMPT)
    engine.commit(request, Countdown(12), Greedy(), resumed=want[:5])
    assert list(engine.stream(request)) == want[5:]
    assert request.tokens == want


def test_streams_may_be_read_in_turn():
    engine = small_engine()
    requests = [answer(engine, [*PROMPT, n], 6) for n in range(3)]
    streams = [engine.stream(request) for request in requests]
    got = list(zip(*streams, strict=True))
    assert [list(column) for column in zip(*got, strict=True)] == [list(r.tokens) for r in requests]


def test_closing_a_stream_cancels_and_the_next_step_frees_the_slot():
    engine = small_engine(slots=1)
    stream = engine.stream(request := answer(engine, PROMPT, 50))
    next(stream)
    stream.close()
    with pytest.raises(CapacityError, match="1 of 1 slots"):
        engine.open(PROMPT)
    (event,) = engine.step()
    assert event.reason == "cancelled"
    assert request.generated < 50
    assert answer_alone(engine, PROMPT, 2)


@MODES
def test_cancelling_changes_nothing_for_the_others(mode):
    engine = small_engine(mode=mode)
    stays, goes = answer(engine, PROMPT, 10), answer(engine, [*PROMPT[:9], 3], 10)
    for _ in range(3):
        engine.step()
    engine.cancel(goes)
    events = finish(engine)
    assert [event.request for event in events if isinstance(event, Ended)] == [goes, stays]
    assert stays.tokens == answer_alone(small_engine(mode=mode), PROMPT, 10)


def test_a_stream_of_a_request_that_others_cancel_raises():
    engine = small_engine()
    stream = engine.stream(request := answer(engine, PROMPT, 50))
    next(stream)
    engine.cancel(request)
    with pytest.raises(Cancelled):
        list(stream)


def test_background_work_waits_until_first_audio_and_runs_beside_afterwards():
    engine = small_engine(urgent_tokens=5)
    background = answer(engine, [*PROMPT, 1], 3, priority=Priority.BACKGROUND)
    foreground = answer(engine, PROMPT, 20)
    while foreground.generated < 5:
        engine.step()
        assert background.computed == background.generated == 0
    while background.end is None:
        engine.step()
    assert foreground.end is None
    assert background.tokens == answer_alone(small_engine(), [*PROMPT, 1], 3)


def test_a_question_still_being_spoken_does_not_hold_background_work():
    engine = small_engine()
    engine.open(PROMPT)
    background = answer(engine, [1, 2, 3], 3, priority=Priority.BACKGROUND)
    finish(engine)
    assert background.end.reason == "stop"


def test_foreground_takes_the_slot_of_background_work_whose_answer_stays_the_same():
    engine = small_engine(slots=1, urgent_tokens=0, max_waiting=0)
    background = answer(engine, PROMPT, 12, priority=Priority.BACKGROUND)
    for _ in range(6):
        engine.step()
    assert background.generated
    foreground = answer(engine, [9, 8, 7], 4)
    finish(engine)
    assert engine.stats.preemptions == 1
    assert foreground.tokens == answer_alone(small_engine(), [9, 8, 7], 4)
    assert background.tokens == answer_alone(small_engine(), PROMPT, 12)


@MODES
def test_a_held_request_keeps_its_slot_and_goes_on_with_the_same_tokens(mode):
    want = answer_alone(small_engine(mode=mode), PROMPT, 12)
    engine = small_engine(mode=mode, slots=1)
    request = answer(engine, PROMPT, 12)
    while request.generated < 5:
        engine.step()
    engine.hold(request)
    assert finish(engine) == []  # the last token's keys and values are computed, nothing is chosen
    assert (request.generated, request.pending) == (5, 0)
    with pytest.raises(CapacityError):
        engine.open(PROMPT)
    engine.let_go(request)
    finish(engine)
    assert request.tokens == want


def test_a_held_request_does_not_hold_background_work_and_can_be_cancelled():
    engine = small_engine(urgent_tokens=20)
    foreground = answer(engine, PROMPT, 20)
    background = answer(engine, [1, 2, 3], 3, priority=Priority.BACKGROUND)
    while foreground.generated < 2:
        engine.step()
    engine.hold(foreground)
    finish(engine)
    assert background.end.reason == "stop"
    assert foreground.end is None
    engine.cancel(foreground)
    assert [event.request for event in engine.step()] == [foreground]


def test_promoted_work_is_served_before_those_who_came_later():
    engine = small_engine(slots=1, max_waiting=2)
    first = answer(engine, PROMPT, 3)
    beside = answer(engine, PROMPT[:5], 3, priority=Priority.BACKGROUND)
    later = answer(engine, [5, 6, 7], 3)
    engine.promote(beside)
    ended = [event.request for event in finish(engine) if isinstance(event, Ended)]
    assert ended == [first, beside, later]
    assert engine.stats.preemptions == 0


def test_a_long_prompt_does_not_stop_the_others():
    engine = small_engine(prefill_rows=8)
    first = answer(engine, PROMPT[:3], 40)
    engine.step()
    long = answer(engine, [n % 90 for n in range(200)], 2)
    while not long.generated:
        before = first.generated
        engine.step()
        assert first.generated == before + 1
    finish(engine)


def test_waiting_requests_are_served_in_order_and_counted():
    engine = small_engine(slots=1, max_waiting=1)
    first, second = answer(engine, PROMPT, 3), answer(engine, PROMPT[:4], 3)
    with pytest.raises(CapacityError, match="max_waiting 1"):
        engine.open(PROMPT)
    ended = [event.request for event in finish(engine) if isinstance(event, Ended)]
    assert ended == [first, second]


def test_a_place_is_kept_for_a_prompt_without_ids_until_it_is_cancelled():
    engine = small_engine(slots=1)
    request = engine.open()
    assert not engine.busy
    assert engine.step() == []
    with pytest.raises(CapacityError):
        engine.open(PROMPT)
    engine.cancel(request)
    assert [event.request for event in finish(engine)] == [request]
    assert answer_alone(engine, PROMPT, 2)


def test_an_answer_that_outgrows_its_slot_ends_with_the_reason():
    engine = small_engine(capacity=16)
    request = engine.open(PROMPT[:10])
    room = engine.room(request)
    engine.commit(request, Countdown(room + 1), Greedy())
    with pytest.raises(CapacityError, match="max_tokens"):
        list(engine.stream(request))
    assert request.end.reason == "capacity"
    assert request.generated == room
    assert len(answer_alone(engine, PROMPT[:10], room)) == room


def test_one_request_that_fails_does_not_take_others_with_it():
    class Failing(Greedy):
        def choose(self, index, scored, history):
            if index == 2:
                raise AqaaError("no finite logit")
            return super().choose(index, scored, history)

    engine = small_engine()
    fails, works = engine.open(PROMPT), answer(engine, PROMPT, 5)
    engine.commit(fails, Countdown(5), Failing())
    finish(engine)
    assert (fails.end.reason, fails.generated, str(fails.end.error)) == ("failed", 2, "no finite logit")
    assert works.end.reason == "stop"


def test_an_observer_sees_every_score():
    engine, seen = small_engine(), []
    request = engine.open(PROMPT)
    engine.commit(request, Countdown(3), Greedy(), observe=lambda index, scored: seen.append((index, scored)))
    finish(engine)
    assert [index for index, _ in seen] == [0, 1, 2]
    assert [int(np.argmax(scored[0][1])) for _, scored in seen] == list(request.tokens)


@pytest.mark.parametrize("bad", [-1, CONFIG.vocab_size])
def test_ids_outside_the_vocabulary_are_refused(bad):
    engine = small_engine()
    with pytest.raises(InvalidToken, match=str(bad)):
        engine.open([1, bad])
    request = engine.open([1])
    with pytest.raises(InvalidToken, match=str(bad)):
        engine.append(request, [bad])
    assert request.ids == [1]


def test_prompts_larger_than_a_slot_are_refused():
    engine = small_engine(capacity=16)
    request = engine.open(PROMPT[:16])
    with pytest.raises(CapacityError, match="17 ids"):
        engine.append(request, [1])


def test_misuse_is_named():
    engine = small_engine()
    with pytest.raises(ValueError, match="empty prompt"):
        engine.commit(engine.open(), Countdown(1), Greedy())
    with pytest.raises(ValueError, match="not committed"):
        next(engine.stream(engine.open(PROMPT)))
    request = answer(engine, PROMPT, 1)
    with pytest.raises(ValueError, match="committed"):
        engine.append(request, [1])


@pytest.mark.parametrize(
    "settings", [{"mode": "quick"}, {"slots": 0}, {"capacity": 4}, {"max_waiting": -1}, {"prefill_rows": 1}]
)
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        EngineSettings(**settings)
