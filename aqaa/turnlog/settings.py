"""How long the turn log waits, keeps and repeats. Every interval of `docs/turnlog.md` is a setting here."""

from dataclasses import dataclass, fields

from aqaa.errors import SettingsError


@dataclass(frozen=True)
class TurnLogSettings:
    """Seconds, unless a name says otherwise. Raises SettingsError for a value out of range.

    lease, heartbeat   how long an owner counts as alive, and how often it says that it is
    scan               how often runners look for entries whose consumer is gone
    sweep              after how long a reader looks although nothing woke it; at most 1
    dispatch_again     after how long a front dispatches a turn that nobody has taken
    dispatch_longest   up to which that doubles for a running turn that its runner let go
    dispatch_block     how long a runner waits in one XREADGROUP
    frontier_interval  between two writes of a turn's frontier
    turn_ttl           how long a turn outlives its last write
    session_ttl        how long a session outlives its last turn's last sign of life
    slots_lease        how long a replica's free slots count
    call_timeout       for one call, its repetitions included: longer than a failover takes
    socket_timeout     for one answer of the server; longer than dispatch_block
    connections        of one process to one node
    max_deliveries     after which a turn is given up
    delivery_keep      chunk records kept of a turn
    read_count         entries read of a stream at once
    """

    lease: float = 5.0
    heartbeat: float = 1.0
    scan: float = 0.25
    sweep: float = 1.0
    dispatch_again: float = 0.5
    dispatch_longest: float = 5.0
    dispatch_block: float = 1.0
    frontier_interval: float = 0.25
    turn_ttl: float = 900.0
    session_ttl: float = 900.0
    slots_lease: float = 2.0
    call_timeout: float = 10.0
    socket_timeout: float = 5.0
    connections: int = 16
    max_deliveries: int = 5
    delivery_keep: int = 64
    read_count: int = 64

    def __post_init__(self) -> None:
        wrong = [
            f"turnlog.{field.name} is {getattr(self, field.name)!r}, expected {expected}"
            for field in fields(self)
            for low, high, expected in [_RANGES.get(field.name, (0.001, 86400.0, "0.001 to 86400"))]
            if not low <= getattr(self, field.name) <= high
        ]
        if self.heartbeat * 2 > self.lease:
            wrong.append(
                f"turnlog.heartbeat is {self.heartbeat!r}, expected at most half of lease {self.lease!r}"
            )
        if self.dispatch_longest < self.dispatch_again:
            wrong.append(
                f"turnlog.dispatch_longest is {self.dispatch_longest!r}, expected at least dispatch_again "
                f"{self.dispatch_again!r}"
            )
        if self.dispatch_block >= self.socket_timeout:
            wrong.append(
                f"turnlog.dispatch_block is {self.dispatch_block!r}, expected less than socket_timeout "
                f"{self.socket_timeout!r}"
            )
        if wrong:
            raise SettingsError("\n".join(wrong))


_RANGES = {
    "sweep": (0.001, 1.0, "0.001 to 1"),
    "connections": (3, 1024, "3 to 1024"),
    "max_deliveries": (1, 1000, "1 to 1000"),
    "delivery_keep": (1, 10000, "1 to 10000"),
    "read_count": (1, 1000, "1 to 1000"),
}


def ms(seconds: float) -> int:
    """Whole milliseconds, at least one."""
    return max(1, round(seconds * 1000))
