"""The bundled model answers a spoken question: the whole chain in one process."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from aqaa.audio.decode import read_audio
from aqaa.engine.pipeline import Pipeline, Sounded, Understood
from aqaa.engine.vocoder import VocoderStream
from aqaa.tokens.classes import TokenClass

ROOT = Path(__file__).resolve().parents[2]
BUNDLE, QUESTION = ROOT / "models" / "nano", ROOT / "examples" / "question.wav"


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    torch.set_num_threads(2)  # what a process may have been told before
    return Pipeline.load(BUNDLE)


@pytest.fixture(scope="module")
def answer(pipeline):
    return pipeline.ask(read_audio(QUESTION), seed=3)


def listened(pipeline, pcm, edges, seed=3):
    """The turn of a question handed in at ``edges``: its ids, its PCM and the question as understood."""
    turn = pipeline.listen(seed=seed)
    for piece in np.split(pcm, edges):
        turn.push(piece)
    events = list(turn.finish())
    sound = np.concatenate([event.pcm for event in events if isinstance(event, Sounded)])
    (understood,) = (event.text for event in events if isinstance(event, Understood))
    return [token_id for token_id, _ in turn.answer_tokens], sound, understood


def test_one_thread_computes_unless_told_otherwise(pipeline):
    assert torch.get_num_threads() == 1


def test_an_answer_is_text_and_speech_of_the_same_length_as_its_groups(pipeline, answer):
    manifest = pipeline.manifest
    assert answer.answer_text.strip()
    assert answer.question_text.strip()
    assert answer.sample_rate == manifest.vocoder.sample_rate
    per_group = manifest.tokenizer.group_samples * answer.sample_rate // manifest.tokenizer.sample_rate
    assert len(answer.pcm) == per_group * sum(segment.groups for segment in answer.segments)
    assert answer.segments[0].start_sample == 0
    assert answer.segments[-1].end_sample == len(answer.pcm)
    assert np.isfinite(answer.pcm).all()
    assert 0.02 < np.abs(answer.pcm).max() <= 1.5


def test_the_counts_are_those_of_the_tokens(answer):
    kinds = [token_class for _, token_class in answer.answer_tokens]
    assert answer.tokens["text"] == kinds.count(TokenClass.TEXT)
    assert answer.tokens["linguistic"] * 3 == answer.tokens["semantic"] * 2
    assert answer.tokens["question"] == len(answer.question_tokens)
    assert kinds[-1] is TokenClass.EOT


def test_the_timeline_runs_forward(answer):
    line = answer.timeline
    assert 0 < line.heard <= line.thought <= line.first_audio <= line.done


def test_the_same_seed_gives_the_same_bits_for_any_chunking(pipeline):
    pcm = read_audio(QUESTION).samples
    assert read_audio(QUESTION).sample_rate == pipeline.manifest.tokenizer.sample_rate
    ids, sound, understood = listened(pipeline, pcm, [])
    edges = np.sort(np.random.default_rng(0).integers(0, len(pcm), 9))
    again_ids, again, understood_again = listened(pipeline, pcm, edges)
    assert ids == again_ids
    assert understood == understood_again
    assert np.array_equal(sound.view(np.uint32), again.view(np.uint32))


def test_turns_side_by_side_do_not_touch_each_other(pipeline):
    pcm = read_audio(QUESTION).samples
    alone = [listened(pipeline, part, []) for part in (pcm, pcm[: len(pcm) // 2])]
    turns = [pipeline.listen(seed=3), pipeline.listen(seed=3)]
    for turn, part in zip(turns, (pcm, pcm[: len(pcm) // 2]), strict=True):
        turn.push(part)
    readers = [turn.finish() for turn in turns]
    sounds: list[list[np.ndarray]] = [[], []]
    live = {0, 1}
    while live:
        for k in sorted(live):
            event = next(readers[k], None)
            if event is None:
                live.remove(k)
            elif isinstance(event, Sounded):
                sounds[k].append(event.pcm)
    for turn, (ids, sound, _), pieces in zip(turns, alone, sounds, strict=True):
        assert [token_id for token_id, _ in turn.answer_tokens] == ids
        assert np.array_equal(np.concatenate(pieces), sound)


def test_an_abandoned_turn_gives_its_slots_back(pipeline):
    pcm = read_audio(QUESTION).samples
    for _ in range(12):  # more than there are slots
        turn = pipeline.listen()
        turn.push(pcm)
        events = turn.finish()
        next(events)
        events.close()
    assert not pipeline.backbone.busy
    assert pipeline.ask(read_audio(QUESTION)).answer_text


def test_sound_is_computed_in_one_thread_that_is_not_the_backbones(pipeline, monkeypatch):
    seen = set()
    push = VocoderStream.push

    def watched(stream, codes):
        seen.add((threading.current_thread().name, torch.get_num_threads()))
        return push(stream, codes)

    monkeypatch.setattr(VocoderStream, "push", watched)
    pipeline.ask(read_audio(QUESTION), seed=3)
    ((name, threads),) = seen
    assert name.startswith("vocoder")
    assert threads == 1


def test_what_fails_in_the_vocoder_reaches_who_asked_and_the_next_turn_is_well(pipeline, answer, monkeypatch):
    class Broken(Exception):
        pass

    def broken(stream, codes):
        raise Broken

    with monkeypatch.context() as patch:
        patch.setattr(VocoderStream, "push", broken)
        with pytest.raises(Broken):
            pipeline.ask(read_audio(QUESTION), seed=3)
    assert np.array_equal(pipeline.ask(read_audio(QUESTION), seed=3).pcm, answer.pcm)


def test_a_text_is_said_in_the_style_that_is_asked(pipeline):
    plain, slow = (pipeline.say("The cat is on the table.", style=style) for style in (None, "slow"))
    assert plain.segments[0].style is None
    assert slow.segments[0].style == "slow"
    assert plain.answer_text == slow.answer_text == "The cat is on the table."
    assert not np.array_equal(plain.pcm, slow.pcm)
