"""The record of a turn in Redis or Valkey: fenced appends, owners, wake-ups, take-over (docs/turnlog.md)."""

from aqaa.turnlog.append import Appender
from aqaa.turnlog.bell import Bell
from aqaa.turnlog.capacity import Capacity
from aqaa.turnlog.clock import Clock, MonotonicClock
from aqaa.turnlog.dispatch import Consumer, Dispatched, post
from aqaa.turnlog.follow import Follower, Following, read_all
from aqaa.turnlog.frontier import Frontier, played_by_the_clock
from aqaa.turnlog.heard import Heard, SpokenSegment, heard
from aqaa.turnlog.keeper import Held, Keeper
from aqaa.turnlog.link import Link
from aqaa.turnlog.log import Opened, TurnLog
from aqaa.turnlog.names import Role, SessionRef, Stream, TurnRef, check_id, new_id
from aqaa.turnlog.records import Cursor, Entry, history_digest
from aqaa.turnlog.sessions import Session, Sessions
from aqaa.turnlog.settings import TurnLogSettings
from aqaa.turnlog.state import Phase, TurnState
from aqaa.turnlog.tenure import Refused, Tenure

__all__ = [
    "Appender",
    "Bell",
    "Capacity",
    "Clock",
    "Consumer",
    "Cursor",
    "Dispatched",
    "Entry",
    "Follower",
    "Following",
    "Frontier",
    "Heard",
    "Held",
    "Keeper",
    "Link",
    "MonotonicClock",
    "Opened",
    "Phase",
    "Refused",
    "Role",
    "Session",
    "SessionRef",
    "Sessions",
    "SpokenSegment",
    "Stream",
    "Tenure",
    "TurnLog",
    "TurnLogSettings",
    "TurnRef",
    "TurnState",
    "check_id",
    "heard",
    "history_digest",
    "new_id",
    "played_by_the_clock",
    "post",
    "read_all",
]
