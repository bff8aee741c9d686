"""A training that goes on from a published bundle instead of from nothing.

The bundle holds everything that an answer needs and nothing that only training needs: no optimiser, no CTC
head, no decoder of the semantic tokenizer. :func:`unpack` lays its weights out as the starting points of the
stages; a stage that finds one takes it up (``fit``, ``start``) and grows what is missing anew.

    python -m training.start models/nano work/nano
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from training import semantic
from training.loop import save

LINGUISTIC, BACKBONE, FLOW, WAVE = "linguistic", "backbone", "flow", "wave"


def starting_point(folder: Path, name: str) -> dict[str, Tensor] | None:
    """The weights that ``name`` starts from, if a bundle was unpacked into ``folder``."""
    path = folder / "start" / f"{name}.pt"
    if not path.exists():
        return None
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)
    return weights


def unpack(bundle: Path, folder: Path) -> None:
    """Weights of ``bundle`` as float32 starting points under ``folder/start``.

    The vocabulary and the semantic encoder are taken over as they are, finished: every code and every text id
    of the other parts depends on them. The semantic decoder, of no use but to a flow without weights, is not
    in a bundle and stays random.
    """
    (folder / "start").mkdir(parents=True, exist_ok=True)
    (folder / "text.model").write_bytes((bundle / "text.model").read_bytes())
    parts = {name: floats(bundle / f"{name}.safetensors") for name in (LINGUISTIC, BACKBONE, FLOW, WAVE)}
    listener = parts[LINGUISTIC]
    for ours, theirs in (("shift", "cmvn.shift"), ("scale", "cmvn.scale")):
        listener[ours] = listener.pop(theirs)
    for name, weights in parts.items():
        save(folder / "start" / f"{name}.pt", weights)
    autoencoder = semantic.SemanticAutoencoder()
    autoencoder.encoder.load_state_dict(floats(bundle / "semantic.safetensors"))
    save(folder / "semantic.pt", autoencoder.state_dict())


def floats(path: Path) -> dict[str, Tensor]:
    return {name: value.float() for name, value in load_file(path).items()}


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
