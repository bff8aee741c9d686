"""The users of docs/turnlog.md: what each role may do on a server."""

import re
from pathlib import Path

_DOCUMENT = (Path(__file__).parents[3] / "docs" / "turnlog.md").read_text(encoding="utf-8")
_RULE = re.compile(r"^user (\w+) ((?:.+\n)+?)(?=user|```)", re.MULTILINE)

RULES = {name: words.split() for name, words in _RULE.findall(_DOCUMENT)}
"""Words for ACL SETUSER, by role."""

[_extra] = re.findall(r"On a cluster add to both: `(.+)`", _DOCUMENT)
ON_A_CLUSTER = _extra.split()
