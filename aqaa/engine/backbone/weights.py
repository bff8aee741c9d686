"""A step1 decoder's weights in the layout that decoding reads fastest: float32, fused, input-major."""

from dataclasses import dataclass

import torch
from torch import Tensor

from aqaa.models.step1 import Step1, Step1Config

#: Head columns are padded to a multiple of this many float32: one cache line, and no single-column products.
COLUMNS = 16


@dataclass(frozen=True)
class LayerWeights:
    """One layer, for products `x_ND @ w`. E is the width of a position's keys and values together.

    Attributes:
        input_norm, post_norm: (D,) RMSNorm weights.
        query_key_value: (D, D + E).
        attention_out: (D, D).
        gate_up: (D, 2I), gate first.
        down: (I, D).
    """

    input_norm: Tensor
    query_key_value: Tensor
    attention_out: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True)
class DecoderWeights:
    """All weights of a decoder, as copies: the model may be dropped after `of`.

    Attributes:
        embeddings: (V, D).
        norm: (D,) final RMSNorm weight.
        head: (D, V) with V padded to COLUMNS; the logit scale is in it.
        slopes: (H,) of square-root ALiBi.
    """

    config: Step1Config
    embeddings: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Tensor
    slopes: Tensor

    @classmethod
    @torch.inference_mode()
    def of(cls, model: Step1) -> "DecoderWeights":
        """Copy, convert to float32 and fuse the weights of a model."""

        def fused(*modules: torch.nn.Module) -> Tensor:
            # mypy knows a module's attributes only as Tensor | Module.
            return torch.cat([module.get_parameter("weight") for module in modules]).float().t().contiguous()

        layers = []
        for layer in model.model.layers:
            attention, mlp = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
            layers.append(
                LayerWeights(
                    input_norm=_copy(layer.get_submodule("input_layernorm")),
                    query_key_value=fused(*(attention.get_submodule(f"{n}_proj") for n in "qkv")),
                    attention_out=fused(attention.get_submodule("o_proj")),
                    post_norm=_copy(layer.get_submodule("post_attention_layernorm")),
                    gate_up=fused(mlp.get_submodule("gate_proj"), mlp.get_submodule("up_proj")),
                    down=fused(mlp.get_submodule("down_proj")),
                )
            )
        config = model.config
        width = -(-config.vocab_size // COLUMNS) * COLUMNS
        head_DV = torch.zeros(config.hidden_size, width)
        head_DV[:, : config.vocab_size] = model.lm_head.weight.float().t() * config.logit_scale
        return cls(
            config=config,
            embeddings=_copy(model.model.embed_tokens),
            layers=tuple(layers),
            norm=_copy(model.model.norm),
            head=head_DV,
            slopes=model.slopes().clone(),
        )


def _copy(module: torch.nn.Module) -> Tensor:
    return module.get_parameter("weight").detach().float().clone()
