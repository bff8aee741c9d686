"""The teachers, where they are installed: one answering voice, always the same, in whole groups."""

import numpy as np
import pytest

pytest.importorskip("hibari", reason="the teacher, hibari-tts, is not installed")

from training import voices
from training.domain import STYLES


@pytest.fixture(scope="module")
def voice() -> voices.AnswerVoice:
    return voices.AnswerVoice()


def test_reserved_voices_are_no_training_voice():
    trained = {
        "heart", *voices.KOKORO_ENGLISH, *voices.KOKORO_FOREIGN, *voices.KOKORO_JAPANESE, *voices.PICO,
        *voices.FLITE, *voices.FESTIVAL,
    }  # fmt: skip
    assert not trained & voices.RESERVED
    assert {"jm_kumo", "jf_alpha"} <= voices.RESERVED


def test_a_kokoro_speaker_is_of_one_sex_and_of_no_reserved_voice():
    questions = object.__new__(voices.KokoroQuestions)  # what speaks is not needed to choose who
    rng, trained = (
        np.random.default_rng(0),
        {*voices.KOKORO_ENGLISH, *voices.KOKORO_FOREIGN, *voices.KOKORO_JAPANESE},
    )
    speakers = [questions.speaker(rng) for _ in range(300)]
    for weights in speakers:
        assert len(weights) == 3
        assert set(weights) <= trained
        assert len({style[1] for style in weights}) == 1
        assert sum(weights.values()) == pytest.approx(1)
        assert all(-0.41 < weight < 1.81 for weight in weights.values())
    assert min(min(w.values()) for w in speakers) < -0.1 < 1.1 < max(max(w.values()) for w in speakers)


def test_a_stranger_lies_beyond_the_styles_of_its_sex():
    questions = object.__new__(voices.StrangerQuestions)
    rng = np.random.default_rng(0)
    strangers = [questions.stranger(rng) for _ in range(300)]
    assert {sex for sex, _ in strangers} == {"f", "m"}
    for sex, weights in strangers:
        assert {style[1] for style in weights} == {sex}
        assert not set(weights) & voices.RESERVED
        assert sum(weights.values()) == pytest.approx(1)
    # About the mean of its sex, as wide as was asked: 1 to 1.8 times the deviation of a draw from the styles.
    widths = [len(w) * np.var(list(w.values())) for _, w in strangers]
    assert min(widths) > 0.4
    assert 1.6 < np.mean(widths) < 2.4
    assert max(widths) < 9


def test_a_stranger_says_it_in_a_timbre_and_a_manner_of_its_own():
    heard = []

    class Kokoro:
        def say(self, text, blend, speed, manner, stray):
            heard.append((set(blend), set(manner), stray))
            return np.zeros(10, np.float32)

    questions = object.__new__(voices.StrangerQuestions)
    questions.kokoro = Kokoro()
    _, name = questions("hello", np.random.default_rng(1))
    ((blend, manner, stray),) = heard
    assert name.startswith("kokoro_stranger_")
    assert all(style in name for style in manner)
    assert len(manner) == 3
    assert len(blend) > 10
    assert stray.shape == (128,)
    assert 0 < np.linalg.norm(stray) <= 2


def test_every_style_of_the_domain_has_a_voice_state():
    assert {style for style in voices.VOICE_STATES if style} == set(STYLES)


def test_an_answer_is_the_same_each_time_and_whole_groups(voice):
    first, again = (voice("The cat sees a ball.", None) for _ in range(2))
    np.testing.assert_array_equal(first.pcm, again.pcm)
    np.testing.assert_array_equal(first.f0, again.f0)
    assert len(first.pcm) % 2880 == 0
    assert len(first.f0) == -(-len(first.pcm) // voices.HIBARI_HOP)
    assert np.abs(first.pcm).max() <= 1.0
    silence = first.pcm[: round(0.06 * voices.RATE) - voices.HIBARI_HOP]
    assert 0 < np.abs(silence).max() < 0.01  # dither, not digital zeros


def test_states_go_in_the_asked_direction(voice):
    said = {style: voice("The cat sees a ball.", style) for style in (None, *STYLES)}
    length = {style: len(r.pcm) for style, r in said.items()}
    pitch = {style: float(np.median(r.f0[r.f0 > 40])) for style, r in said.items()}
    level = {style: float(np.sqrt(np.mean(r.pcm**2))) for style, r in said.items()}
    assert length["slow"] > 1.15 * length[None] > 1.15 * 1.15 * length["fast"]
    assert pitch["high"] > 1.15 * pitch[None] > 1.15 * 1.15 * pitch["low"]
    assert level["loud"] > 1.4 * level[None] > 1.4 * 1.4 * level["soft"]
    np.testing.assert_array_equal(said["normal"].pcm, said[None].pcm)


def test_f0_stays_with_its_sound(voice):
    """Padding moves sound and F0 together: voiced frames are louder than the silence around them."""
    made = voice("Hello there.", None)
    frames = made.pcm[: len(made.f0) * voices.HIBARI_HOP]
    frames = np.pad(frames, (0, -len(frames) % voices.HIBARI_HOP)).reshape(-1, voices.HIBARI_HOP)
    level = np.sqrt((frames**2).mean(1))
    voiced = made.f0[: len(level)] > 40
    assert voiced.any()
    assert np.median(level[voiced]) > 10 * np.median(level[:3])
    assert not voiced[:3].any()


def test_the_span_of_speech():
    pcm = np.zeros(1000, np.float32)
    pcm[300:700] = 0.3
    assert voices.speech_span(pcm, 16000) == (300, 700)
    assert voices.speech_span(np.zeros(50, np.float32), 16000) == (0, 50)
