"""Decides who gets a slot and which rows the next step computes."""

from collections.abc import Iterator

from aqaa.engine.backbone.cache import SlotCache
from aqaa.engine.backbone.request import Priority, Request
from aqaa.errors import CapacityError


class Scheduler:
    """Slots and rows, foreground first, then in order of arrival.

    A foreground request is *urgent* from its commit until it has `urgent_tokens` tokens, unless it is held.
    While one is urgent, no background request is computed. While one waits for a slot, the youngest
    background request gives its own back and is computed again later, from its ids, so its answer does not
    change.
    """

    def __init__(
        self, cache: SlotCache, *, max_waiting: int, prefill_rows: int, urgent_tokens: int, tile_rows: int
    ) -> None:
        self._cache, self._max_waiting = cache, max_waiting
        self._prefill_rows, self._urgent_tokens, self._tile_rows = prefill_rows, urgent_tokens, tile_rows
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.reused_rows = 0
        self.preemptions = 0

    def add(self, request: Request) -> None:
        """Let a request wait for a slot.

        Raises:
            CapacityError: as many wait already as may.
        """
        room = self._cache.free_slots + self._max_waiting
        ahead = len(self.waiting)
        if request.priority is Priority.FOREGROUND:
            room += sum(other.priority is Priority.BACKGROUND for other in self.running)
            ahead = sum(other.priority is Priority.FOREGROUND for other in self.waiting)
        if ahead >= room:
            raise CapacityError(
                f"{len(self.running)} of {self._cache.slots} slots are taken and {len(self.waiting)} "
                f"requests wait, expected room for one more (max_waiting {self._max_waiting}); try later"
            )
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forget a request and free its slot."""
        if request in self.waiting:
            self.waiting.remove(request)
        else:
            self.running.remove(request)
            self._give_back(request)

    def admit(self) -> None:
        """Hand out free slots."""
        for request in sorted(self.waiting, key=_rank):
            if not request.ids:
                continue  # nothing to compute, and no prefix to look for yet
            taken = self._cache.acquire(request.ids)
            if taken is None and request.priority is Priority.FOREGROUND and self._preempt():
                taken = self._cache.acquire(request.ids)
            if taken is None:
                return
            request.slot, request.computed = taken
            self.reused_rows += request.computed
            self.waiting.remove(request)
            self.running.append(request)

    def plan(self) -> list[tuple[Request, int]]:
        """Who is computed in the next step, and how many pending ids of each.

        Requests that decode always get their one row. Prompts share `prefill_rows` among them, foreground
        first, rounded so that tiles are full.
        """
        work = [(request, 1) for request in self._eligible() if request.pending <= 1]
        work.sort(key=_slot)
        used = sum(min(request.pending, rows) for request, rows in work)
        padding = -used % self._tile_rows
        budget = padding + max(0, self._prefill_rows - padding) // self._tile_rows * self._tile_rows
        for request in sorted((r for r in self._eligible() if r.pending > 1), key=_rank):
            rows = min(request.pending, budget)
            if rows:
                work.append((request, rows))
                budget -= rows
        return work

    def _eligible(self) -> Iterator[Request]:
        urgent = any(
            request.priority is Priority.FOREGROUND
            and request.committed
            and not request.held
            and request.generated < self._urgent_tokens
            for request in self.running + self.waiting
        )
        for request in self.running:
            if request.runnable and not (urgent and request.priority is Priority.BACKGROUND):
                yield request

    def _preempt(self) -> bool:
        victims = [request for request in self.running if request.priority is Priority.BACKGROUND]
        if not victims:
            return False
        victim = max(victims, key=_rank)
        self._give_back(victim)
        self.running.remove(victim)
        self.waiting.append(victim)
        self.preemptions += 1
        return True

    def _give_back(self, request: Request) -> None:
        assert request.slot is not None
        self._cache.release(request.slot)
        request.slot, request.computed, request.state = None, 0, None


def _rank(request: Request) -> tuple[int, bool, int]:
    return request.priority, not request.committed, request.number


def _slot(work: tuple[Request, int]) -> int:
    # Neighbouring slots share one attention call.
    return work[0].slot or 0
