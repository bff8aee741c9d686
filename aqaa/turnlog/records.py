"""Entries of the streams: protobuf bytes, and a hash of them and of everything before them.

The hash is a chain: entry n has ``blake2b(hash of n - 1 + data)``. Two logs that agree at an entry agree in
all entries up to it, so whatever a failover loses or forks is seen at the next entry, by writer and reader.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message

from aqaa.errors import LogDiverged
from aqaa.turnlog.names import Stream
from aqaa.v1.turnlog_pb2 import AnswerRecord, DeliveryRecord, History, QueryRecord

KINDS: dict[Stream, type[Message]] = {
    Stream.QUERY: QueryRecord,
    Stream.ANSWER: AnswerRecord,
    Stream.DELIVERY: DeliveryRecord,
}

HASH_BYTES = 16

Record = QueryRecord | AnswerRecord | DeliveryRecord


def encode(record: Message) -> bytes:
    """The bytes of a record; the same record always has the same."""
    return record.SerializeToString(deterministic=True)


def chain(before: bytes, data: bytes) -> bytes:
    """The hash of an entry with this data, behind one with that hash; b"" before the first."""
    return hashlib.blake2b(before + data, digest_size=HASH_BYTES).digest()


def history_digest(history: History) -> bytes:
    """SHA-256, as in TurnSpec."""
    return hashlib.sha256(encode(history)).digest()


@dataclass(frozen=True)
class Entry:
    """One entry of a stream. ``seq`` counts from 1."""

    seq: int
    data: bytes
    hash: bytes

    def record(self, stream: Stream) -> Any:
        """The record that it holds. Raises LogDiverged if it cannot be read."""
        try:
            return KINDS[stream].FromString(self.data)
        except DecodeError as error:
            raise LogDiverged(
                f"{stream} entry {self.seq} cannot be read: {error}", missing=f"{stream}:{self.seq}"
            ) from error


@dataclass(frozen=True)
class Cursor:
    """The last entry that someone wrote or read; the next one goes behind it."""

    seq: int = 0
    hash: bytes = b""

    def after(self, data: bytes) -> Entry:
        """The entry that this data makes behind the cursor."""
        return Entry(self.seq + 1, data, chain(self.hash, data))


def announced(message: bytes) -> tuple[str, Entry] | None:
    """What a wake-up brings, ``name SP sequence SP hash data``: stream and entry. None for any other."""
    name, _, rest = message.partition(b" ")
    seq, _, entry = rest.partition(b" ")
    return (name.decode(), Entry(int(seq), entry[HASH_BYTES:], entry[:HASH_BYTES])) if entry else None


def entries_of(
    raw: Iterable[tuple[bytes, dict[bytes, bytes] | None]], stream: Stream, cursor: Cursor | None
) -> list[Entry]:
    """What XRANGE answered, checked against the chain.

    ``cursor``: what came before; None where entries before the first one have been trimmed.
    Raises LogDiverged at an entry that does not follow from the one before.
    """
    entries = []
    for entry_id, found in raw:
        if not found:  # deleted, but not by us
            raise LogDiverged(
                f"{stream} entry {entry_id!r} is empty", missing=f"{stream}:{entry_id.decode()}"
            )
        entry = Entry(int(entry_id.split(b"-")[1]), found[b"d"], found[b"h"])
        if cursor is not None:
            expected = cursor.after(entry.data)
            if entry != expected:
                raise LogDiverged(
                    f"{stream} holds entry {entry.seq} with hash {entry.hash.hex()}, "
                    f"expected {expected.seq} with {expected.hash.hex()}",
                    missing=f"{stream}:{expected.seq}",
                )
        entries.append(entry)
        cursor = Cursor(entry.seq, entry.hash)
    return entries
