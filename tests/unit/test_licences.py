"""docs/licences.md names every package that may be installed, at the version that is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PINNED = [
    line.strip().split("==")
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]
NAMED = (ROOT / "docs" / "licences.md").read_text("utf-8")


@pytest.mark.parametrize(("name", "version"), PINNED)
def test_a_pinned_package_is_named_with_its_version(name, version):
    assert re.search(rf"(?<![\w-]){re.escape(name)} {re.escape(version)}(?=[ ,|])", NAMED)
