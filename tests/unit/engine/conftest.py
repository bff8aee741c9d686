"""A bundle with nano's tokenizer and vocoder, small and untrained."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from nano_cases import FLOW, WAVE
from safetensors.torch import save_file

from aqaa.bundle import Bundle, write_manifest
from aqaa.models.linguistic import LinguisticConfig, LinguisticEncoder
from aqaa.models.nano_flow import NanoFlow
from aqaa.models.nano_semantic import NanoSemanticConfig, NanoSemanticEncoder
from aqaa.models.nano_wave import NanoWave

LINGUISTIC = LinguisticConfig(dim=8, heads=2, ff_dim=8, blocks=1, chunk_frames=8, overlap_frames=4)
SEMANTIC = NanoSemanticConfig(n_mels=8, dim=8, levels=(4, 3))


@pytest.fixture
def codec_bundle(tmp_path: Path, fields: dict[str, Any]) -> Callable[..., Bundle]:
    """Writes and opens the bundle; changes are made to the manifest's fields and to the weights first."""

    def make(
        change: Callable[[dict[str, Any]], None] = lambda fields: None,
        spoil: Callable[[dict[str, dict[str, torch.Tensor]]], None] = lambda weights: None,
    ) -> Bundle:
        torch.manual_seed(0)
        encoder = LinguisticEncoder(LINGUISTIC)
        weights: dict[str, dict[str, torch.Tensor]] = {
            "linguistic": {f"encoder.{name}": t for name, t in encoder.state_dict().items()}
            | {
                "centroids": torch.randn(10, LINGUISTIC.dim),
                "cmvn.shift": torch.zeros(560),
                "cmvn.scale": torch.full((560,), 0.1),
            },
            "semantic": NanoSemanticEncoder(SEMANTIC).state_dict(),
            "flow": NanoFlow(FLOW).state_dict(),
            "wave": NanoWave(WAVE).state_dict(),
        }
        sizes = {"linguistic": LINGUISTIC, "semantic": SEMANTIC, "flow": FLOW, "wave": WAVE}
        module = {name: {"config": asdict(config)} for name, config in sizes.items()}
        for name, part in module.items():
            part["files"] = {"weights": f"{name}.safetensors"}
        fields["layout"] = {"audio_base": 20, "linguistic_codes": 10, "semantic_codes": 12, "vocab_size": 42}
        fields["silence"] = {}
        fields["tokenizer"] = {
            "hop_samples": 7680,
            "linguistic": {"kind": "sanm-chunk", **module["linguistic"]},
            "semantic": {"kind": "nano-semantic", **module["semantic"]},
        }
        fields["backbone"]["files"] = {"weights": "text.model"}
        fields["vocoder"] |= {
            "sample_rate": WAVE.sample_rate,
            "mel_hop": WAVE.hop,
            "mel_bins": WAVE.n_mels,
            "flow": {"kind": "nano-flow", **module["flow"]},
            "wave": {"kind": "nano-wave", **module["wave"]},
        }
        change(fields)
        spoil(weights)
        (tmp_path / "text.model").write_bytes(b"pieces")
        for name, tensors in weights.items():
            save_file(tensors, tmp_path / f"{name}.safetensors")
        names = ["text.model", *(f"{name}.safetensors" for name in weights)]
        write_manifest(tmp_path, fields, licences=dict.fromkeys(names, "Apache-2.0"))
        return Bundle.open(tmp_path)

    return make
