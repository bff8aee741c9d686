"""Stage 4: the flow, from tokens of the answering voice to its mel, on windows cut as the vocoder cuts tiles.

The token encoder starts from the semantic tokenizer's own decoder. Windows may reach past both ends of a
segment, where there is no group, and carry no loss near their cut edges, which a tile would drop.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aqaa.models.nano_flow import FRAMES_PER_GROUP, NanoFlow, NanoFlowConfig
from training import features, semantic
from training.loop import LoopConfig, fit, folder_and_threads, starting_point
from training.speech import corpus_at, evenness
from training.tokens import GroupTable

NANO = NanoFlowConfig()


@dataclass(frozen=True)
class FlowTraining:
    window: int = 16  # groups
    edge: int = 1  # groups at a cut edge that carry no loss
    batch: int = 14
    prior: float = 0.5
    spoilt: float = 0.04  # share of codes replaced by others: the backbone errs too
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=4000, lr=1e-3, warmup=150, seed=41))
    continued: LoopConfig = field(default_factory=lambda: LoopConfig(steps=3600, lr=5e-4, warmup=50, seed=42))


class Windows:
    """Every answer's codes and 24 kHz PCM; mels are computed when drawn."""

    def __init__(self, folder: Path, config: FlowTraining) -> None:
        corpus, _ = corpus_at(str(folder))
        self.config = config
        self.groups = GroupTable(folder / "tokens" / "answers.npz")
        self.pcm: list[NDArray[np.int16]] = []
        for shard in corpus.shards("answers"):
            self.pcm += [(pcm * 32767).astype(np.int16) for _, pcm, _ in corpus.answers(shard)]
        often = evenness([spoken.text for spoken in corpus.spoken[: len(self.pcm)]])
        self.upto = (often / often.sum()).cumsum()

    def draw(self, rng: np.random.Generator) -> dict[str, Tensor]:
        c = self.config
        drawn = np.searchsorted(self.upto[:-1], rng.random(c.batch), side="right")
        rows = [self.window(int(row), rng) for row in drawn]
        codes = torch.from_numpy(np.stack([r[0] for r in rows]))
        mel = features.speaker_mel(torch.from_numpy(np.stack([r[1] for r in rows])))[:, 4:-4]
        weight = torch.from_numpy(np.stack([r[2] for r in rows])).repeat_interleave(FRAMES_PER_GROUP, 1)
        return {"linguistic": codes[..., :2], "semantic": codes[..., 2:], "mel": mel, "weight": weight}

    def window(
        self, row: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """(codes (W, 5), PCM with four frames more on each side, weight a group)."""
        c, groups = self.config, self.groups[row].astype(np.int64)
        total = len(groups)
        start = int(rng.integers(-3, max(-2, total - c.window + 4)))
        index = np.arange(start, start + c.window)
        inside = (index >= 0) & (index < total)
        codes = np.full((c.window, 5), -1, np.int64)
        codes[inside] = groups[index[inside]]
        for columns, size in ((slice(0, 2), 1024), (slice(2, 5), 4096)):
            hit = (rng.random(codes[:, columns].shape) < c.spoilt) & (codes[:, columns] >= 0)
            codes[:, columns][hit] = rng.integers(0, size, int(hit.sum()))
        weight = inside.astype(np.float32)
        if start > 0:
            weight[: c.edge] = 0
        if start + c.window < total:
            weight[-c.edge :] = 0
        first, size = start * 2880 - 960, c.window * 2880 + 1920
        pcm = np.zeros(size, np.float32)
        low, high = max(0, first), min(len(self.pcm[row]), first + size)
        pcm[low - first : high - first] = self.pcm[row][low:high].astype(np.float32) / 32768
        return codes, pcm, weight


def start_from_tokenizer(model: NanoFlow, folder: Path, windows: Windows) -> None:
    """Copies the semantic decoder into the token encoder; the voice constant is what it makes of the mean
    answer."""
    decoder = semantic.SemanticAutoencoder()
    decoder.load_state_dict(torch.load(folder / "semantic.pt", weights_only=True))
    source, tokens = decoder.decoder, model.tokens
    tokens.inp.load_state_dict(source.inp.state_dict())
    tokens.blocks.load_state_dict(source.blocks.state_dict())
    tokens.mel.load_state_dict(source.mel.state_dict())
    with torch.no_grad():
        tokens.linguistic.weight.mul_(0.02)
        drawn = [windows.draw(np.random.default_rng(k)) for k in range(6)]
        mels = torch.cat([batch["mel"][batch["weight"] > 0] for batch in drawn])
        tokens.voice.copy_(source.speaker(((mels - semantic.MEL_MEAN) / semantic.MEL_SCALE).mean(0)))


def train(folder: Path, config: FlowTraining = FlowTraining()) -> NanoFlow:
    windows = Windows(folder, config)
    torch.manual_seed(config.loop.seed)
    model = NanoFlow(NANO)
    start = starting_point(folder, "flow")
    if start is None:
        start_from_tokenizer(model, folder, windows)

    def losses(step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        batch = windows.draw(rng)
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(batch["mel"].shape, generator=generator)
        time = torch.rand(len(noise), generator=generator)
        time = 1 - torch.cos(time * torch.pi / 2)
        flow, prior = model.losses(
            batch["linguistic"], batch["semantic"], batch["mel"], noise, time, batch["weight"]
        )
        return {"total": flow + config.prior * prior, "flow": flow, "prior": prior * NANO.scale}

    loop = config.loop if start is None else config.continued
    fit("flow", model, losses, loop, folder, start=start)
    return model


if __name__ == "__main__":
    train(folder_and_threads(sys.argv))
