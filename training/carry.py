"""Between stages 1 and 4, where training goes on from a bundle: rows of the old codes become rows of the new.

A linguistic tokenizer that has learned more voices says other codes of the same sound. Both tokenizers hear
the same clips; what backbone and flow know of a new code is the mean of what they knew of the old ones that
were said in its place, weighted by how often.

    python -m training.carry work/nano
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from training import features
from training.linguistic import CODES, Listener
from training.loop import folder_and_threads, save, starting_point, weights_of
from training.sequences import Language
from training.speech import corpus_at

CLIPS = 1200  # of questions, and as many of answers: about 80 codes a centroid


def together(old: Listener, new: Listener, clips: list[np.ndarray]) -> Tensor:
    """(new code, old code) counts over 16 kHz clips."""
    counts = torch.zeros(CODES, CODES)
    with torch.inference_mode():
        for pcm in clips:
            row = torch.from_numpy(np.pad(pcm, (0, -len(pcm) % 1920)).astype(np.float32))[None]
            fbank, frames = features.fbank(features.causal_gain(row)), torch.tensor([row.shape[1] // 960])
            said = [model.codes(model.states(fbank, frames))[0] for model in (new, old)]
            counts.index_put_(tuple(said), torch.ones(len(said[0])), accumulate=True)
    return counts


def carried(rows: Tensor, counts: Tensor) -> Tensor:
    """(codes, D) rows of the new codes; a code that was never said keeps the row of its number."""
    heard = counts.sum(1, keepdim=True)
    return torch.where(heard > 0, counts @ rows / heard.clamp(min=1), rows)


def carry(folder: Path) -> None:
    """Rewrites the starting points of backbone and flow, and the tokenizer's as the one that they now follow:
    done again, it changes nothing but last bits."""
    start = {name: starting_point(folder, name) for name in ("linguistic", "backbone", "flow")}
    linguistic, backbone, flow = (start[name] for name in ("linguistic", "backbone", "flow"))
    if linguistic is None or backbone is None or flow is None:
        raise FileNotFoundError(f"no starting points in {folder}; run training.start first")
    old, new = Listener().eval(), Listener().eval()
    old.load_state_dict(linguistic, strict=False)
    new.load_state_dict(weights_of(folder, "linguistic"))
    counts = together(old, new, some_clips(folder))
    base = Language(folder / "text.model").layout.audio_base
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        backbone[name][base : base + CODES] = carried(backbone[name][base : base + CODES], counts)
    for name, table in flow.items():
        if name.startswith("tokens.linguistic"):
            flow[name] = torch.cat((carried(table[:CODES], counts), table[CODES:]))
    new_codes = {
        name: value for name, value in weights_of(folder, "linguistic").items() if name in linguistic
    }
    for name, weights in (("backbone", backbone), ("flow", flow), ("linguistic", new_codes)):
        save(folder / "start" / f"{name}.pt", weights)
    same = float(counts.diagonal().sum() / counts.sum())
    print(f"{int(counts.sum())} codes heard twice, {same:.1%} of them the same; rows carried over")


def some_clips(folder: Path) -> list[np.ndarray]:
    corpus, _ = corpus_at(str(folder))
    clips: list[np.ndarray] = []
    for shard in corpus.shards("questions"):
        clips += [pcm for _, pcm, _ in corpus.questions("questions", shard)]
        if len(clips) >= CLIPS:
            break
    for shard in corpus.shards("answers"):
        clips += [soxr.resample(pcm, 24000, 16000) for _, pcm, _ in corpus.answers(shard)]
        if len(clips) >= 2 * CLIPS:
            break
    return clips


if __name__ == "__main__":
    carry(folder_and_threads(sys.argv))
