"""Who may come in: live turns below the backbone slots that replicas say they have."""

from aqaa.errors import CapacityError
from aqaa.turnlog import scripts
from aqaa.turnlog.link import Call, Link
from aqaa.turnlog.names import LIVE, SLOTS, TurnRef
from aqaa.turnlog.settings import ms

_ANY = 2**31
"""More live turns than there will be."""
_LOOKS = 10
"""While no replica has slots."""


def _member(replica: str, bundle: str) -> str:
    return f"{replica}@{bundle}" if bundle else replica


class Capacity:
    """Slots of llm replicas, and leases of live turns. Both run out on their own when a process dies."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def publish(self, replica: str, slots: int, free: int, *, bundle: str = "") -> None:
        """What a replica has; to be repeated at half of ``slots_lease``. ``replica`` has no space in it.

        bundle: the digest of the one that it holds.
        """
        lease = ms(self.link.settings.slots_lease)
        await self.link.run(scripts.SLOTS, [SLOTS], [_member(replica, bundle), slots, free, lease])

    async def holds(self, bundle: str) -> bool:
        """Whether a replica that is alive, or was a lease ago, holds this bundle."""
        members: list[bytes] = await self.link.command("ZRANGE", SLOTS, 0, -1)
        return any(member.split(b" ")[0].endswith(_member("", bundle).encode()) for member in members)

    async def withdraw(self, replica: str) -> None:
        """A replica that drains."""
        await self.link.run(scripts.SLOTS, [SLOTS], [replica, -1, 0, 1])

    async def slots(self) -> tuple[int, int]:
        """(all slots, free ones) of the replicas that are alive."""
        reply = await self.link.run(scripts.ROOM, [SLOTS], [])
        return int(reply[1]), int(reply[2])

    async def known_slots(self) -> int:
        """All slots. Where no replica has any, their word may have run out while a process was stalled.

        So it waits for the next word then, for half of ``slots_lease`` at most.
        """
        clock, period = self.link.clock, self.link.settings.slots_lease / 2
        until = clock.now() + period
        while not (slots := (await self.slots())[0]) and clock.now() < until:
            await clock.sleep(period / _LOOKS)
        return slots

    async def live(self) -> int:
        """Turns whose lease has not run out."""
        now = await self.link.now_ms()
        return int(await self.link.command("ZCOUNT", LIVE, f"({now}", "+inf"))

    async def admit(self, turn: TurnRef, *, retry_after: float = 1.0) -> None:
        """Takes a live-turn lease, or renews it. Raises CapacityError when every slot has a live turn."""
        slots = await self.known_slots()
        reply = await self.link.run(scripts.ADMIT, [LIVE], [str(turn), slots, ms(self.link.settings.lease)])
        if reply[0] != "OK":
            full = f"{int(reply[1])} turns are live and there are {slots} slots"
            raise CapacityError(
                f"{full if slots else 'no backbone says that it has slots'}, try again in {retry_after:g} s",
                retry_after=retry_after,
            )

    def renewal(self, turn: TurnRef, *, again: bool = True) -> Call:
        """The call that renews a lease, for a pipeline. again: take one that is not there any more."""
        return Call(scripts.ADMIT, [LIVE], [str(turn), _ANY if again else 0, ms(self.link.settings.lease)])

    async def leave(self, turn: TurnRef) -> None:
        """Gives a lease back."""
        await self.link.command("ZREM", LIVE, str(turn))
