"""Audio groups on the wire: how many there are, and those from one on."""

from collections.abc import Sequence
from itertools import chain, repeat

from aqaa.errors import InvalidToken
from aqaa.v1.tokens_pb2 import AudioGroups

GROUP_SECONDS = 0.12
_LINGUISTIC, _SEMANTIC = 2, 3  # codes of a group, as tokens.proto says


def count(groups: AudioGroups) -> int:
    """Whole groups. Raises InvalidToken for codes that make none."""
    number = len(groups.linguistic) // _LINGUISTIC
    if (len(groups.linguistic), len(groups.semantic)) != (number * _LINGUISTIC, number * _SEMANTIC):
        raise InvalidToken(
            f"{len(groups.linguistic)} linguistic and {len(groups.semantic)} semantic codes, expected "
            f"{_LINGUISTIC} and {_SEMANTIC} for each group"
        )
    return number


def since(groups: AudioGroups, first: int) -> AudioGroups:
    """Those from group ``first`` on, which is not before the first one."""
    skip = first - groups.first_group
    return AudioGroups(
        first_group=first,
        linguistic=groups.linguistic[skip * _LINGUISTIC :],
        semantic=groups.semantic[skip * _SEMANTIC :],
    )


def tile_end(sizes: Sequence[int], group: int) -> int:
    """The end of the tile that says a group. ``sizes``: of a segment's tiles; the last one repeats."""
    end = 0
    for size in chain(sizes, repeat(sizes[-1])):
        end += size
        if end > group:
            break
    return end


def group_at(sample: int, sample_rate_hz: int) -> int:
    """The group whose sound begins nearest to a sample of its segment."""
    return round(sample / (GROUP_SECONDS * sample_rate_hz))
