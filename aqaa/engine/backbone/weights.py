"""A step1 decoder's weights in the layout that decoding reads fastest: float32, fused, packed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from aqaa.engine.backbone.kernels import Product, RmsNorm
from aqaa.models.step1 import Step1, Step1Config

#: The head is padded to a multiple of this many ids: one cache line of logits, and no product for one id.
COLUMNS = 16


@dataclass(frozen=True)
class LayerWeights:
    """One layer. E is the width of a position's keys and values together.

    Attributes:
        input_norm, post_norm: D to D.
        query_key_value: D to D + E.
        attention_out: D to D.
        gate_up: D to 2I, gate first.
        down: I to D.
    """

    input_norm: RmsNorm
    query_key_value: Product
    attention_out: Product
    post_norm: RmsNorm
    gate_up: Product
    down: Product


@dataclass(frozen=True)
class DecoderWeights:
    """All weights of a decoder, as copies: the model may be dropped after `of`.

    Attributes:
        embeddings: (V, D).
        norm: the final one, D to D.
        head: (V, D) with V padded to COLUMNS; the logit scale is in it.
        slopes: (H,) of square-root ALiBi.
    """

    config: Step1Config
    embeddings: Tensor
    layers: tuple[LayerWeights, ...]
    norm: RmsNorm
    head: Tensor
    slopes: Tensor

    @classmethod
    @torch.inference_mode()
    def of(cls, model: Step1) -> "DecoderWeights":
        """Copy, convert to float32 and fuse the weights of a model."""

        def fused(*modules: torch.nn.Module) -> Product:
            # mypy knows a module's attributes only as Tensor | Module.
            return Product(torch.cat([module.get_parameter("weight") for module in modules]).float())

        def norm(module: torch.nn.Module) -> RmsNorm:
            return RmsNorm(_copy(module), model.config.rms_norm_eps)

        layers = []
        for layer in model.model.layers:
            attention, mlp = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
            layers.append(
                LayerWeights(
                    input_norm=norm(layer.get_submodule("input_layernorm")),
                    query_key_value=fused(*(attention.get_submodule(f"{n}_proj") for n in "qkv")),
                    attention_out=fused(attention.get_submodule("o_proj")),
                    post_norm=norm(layer.get_submodule("post_attention_layernorm")),
                    gate_up=fused(mlp.get_submodule("gate_proj"), mlp.get_submodule("up_proj")),
                    down=fused(mlp.get_submodule("down_proj")),
                )
            )
        config = model.config
        width = -(-config.vocab_size // COLUMNS) * COLUMNS
        head_VD = torch.zeros(width, config.hidden_size)
        head_VD[: config.vocab_size] = model.lm_head.weight.float() * config.logit_scale
        return cls(
            config=config,
            embeddings=_copy(model.model.embed_tokens),
            layers=tuple(layers),
            norm=norm(model.model.norm),
            head=head_VD,
            slopes=model.slopes().clone(),
        )


def _copy(module: torch.nn.Module) -> Tensor:
    return module.get_parameter("weight").detach().float().clone()
