"""Being told that something is new, for at most so long: a timer and a future, where much is waited for."""

import asyncio


class Bell:
    """Wakes everyone who waits for it.

    while not done():
        if not await bell.heard(until - loop.time()):
            raise TimeoutError
    """

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[bool]] = []

    def ring(self) -> None:
        """Wakes those who wait now, and nobody who comes later."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            _answer(one, True)

    async def heard(self, seconds: float) -> bool:
        """Waits for the next ring: True. False if there was none in ``seconds``."""
        loop = asyncio.get_running_loop()
        one: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(max(0.0, seconds), _answer, one, False)
        self._waiting.append(one)
        try:
            heard = await one
        finally:
            timer.cancel()
            if one in self._waiting:
                self._waiting.remove(one)
        return heard


def _answer(one: "asyncio.Future[bool]", heard: bool) -> None:
    if not one.done():
        one.set_result(heard)
