"""The registry of module kinds: the strings a manifest may use, what each computes, where its code lives."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Any

from aqaa.errors import BundleUnsupported


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
    "hift": Kind(Role.WAVE, "aqaa.models.hift", "Hift", "HiftConfig"),
    # beside them, for nano
    "nano-semantic": Kind(Role.SEMANTIC, "aqaa.models.nano_semantic", "NanoSemantic", "NanoSemanticConfig"),
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
        sizes = getattr(module, kind.config)(**{key: _frozen(value) for key, value in config.items()})
    except (TypeError, ValueError) as error:
        raise BundleUnsupported(f"config of module kind {name!r}: {error}") from error
    return getattr(module, kind.network)(sizes)


def _frozen(value: Any) -> Any:
    """JSON has lists only; configs are frozen dataclasses that hold tuples."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
