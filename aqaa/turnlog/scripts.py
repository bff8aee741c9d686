"""The Lua scripts: everything that is written to a turn is written by one of them."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

_FOLDER = files("aqaa.turnlog") / "lua"
_COMMON = (_FOLDER / "common.lua").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Script:
    """A script, named by the SHA-1 that EVALSHA wants."""

    name: str
    text: str
    sha: str


def load(name: str) -> Script:
    """The script of ``lua/<name>.lua`` behind ``lua/common.lua``."""
    text = f"{_COMMON}\n{(_FOLDER / f'{name}.lua').read_text(encoding='utf-8')}"
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


OPEN = load("open")
APPEND = load("append")
ACQUIRE = load("acquire")
RENEW = load("renew")
RELEASE = load("release")
FINISH = load("finish")
CONTROL = load("control")
CLAIM = load("claim")
DELIVERIES = load("deliveries")
TIDY = load("tidy")
REMEMBER = load("remember")
SLOTS = load("slots")
ROOM = load("room")
ADMIT = load("admit")
