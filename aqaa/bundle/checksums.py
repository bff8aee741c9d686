"""Is a bundle's folder what its manifest says? Sizes, SHA-256 read in pieces, and no file from outside."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from aqaa.bundle.schema import MANIFEST_NAME

_PIECE_BYTES = 1 << 20

Progress = Callable[[str, float], None]
"""Called with (file, share of all bytes read so far, 0 … 1)."""


class Expected(Protocol):
    """The part of a manifest's file entry that can be checked."""

    @property
    def sha256(self) -> str: ...
    @property
    def bytes(self) -> int: ...


class State(Enum):
    OK = "ok"
    MISSING = "missing"
    SIZE = "wrong size"
    CHECKSUM = "wrong checksum"
    OUTSIDE = "outside the bundle"
    UNLISTED = "not in the manifest"


@dataclass(frozen=True)
class Verdict:
    """What was found for one file. ``detail`` says what was given and what was expected."""

    path: str
    state: State
    detail: str = ""

    @property
    def refused(self) -> bool:
        """Whether the bundle must not be loaded. An unlisted file is told, not refused: nothing reads it."""
        return self.state not in (State.OK, State.UNLISTED)

    def __str__(self) -> str:
        return f"{self.path}: {self.detail or self.state.value}"


def sha256_of(path: Path, *, on_bytes: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file of any size, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            if on_bytes is not None:
                on_bytes(len(piece))
    return digest.hexdigest()


def verify(
    root: Path, files: Mapping[str, Expected], *, progress: Progress | None = None
) -> tuple[Verdict, ...]:
    """One verdict for every listed file in the manifest's order, then one for every unlisted file by name."""
    total = sum(entry.bytes for entry in files.values()) or 1
    done = 0
    verdicts = []
    for path, entry in files.items():

        def read(count: int, path: str = path) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(path, min(done / total, 1.0))

        verdicts.append(_verify_one(root, path, entry, read))
    verdicts.extend(Verdict(path, State.UNLISTED) for path in _unlisted(root, files))
    return tuple(verdicts)


def _verify_one(root: Path, path: str, entry: Expected, on_bytes: Callable[[int], None]) -> Verdict:
    file = root / path
    real = file.resolve()
    if not real.is_relative_to(root.resolve()):
        return Verdict(path, State.OUTSIDE, f"leads to {real}, expected a file under {root}")
    if not file.is_file():
        return Verdict(path, State.MISSING, f"not found, expected {entry.bytes:,} bytes")
    size = file.stat().st_size
    if size != entry.bytes:
        return Verdict(path, State.SIZE, f"holds {size:,} bytes, expected {entry.bytes:,}")
    found = sha256_of(file, on_bytes=on_bytes)
    if found != entry.sha256:
        return Verdict(path, State.CHECKSUM, f"SHA-256 is {found}, expected {entry.sha256}")
    return Verdict(path, State.OK)


def _unlisted(root: Path, files: Mapping[str, Expected]) -> Iterator[str]:
    known = {MANIFEST_NAME, *files}
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        for name in sorted(names):
            path = (Path(folder) / name).relative_to(root).as_posix()
            if path not in known:
                yield path
