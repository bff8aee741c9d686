"""What the tokenizer and the vocoder cost: seconds of computing for a second of audio, first PCM apart.

    python -m benchmarks.codec [--bundle models/nano] [--threads 1] [--seconds 12]

Without a bundle random weights of nano's sizes are used: the cost is the same. Wall time needs a machine
with nothing else to do; processor time, over all threads, stands beside it.
"""

import argparse
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from aqaa.audio.fbank import PARAFORMER
from aqaa.audio.lfr import Cmvn, LfrOptions
from aqaa.audio.whisper_mel import LogMelOptions
from aqaa.bundle import Bundle
from aqaa.engine.tiles import FrameGrid, TilePlan
from aqaa.engine.tokenizer import Tokenizer
from aqaa.engine.tokenizer.branches import NanoSemanticBranch, SanmBranch
from aqaa.engine.vocoder import Vocoder
from aqaa.engine.vocoder.parts import NanoHead, NanoSolver
from aqaa.models.linguistic import LinguisticConfig, LinguisticEncoder
from aqaa.models.nano_flow import NanoFlow, NanoFlowConfig
from aqaa.models.nano_semantic import NanoSemanticConfig, NanoSemanticEncoder
from aqaa.models.nano_wave import NanoWave, NanoWaveConfig

HOP = 7680
GROUP_SECONDS = 0.12


def untrained() -> tuple[Tokenizer, Vocoder]:
    """Nano's sizes with random weights."""
    torch.manual_seed(0)
    listening = LinguisticConfig(dim=256, heads=4, ff_dim=1024, blocks=5, chunk_frames=8, overlap_frames=4)
    cmvn = Cmvn(np.full(560, -8, np.float32), np.full(560, 0.2, np.float32))
    hearing = NanoSemanticConfig()
    mel = LogMelOptions(floor=hearing.floor)
    tokenizer = Tokenizer(
        SanmBranch(
            PARAFORMER, LfrOptions(chunk=8), cmvn, LinguisticEncoder(listening).eval(), torch.randn(1024, 256)
        ),
        NanoSemanticBranch(NanoSemanticEncoder(hearing).eval(), mel, HOP // mel.hop),
        sample_rate=16000,
        hop_samples=HOP,
        group_linguistic=2,
        group_semantic=3,
    )
    vocoder = Vocoder(
        "00" * 32,
        TilePlan((3, 3, 6, 12), 3, 2, (8, 11, 17)),
        NanoSolver(NanoFlow(NanoFlowConfig()).eval(), FrameGrid(Fraction(12)), steps=4),
        NanoHead(NanoWave(NanoWaveConfig()).eval()),
        (1024,) * 2 + (4096,) * 3,
    )
    return tokenizer, vocoder


def cost(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of one run, after one that warms up."""
    run()
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the cost of the tokenizer and the vocoder.")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--threads", type=int, default=1, help="of a pass")
    parser.add_argument("--seconds", type=float, default=12.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.bundle:
        bundle = Bundle.open(options.bundle)
        tokenizer, vocoder = Tokenizer.load(bundle), Vocoder.load(bundle)
    else:
        tokenizer, vocoder = untrained()
    rng = np.random.default_rng(0)
    pcm = rng.uniform(-0.5, 0.5, int(options.seconds * tokenizer.sample_rate)).astype(np.float32)
    count = int(options.seconds / GROUP_SECONDS)
    groups = np.stack([rng.integers(0, size, count) for size in vocoder.codebooks], axis=1)
    first = groups[: vocoder.plan.needs(0)]
    print(f"{options.threads} threads, {options.seconds:g} s of audio: seconds a second, wall / processor")
    for name, run, seconds in (
        ("tokenizer", lambda: tokenizer.tokenize(pcm), options.seconds),
        ("vocoder", lambda: vocoder.synthesize(groups, seed=1), options.seconds),
        ("first PCM (s)", lambda: vocoder.stream(seed=1).push(first), 1.0),
    ):
        wall, processor = cost(run)
        print(f"{name:14} {wall / seconds:6.3f} / {processor / seconds:6.3f}")


if __name__ == "__main__":
    main()
