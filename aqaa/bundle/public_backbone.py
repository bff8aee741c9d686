"""Reads the decoder of a public Step-Audio checkpoint: sharded safetensors found through their index file."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from aqaa.errors import BundleCorrupt, BundleUnsupported
from aqaa.models.step1 import Step1, Step1Config, alibi_slopes

INDEX_NAME = "model.safetensors.index.json"

#: Where some checkpoints of the family keep the decoder, beside a vision tower.
DECODER_PREFIX = "language_model."

#: Tensors of the vision tower; AQAA reads text and audio, so they are left on disk.
SKIPPED_PREFIXES = ("vision_model.", "vit_downsampler.", "vit_downsampler2.", "vit_large_projector.")

_SHOWN = 5


@dataclass(frozen=True)
class RankRanges:
    """What one tensor-parallel rank holds: half-open ranges of rows, columns and heads."""

    rank: int
    q_heads: tuple[int, int]
    kv_groups: tuple[int, int]
    q_proj_rows: tuple[int, int]
    k_proj_rows: tuple[int, int]
    v_proj_rows: tuple[int, int]
    o_proj_cols: tuple[int, int]
    gate_up_rows: tuple[int, int]
    down_cols: tuple[int, int]
    slopes: tuple[float, ...]
    embed_and_lm_head_rows: tuple[int, int]


def tensor_parallel_ranges(config: Step1Config, ranks: int) -> tuple[RankRanges, ...]:
    """Cut a decoder into `ranks` equal parts, heads contiguous a rank.

    Raises:
        BundleUnsupported: a size that `ranks` does not divide.
    """
    sizes = {
        "num_attention_groups": config.num_attention_groups,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
    }
    for name, size in sizes.items():
        if ranks < 1 or size % ranks:
            raise BundleUnsupported(
                f"tensor parallel: {name} is {size}, expected a multiple of {ranks} ranks"
            )
    slopes = alibi_slopes(config.num_attention_heads, config.max_pos_interp_ratio)

    def part(total: int, rank: int) -> tuple[int, int]:
        return rank * total // ranks, (rank + 1) * total // ranks

    result = []
    for rank in range(ranks):
        heads = part(config.num_attention_heads, rank)
        groups = part(config.num_attention_groups, rank)
        head_units = heads[0] * config.head_dim, heads[1] * config.head_dim
        group_units = groups[0] * config.head_dim, groups[1] * config.head_dim
        inner = part(config.intermediate_size, rank)
        result.append(
            RankRanges(
                rank=rank,
                q_heads=heads,
                kv_groups=groups,
                q_proj_rows=head_units,
                k_proj_rows=group_units,
                v_proj_rows=group_units,
                o_proj_cols=head_units,
                gate_up_rows=inner,
                down_cols=inner,
                slopes=tuple(slopes[slice(*heads)]),
                embed_and_lm_head_rows=part(config.vocab_size, rank),
            )
        )
    return tuple(result)


def decoder_shapes(config: Step1Config) -> dict[str, tuple[int, ...]]:
    """Every tensor name of a decoder with its shape; allocates nothing, whatever the size."""
    with torch.device("meta"):
        model = Step1(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def read_config(directory: Path) -> Step1Config:
    """The `config.json` of a checkpoint.

    Raises:
        BundleCorrupt: the file is missing or is not JSON.
        BundleUnsupported: it describes another kind of model.
    """
    return Step1Config.from_dict(_read_json(directory / "config.json"))


def locate_tensors(directory: Path, config: Step1Config) -> dict[str, tuple[str, Path]]:
    """Where each decoder tensor lies: name → (name in the file, file). Opens the index, no shard.

    Raises:
        BundleCorrupt: the index is missing or malformed, a decoder tensor is not in it, or a shard is absent.
        BundleUnsupported: it lists tensors that are neither the decoder's nor a known vision tower's.
    """
    weight_map = _read_json(directory / INDEX_NAME).get("weight_map")
    if not isinstance(weight_map, Mapping):
        raise BundleCorrupt(f"{directory / INDEX_NAME}: no weight_map, expected tensor name → shard file")
    wanted = decoder_shapes(config)
    found: dict[str, tuple[str, Path]] = {}
    unknown = []
    for stored, shard in weight_map.items():
        name = stored.removeprefix(DECODER_PREFIX)
        if name in wanted:
            # The index comes from outside: a shard is a plain name beside it, never a path elsewhere.
            if not isinstance(shard, str) or Path(shard).name != shard:
                raise BundleCorrupt(f"{directory / INDEX_NAME}: shard {shard!r}, expected a plain file name")
            found[name] = stored, directory / shard
        elif not name.startswith(SKIPPED_PREFIXES):
            unknown.append(stored)
    if missing := wanted.keys() - found.keys():
        raise BundleCorrupt(f"{directory / INDEX_NAME}: no tensor named {_some(missing)}")
    if unknown:
        raise BundleUnsupported(
            f"{directory / INDEX_NAME}: unknown tensors {_some(unknown)}; "
            f"expected the decoder's and, at most, {', '.join(SKIPPED_PREFIXES)}"
        )
    if absent := {str(path) for _, path in found.values() if not path.is_file()}:
        raise BundleCorrupt(f"shard files missing: {_some(absent)}")
    return found


def load_public_backbone(directory: Path, *, dtype: torch.dtype | None = None) -> Step1:
    """Load a decoder, in evaluation mode, on the CPU.

    Args:
        directory: holds `config.json`, the index and its shards.
        dtype: convert every tensor to it; None keeps the stored one (bfloat16 in public checkpoints).

    Raises:
        BundleCorrupt, BundleUnsupported: as above, or a tensor whose shape differs.
    """
    config = read_config(directory)
    shapes = decoder_shapes(config)
    by_shard: dict[Path, list[tuple[str, str]]] = {}
    for name, (stored, path) in locate_tensors(directory, config).items():
        by_shard.setdefault(path, []).append((name, stored))
    state: dict[str, torch.Tensor] = {}
    for path, names in by_shard.items():
        try:
            with safe_open(path, framework="pt") as shard:
                for name, stored in names:
                    tensor = shard.get_tensor(stored)
                    if tuple(tensor.shape) != shapes[name]:
                        raise BundleCorrupt(
                            f"{path}: {stored} has shape {tuple(tensor.shape)}, expected {shapes[name]}"
                        )
                    state[name] = tensor if dtype is None else tensor.to(dtype)
        except SafetensorError as error:
            raise BundleCorrupt(f"{path}: {error}") from error
    with torch.device("meta"):
        model = Step1(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BundleCorrupt(f"{path}: no such file") from error
    except ValueError as error:
        raise BundleCorrupt(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BundleCorrupt(f"{path}: holds a JSON {type(content).__name__}, expected an object")
    return content


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
