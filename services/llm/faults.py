"""Field faults, short to write."""

from aqaa.errors import FieldFault, InvalidRequest


def fault(field: str, what: str) -> InvalidRequest:
    """An error to raise: what is wrong with one field, and what was expected."""
    return InvalidRequest(faults=[FieldFault(field, what)])
