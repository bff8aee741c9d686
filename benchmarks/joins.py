"""How audible the joins of tiles are: curvature of the wave where tiles and chunks meet, against elsewhere.

    python -m benchmarks.joins --bundle models/nano SPEECH.wav [SPEECH.wav ...]

Each file is tokenized at its own level and spoken again. 1 means that the wave bends at a join as it does
around it. The same measure at as many random places says what chance makes of it.
"""

import argparse
from pathlib import Path

import numpy as np

from aqaa.audio.decode import AudioLimits, read_audio
from aqaa.audio.resample import resample
from aqaa.bundle import Bundle
from aqaa.engine.tokenizer import Tokenizer
from aqaa.engine.vocoder import Vocoder
from aqaa.engine.vocoder.joins import join_discontinuity


def measure(vocoder: Vocoder, groups: np.ndarray, seed: int) -> dict[str, float]:
    """The discontinuity at chunk edges, where tiles' mels begin to fade, where they end, and by chance."""
    stream = vocoder.stream(seed)
    chunks = stream.push(groups) + stream.finish()
    pcm = np.concatenate([chunk.pcm for chunk in chunks])
    plan, hop = vocoder.plan, vocoder.head.hop
    starts = [vocoder.grid.edge(plan.start(k)) for k in range(1, plan.count(len(groups)))]
    chance = np.random.default_rng(seed).integers(0, len(pcm), 50 * max(1, len(starts)))
    return {
        "chunk edges": join_discontinuity(pcm, [chunk.start for chunk in chunks[1:]]),
        "tile starts": join_discontinuity(pcm, [frame * hop for frame in starts]),
        "fade ends": join_discontinuity(pcm, [(frame + vocoder.fade_frames) * hop for frame in starts]),
        "random places": join_discontinuity(pcm, chance.tolist()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the joins of the tiled vocoder.")
    parser.add_argument("speech", type=Path, nargs="+")
    parser.add_argument("--bundle", type=Path, default=Path("models/nano"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    tokenizer, vocoder = Tokenizer.load(bundle), Vocoder.load(bundle)
    rows = []
    for path in options.speech:
        audio = read_audio(path, AudioLimits(max_seconds=600))
        pcm = resample(audio.samples, audio.sample_rate, tokenizer.sample_rate)
        rows.append(measure(vocoder, tokenizer.tokenize(pcm, "kept"), options.seed))
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        print(
            f"{name:14} mean {np.nanmean(values):6.2f}   worst {np.nanmax(values):6.2f}   files {len(rows)}"
        )


if __name__ == "__main__":
    main()
