"""Audio groups of the wire as ids, every code checked."""

from collections.abc import Sequence

from aqaa.errors import InvalidToken
from aqaa.v1 import tokens_pb2
from services.llm.faults import fault
from services.llm.language import Language


def read_groups(language: Language, groups: tokens_pb2.AudioGroups, field: str, *, first: int) -> list[int]:
    """The ids of whole groups.

    Args:
        field: the message's place in the request, for errors.
        first: the place that its first group must have.

    Raises:
        InvalidRequest: a gap, a repetition, or parts of a group.
        InvalidToken: a code that its codebook does not have.
    """
    if groups.first_group != first:
        raise fault(f"{field}.first_group", f"is {groups.first_group}, expected {first}: groups leave no gap")
    ratios, layout = language.ratios, language.layout
    count = ratios.group_count(len(groups.linguistic), len(groups.semantic))
    for name, codes, size in (
        ("linguistic", groups.linguistic, ratios.linguistic),
        ("semantic", groups.semantic, ratios.semantic),
    ):
        if len(codes) != count * size:
            raise fault(f"{field}.{name}", f"{len(codes)} codes, expected {size} for each of {count} groups")
    _check(groups.linguistic, layout.linguistic_codes, f"{field}.linguistic")
    _check(groups.semantic, layout.semantic_codes, f"{field}.semantic")
    return language.group_ids(groups.linguistic, groups.semantic)


def _check(codes: Sequence[int], size: int, field: str) -> None:
    for place, code in enumerate(codes):
        if code >= size:
            where = f"{field}[{place}]"
            raise InvalidToken(f"{where} is {code}, expected [0, {size})", field=where)
