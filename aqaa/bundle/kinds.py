"""The registry of module kinds: the strings a manifest may use, what each computes, where its code lives."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from importlib import import_module
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from aqaa.errors import BundleUnsupported

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


class Role(Enum):
    """The place of a module in the chain from question to answer."""

    LINGUISTIC = "linguistic tokenizer"
    SEMANTIC = "semantic tokenizer"
    BACKBONE = "backbone"
    FLOW = "flow"
    WAVE = "wave head"


@dataclass(frozen=True)
class Kind:
    """A module that a manifest may name. ``module``, and so torch, is imported when it is built."""

    role: Role
    module: str
    network: str
    config: str


KINDS: Mapping[str, Kind] = {
    # the public family
    "sanm-chunk": Kind(Role.LINGUISTIC, "aqaa.models.linguistic", "LinguisticEncoder", "LinguisticConfig"),
    "whisper-vq": Kind(Role.SEMANTIC, "aqaa.models.semantic", "SemanticEncoder", "SemanticConfig"),
    "step1": Kind(Role.BACKBONE, "aqaa.models.step1", "Step1", "Step1Config"),
    "masked-diff-xvec": Kind(Role.FLOW, "aqaa.models.flow", "Flow", "FlowConfig"),
    "hift": Kind(Role.WAVE, "aqaa.models.hift", "HiftGenerator", "HiftConfig"),
    # beside them, for nano
    "nano-semantic": Kind(
        Role.SEMANTIC, "aqaa.models.nano_semantic", "NanoSemanticEncoder", "NanoSemanticConfig"
    ),
    "nano-flow": Kind(Role.FLOW, "aqaa.models.nano_flow", "NanoFlow", "NanoFlowConfig"),
    "nano-wave": Kind(Role.WAVE, "aqaa.models.nano_wave", "NanoWave", "NanoWaveConfig"),
}


def kinds_of(role: Role) -> tuple[str, ...]:
    """The kinds that can take a role, in the order of the registry."""
    return tuple(name for name, kind in KINDS.items() if kind.role is role)


def build(name: str, config: Mapping[str, Any]) -> Any:
    """The network of kind ``name`` with the sizes of ``config``, weights not loaded yet.

    Raises:
        BundleUnsupported: the kind is unknown, or ``config`` does not have the sizes that the kind needs.
    """
    if name not in KINDS:
        raise BundleUnsupported(f"module kind {name!r} is unknown, expected one of {', '.join(KINDS)}")
    kind = KINDS[name]
    module = import_module(kind.module)
    try:
        sizes = read_config(getattr(module, kind.config), config)
    except (TypeError, ValueError) as error:
        raise BundleUnsupported(f"config of module kind {name!r}: {error}") from error
    return getattr(module, kind.network)(sizes)


def read_config(config: type[Config], values: Mapping[str, Any]) -> Config:
    """A frozen config dataclass from JSON values; ``dataclasses.asdict`` is its inverse.

    Lists become tuples and objects become nested dataclasses, as the type of each field asks.

    Raises:
        TypeError: a field is missing or unknown, or its value has another type.
        ValueError: the dataclass refuses the values.
    """
    hints = get_type_hints(config)
    known = {field.name for field in fields(config) if field.init}
    if unknown := sorted(values.keys() - known):
        raise TypeError(f"{config.__name__} has no {', '.join(unknown)}, expected {', '.join(sorted(known))}")
    return config(
        **{key: _typed(f"{config.__name__}.{key}", hints[key], value) for key, value in values.items()}
    )


def _typed(place: str, hint: Any, value: Any) -> Any:
    """``value`` as the type that a field states."""
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        return read_config(hint, value)
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        given = get_args(hint)
        hints = repeat(given[0]) if given[-1] is Ellipsis else given
        return tuple(
            _typed(place, part, item) for part, item in zip(hints, value, strict=given[-1] is not Ellipsis)
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise TypeError(f"{place} is {value!r}, expected {hint.__name__}")
    return value
