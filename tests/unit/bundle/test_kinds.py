"""A module kind leads to its network; a config that does not fit is refused with the field."""

from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec

import pytest
from torch import nn

from aqaa.bundle.kinds import KINDS, build, read_config
from aqaa.errors import BundleUnsupported


@dataclass(frozen=True)
class Inner:
    kernel: int
    dilations: tuple[int, ...] = (1, 3)


@dataclass(frozen=True)
class Outer:
    dim: int
    rate: float
    blocks: tuple[Inner, ...]
    pair: tuple[int, float] = (1, 2.0)
    name: str = "outer"

    def __post_init__(self) -> None:
        if self.dim % 2:
            raise ValueError(f"dim is {self.dim}, expected an even number")


OUTER = Outer(4, 0.5, (Inner(3), Inner(5, (1,))))


def test_a_config_comes_back_from_json_values() -> None:
    values = asdict(OUTER)
    values["blocks"] = [{"kernel": 3, "dilations": [1, 3]}, {"kernel": 5, "dilations": [1]}]
    assert read_config(Outer, values) == OUTER


def test_a_whole_number_may_stand_for_a_real_one() -> None:
    assert type(read_config(Outer, {"dim": 2, "rate": 1, "blocks": []}).rate) is float


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dim": "4"}, "Outer.dim is '4', expected int"),
        ({"dim": True}, "Outer.dim is True, expected int"),
        ({"wings": 2}, "Outer has no wings, expected"),
        ({"blocks": [{"kernel": 3, "wings": 2}]}, "Inner has no wings"),
        ({"blocks": [{"kernel": 3, "dilations": [1.5]}]}, "Inner.dilations is 1.5, expected int"),
        ({"pair": [1]}, "zip"),
        ({"dim": 3}, "dim is 3, expected an even number"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises((TypeError, ValueError), match=reason):
        read_config(Outer, asdict(OUTER) | change)


def test_an_unknown_kind_is_unsupported() -> None:
    with pytest.raises(BundleUnsupported, match="module kind 'mamba' is unknown, expected one of sanm-chunk"):
        build("mamba", {})


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_leads_to_a_network_and_its_config(name: str) -> None:
    kind = KINDS[name]
    if find_spec(kind.module) is None:
        pytest.skip(f"{kind.module} is not written yet")
    module = import_module(kind.module)
    assert issubclass(getattr(module, kind.network), nn.Module)
    assert isinstance(getattr(module, kind.config), type)


def test_a_network_is_built_from_the_sizes_of_a_manifest() -> None:
    network = build("nano-semantic", {"n_mels": 16, "dim": 8, "ahead": [1, 0], "levels": [2, 2]})
    assert network.config.codes == 4
