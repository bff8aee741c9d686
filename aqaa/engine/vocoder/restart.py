"""What it takes to go on with a segment's sound elsewhere: a few numbers and the groups so far."""

import struct
from dataclasses import dataclass, replace

from aqaa.errors import StateError

_VERSION = 1
_LAYOUT = struct.Struct("<B32sQIQQQ")  # version, digest, seed, segment, frame, sample, phase


@dataclass(frozen=True)
class Restart:
    """Where a segment's PCM stands, between two chunks or inside one.

    digest   SHA-256 of the bundle, hexadecimal: sound goes on only with the same weights
    seed, segment  what everything random is keyed by
    frame    the mel frame at which the next chunk begins; which tile makes it follows from the schedule
    sample   the next sample to hand out, counted from the segment's start; beyond ``frame`` inside a chunk
    phase    the source's phase at ``frame``, in turns of 2^-64
    """

    digest: str
    seed: int
    segment: int
    frame: int
    sample: int
    phase: int

    def at(self, sample: int) -> "Restart":
        """The same place with everything before ``sample`` already handed out.

        Raises StateError for a sample before this state's own.
        """
        if sample < self.sample:
            raise StateError(f"sample {sample} was handed out before this state, which is at {self.sample}")
        return replace(self, sample=sample)

    def to_bytes(self) -> bytes:
        """69 bytes, little-endian. Raises StateError if a number does not fit its field."""
        try:
            digest = bytes.fromhex(self.digest)
            if len(digest) != 32:
                raise StateError(f"digest has {len(digest)} bytes, expected a SHA-256 of 32")
            return _LAYOUT.pack(
                _VERSION, digest, self.seed, self.segment, self.frame, self.sample, self.phase
            )
        except (struct.error, ValueError) as error:
            raise StateError(f"{self} cannot be written: {error}") from error

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Restart":
        """The inverse of ``to_bytes``. Raises StateError for another length or version."""
        if len(raw) != _LAYOUT.size or raw[0] != _VERSION:
            raise StateError(
                f"restart state of {len(raw)} bytes, version {raw[0] if raw else 'unknown'}; "
                f"expected {_LAYOUT.size} bytes, version {_VERSION}"
            )
        _, digest, *numbers = _LAYOUT.unpack(raw)
        return cls(digest.hex(), *numbers)
