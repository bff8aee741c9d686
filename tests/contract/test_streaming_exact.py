"""Streaming is the definition: tokens and PCM are the same bits for any arrival, any cut, any process.

Run as a program this file is the other process: it rebuilds both engines from the saved weights, resumes from
every restart state it is given and writes down what it hears.
"""

import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from aqaa.audio.fbank import PARAFORMER
from aqaa.audio.lfr import Cmvn, LfrOptions
from aqaa.audio.whisper_mel import LogMelOptions
from aqaa.engine.tiles import FrameGrid, TilePlan
from aqaa.engine.tokenizer import Tokenizer
from aqaa.engine.tokenizer.branches import NanoSemanticBranch, SanmBranch
from aqaa.engine.vocoder import PcmChunk, Restart, Vocoder
from aqaa.engine.vocoder.parts import NanoHead, NanoSolver
from aqaa.models.linguistic import LinguisticConfig, LinguisticEncoder
from aqaa.models.nano_flow import NanoFlow, NanoFlowConfig
from aqaa.models.nano_semantic import NanoSemanticConfig, NanoSemanticEncoder
from aqaa.models.nano_wave import NanoWave, NanoWaveConfig

LINGUISTIC = LinguisticConfig(dim=64, heads=4, ff_dim=128, blocks=2, chunk_frames=8, overlap_frames=4)
SEMANTIC = NanoSemanticConfig(dim=64)
FLOW = NanoFlowConfig(dim=64, token_blocks=2, outer_blocks=1, inner_blocks=1, time_dim=64, temperature=0.7)
WAVE = NanoWaveConfig(dim=64, blocks=3)
PLAN = TilePlan((3, 3, 6, 12), 3, 2, (8, 11, 17))
DIGEST = "5a" * 32
HOP = 7680
GROUPS = 40
SEED, SEGMENT = 2**63 + 11, 3


@dataclass(frozen=True)
class Engines:
    tokenizer: Tokenizer
    vocoder: Vocoder


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "linguistic": LinguisticEncoder(LINGUISTIC),
        "semantic": NanoSemanticEncoder(SEMANTIC),
        "flow": NanoFlow(FLOW),
        "wave": NanoWave(WAVE),
    }


def engines(folder: Path) -> Engines:
    parts = networks()
    for name, part in parts.items():
        part.load_state_dict(load_file(folder / f"{name}.safetensors"))
        part.eval()
    centroids = torch.tensor(np.random.default_rng(1).normal(size=(256, LINGUISTIC.dim)), dtype=torch.float32)
    cmvn = Cmvn(np.full(560, -8, np.float32), np.full(560, 0.2, np.float32))
    mel = LogMelOptions(floor=SEMANTIC.floor)
    return Engines(
        Tokenizer(
            SanmBranch(PARAFORMER, LfrOptions(chunk=8), cmvn, parts["linguistic"], centroids),
            NanoSemanticBranch(parts["semantic"], mel, HOP // mel.hop),
            sample_rate=16000,
            hop_samples=HOP,
            group_linguistic=2,
            group_semantic=3,
        ),
        Vocoder(
            DIGEST,
            PLAN,
            NanoSolver(parts["flow"], FrameGrid(Fraction(12)), steps=2),
            NanoHead(parts["wave"]),
            (1024, 1024, 4096, 4096, 4096),
        ),
    )


def question() -> np.ndarray:
    rng = np.random.default_rng(5)
    loudness = np.repeat(rng.uniform(0, 0.4, 40), 700)
    return (rng.normal(size=len(loudness)) * loudness).clip(-1, 1).astype(np.float32)


def answer() -> np.ndarray:
    rng = np.random.default_rng(6)
    return np.hstack((rng.integers(0, 1024, (GROUPS, 2)), rng.integers(0, 4096, (GROUPS, 3))))


def sound(chunks: list[PcmChunk]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.float32), *(chunk.pcm for chunk in chunks)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for name, part in networks().items():
        save_file(part.state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def here(folder: Path) -> Engines:
    return engines(folder)


@pytest.fixture(scope="module")
def undisturbed(here: Engines) -> list[PcmChunk]:
    stream = here.vocoder.stream(SEED, SEGMENT)
    return stream.push(answer()) + stream.finish()


@settings(deadline=None, max_examples=10)
@given(cuts=st.lists(st.integers(0, 28000), max_size=30), level=st.sampled_from(["normalised", "kept"]))
def test_tokens_of_a_stream_are_those_of_the_file(here, cuts, level):
    stream = here.tokenizer.stream(level)
    heard = [stream.push(piece) for piece in np.split(question(), sorted(cuts))]
    assert np.array_equal(
        np.concatenate([*heard, stream.finish()]), here.tokenizer.tokenize(question(), level)
    )


@settings(deadline=None, max_examples=6)
@given(cuts=st.lists(st.integers(0, GROUPS), max_size=12))
def test_pcm_does_not_depend_on_how_groups_arrive(here, undisturbed, cuts):
    stream = here.vocoder.stream(SEED, SEGMENT)
    chunks = [c for part in np.split(answer(), sorted(cuts)) for c in stream.push(part)] + stream.finish()
    assert [len(c.pcm) for c in chunks] == [len(c.pcm) for c in undisturbed]
    assert np.array_equal(sound(chunks), sound(undisturbed))
    assert [c.before for c in chunks] == [c.before for c in undisturbed]


def test_a_segment_has_exactly_its_groups_samples(undisturbed):
    assert len(sound(undisturbed)) == GROUPS * 2880
    assert np.abs(sound(undisturbed)).max() > 0.05


@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "backwards"])
def test_a_fresh_process_goes_on_from_every_cut(folder, here, undisturbed, backwards):
    """At every chunk's edge and inside each chunk; twice, so that no cut profits from the one before it."""
    states = [c.before for c in undisturbed] + [undisturbed[-1].after]
    states += [c.before.at(c.start + len(c.pcm) * k // 7) for c in undisturbed for k in (1, 4)]
    states = states[::-1] if backwards else states
    (folder / "states").write_bytes(b"".join(state.to_bytes() for state in states))
    program = [sys.executable, __file__, str(folder), str(torch.get_num_threads())]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = sound(undisturbed)
    with np.load(folder / "heard.npz") as heard:
        assert np.array_equal(heard["tokens"], here.tokenizer.tokenize(question()))
        for number, state in enumerate(states):
            assert np.array_equal(heard[f"pcm{number}"], whole[state.sample :]), state


def main(folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    there = engines(folder)
    heard = {"tokens": there.tokenizer.tokenize(question())}
    raw = (folder / "states").read_bytes()
    size = len(Restart(DIGEST, 0, 0, 0, 0, 0).to_bytes())
    for number, start in enumerate(range(0, len(raw), size)):
        stream = there.vocoder.resume(Restart.from_bytes(raw[start : start + size]))
        heard[f"pcm{number}"] = sound(stream.push(answer()) + stream.finish())
    np.savez(folder / "heard.npz", **heard)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
