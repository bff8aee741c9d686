"""A training that goes on from a published bundle instead of from nothing.

The bundle holds everything that an answer needs and nothing that only training needs: no optimiser, no CTC
head, no decoder of the semantic tokenizer. :func:`unpack` lays its weights out as the starting points of the
stages; a stage that finds one takes it up (``fit``, ``start``) and grows what is missing anew.

    python -m training.start models/nano work/nano             # every part may be trained on
    python -m training.start models/nano work/nano linguistic,flow  # but these are finished
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from training import linguistic, semantic
from training.backbone import BackboneTraining, CodedBackbone
from training.loop import save
from training.sequences import Language

PRODUCT = {"linguistic": "linguistic", "backbone": "sft1", "flow": "flow", "wave": "wave-supervised"}
"""Part → the stage whose product it is."""


def unpack(bundle: Path, folder: Path, finished: Sequence[str] = ()) -> None:
    """Weights of ``bundle`` as float32 starting points under ``folder/start``; those of ``finished`` parts
    also as their stage's product, so that it is not trained on. A finished backbone is what SFT-1 leaves; the
    refusal still follows it.

    The vocabulary and the semantic encoder are taken over as they are, finished: every code and every text id
    of the other parts depends on them. What only training needs is not in a bundle and stays random: the
    semantic decoder, of no use but to a flow without weights, and the CTC head of a finished linguistic part.

    Raises ValueError for a part that cannot be taken for finished.
    """
    unknown = [name for name in finished if name not in PRODUCT]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} cannot be taken for finished: {', '.join(PRODUCT)} can")
    (folder / "start").mkdir(parents=True, exist_ok=True)
    (folder / "text.model").write_bytes((bundle / "text.model").read_bytes())
    parts = {
        name: floats(bundle / f"{name}.safetensors") for name in ("linguistic", "backbone", "flow", "wave")
    }
    listener = parts["linguistic"]
    for ours, theirs in (("shift", "cmvn.shift"), ("scale", "cmvn.scale")):
        listener[ours] = listener.pop(theirs)
    for name, weights in parts.items():
        save(folder / "start" / f"{name}.pt", weights)
    for name in finished:
        whole = parts[name]
        if name == "linguistic":
            whole = linguistic.Listener().state_dict() | whole
        elif name == "backbone":
            model = CodedBackbone(Language(folder / "text.model"), BackboneTraining(), listener["centroids"])
            model.unfold(whole)
            whole = model.state_dict()
        save(folder / f"{PRODUCT[name]}.pt", whole)
    autoencoder = semantic.SemanticAutoencoder()
    autoencoder.encoder.load_state_dict(floats(bundle / "semantic.safetensors"))
    save(folder / "semantic.pt", autoencoder.state_dict())


def floats(path: Path) -> dict[str, Tensor]:
    return {name: value.float() for name, value in load_file(path).items()}


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(",") if len(sys.argv) > 3 else ())
