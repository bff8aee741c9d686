"""The client for callers without asyncio: the asynchronous one, on a thread with an event loop of its own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Self, TypeVar

import grpc
import numpy as np
import numpy.typing as npt

from aqaa.client.answer import AnswerStream
from aqaa.client.asynchronous import DEFAULT_ADDRESS, AsyncClient
from aqaa.client.calls import DEFAULT_PATIENCE, DEFAULT_TIMING, Patience, Timing
from aqaa.client.conversation import Conversation
from aqaa.client.delivery import Position
from aqaa.client.events import EndReason, Event, Int16, Manifest, Session, TurnOpened
from aqaa.client.playback import Player
from aqaa.client.question import DEFAULT_OPTIONS, Recording, TurnOptions
from aqaa.client.turn import Turn
from aqaa.errors import InvalidRequest
from aqaa.rpc.caller import Caller
from aqaa.rpc.channel import ChannelSettings

Result = TypeVar("Result")


class _LoopThread:
    """An event loop on a thread; it runs coroutines for others, who wait."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aqaa-client", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """The result. If the waiting is interrupted, as by Ctrl-C, the coroutine is cancelled."""
        if self._loop.is_closed() or threading.current_thread() is self._thread:
            coroutine.close()
            raise InvalidRequest("this client is closed, or called from its own thread")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call(self, make: Callable[[], Result]) -> Result:
        """What ``make`` gives, called on the loop."""

        async def made() -> Result:
            return make()

        return self.run(made())

    def stop(self) -> None:
        """Ends the loop and its thread."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncAnswerStream(Iterator[Event]):
    """``AnswerStream`` without asyncio: iterate over its events.

    for event in client.ask(question):
        ...
    """

    def __init__(self, thread: _LoopThread, stream: AnswerStream) -> None:
        self._thread = thread
        self._stream = stream

    @property
    def manifest(self) -> Manifest | None:
        """What the turn had; None until it has come."""
        return self._stream.manifest

    @property
    def opened(self) -> TurnOpened | None:
        """What the turn is; None until it is let in."""
        return self._stream.opened

    @property
    def position(self) -> Position:
        """How far the answer has been received: what ``resume`` goes on from."""
        return self._stream.position

    @property
    def resumed(self) -> int:
        """How often the stream was taken up again."""
        return self._stream.resumed

    @property
    def superseded(self) -> bool:
        """Whether a newer stream of this client has the turn."""
        return self._stream.superseded

    @property
    def text(self) -> str:
        """The answer's text so far."""
        return self._stream.text

    def __next__(self) -> Event:
        event = self._thread.run(_next_of(self._stream))
        if event is None:
            raise StopIteration
        return event

    def pcm(self) -> Int16:
        """As ``AnswerStream.pcm``."""
        return self._thread.run(self._stream.pcm())

    def cancel(self, played_samples: int | None = None) -> EndReason:
        """As ``AnswerStream.cancel``; another thread may call it while one iterates."""
        return self._thread.run(self._stream.cancel(played_samples))

    def close(self) -> None:
        """As ``AnswerStream.aclose``."""
        self._thread.run(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SyncTurn(SyncAnswerStream):
    """``Turn`` without asyncio."""

    def __init__(self, thread: _LoopThread, turn: Turn) -> None:
        super().__init__(thread, turn)
        self._turn = turn

    def push(self, pcm: npt.ArrayLike) -> None:
        """As ``Turn.push``."""
        self._thread.run(self._turn.push(pcm))

    def commit(self) -> None:
        """As ``Turn.commit``."""
        self._thread.run(self._turn.commit())

    def played(self, samples: int) -> None:
        """As ``Turn.played``."""
        self._thread.run(self._turn.played(samples))


class SyncConversation:
    """``Conversation`` without asyncio.

    with client.converse(sample_rate=16000) as conversation:
        turn = conversation.turn()
        turn.push(pcm)
        turn.commit()
        for event in turn:
            ...
    """

    def __init__(self, thread: _LoopThread, conversation: Conversation) -> None:
        self._thread = thread
        self._conversation = conversation

    @property
    def session_id(self) -> str:
        """Names it in other calls."""
        return self._conversation.session_id

    def turn(
        self,
        *,
        request_id: str | None = None,
        options: TurnOptions = DEFAULT_OPTIONS,
        player: Player | None = None,
    ) -> SyncTurn:
        """As ``Conversation.turn``; ``player`` is asked from the client's thread."""
        made = self._conversation.turn(request_id=request_id, options=options, player=player)
        return SyncTurn(self._thread, self._thread.run(made))

    def close(self) -> None:
        """As ``Conversation.aclose``."""
        self._thread.run(self._conversation.aclose())

    def __enter__(self) -> Self:
        self._thread.run(self._conversation.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client:
    """Calls AQAA's orchestrator, as ``AsyncClient`` does.

        with Client("127.0.0.1:50050") as client:
            answer = client.ask(samples, sample_rate=16000)
            pcm = answer.pcm()  # (n,) int16 at answer.opened.sample_rate
            print(answer.text)

    Its methods may be called from any thread; one answer has one consumer.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        caller: Caller | str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        patience: Patience = DEFAULT_PATIENCE,
        channel: ChannelSettings | None = None,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        """As ``AsyncClient``."""
        self._client = AsyncClient(
            address,
            caller=caller,
            credentials=credentials,
            patience=patience,
            channel=channel,
            timing=timing,
        )
        self._thread = _LoopThread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all streams and conversations, the connection and the thread; for good."""
        try:
            self._thread.run(self._client.aclose())
        except InvalidRequest:  # closed already
            return
        self._thread.stop()

    def ask(
        self,
        audio: Recording | npt.ArrayLike,
        sample_rate: int | None = None,
        *,
        session_id: str = "",
        request_id: str | None = None,
        options: TurnOptions = DEFAULT_OPTIONS,
    ) -> SyncAnswerStream:
        """As ``AsyncClient.ask``."""
        return self._stream(
            lambda: self._client.ask(
                audio, sample_rate, session_id=session_id, request_id=request_id, options=options
            )
        )

    def converse(
        self,
        sample_rate: int,
        *,
        session_id: str = "",
        dtype: type[np.float32] | type[np.int16] = np.float32,
    ) -> SyncConversation:
        """As ``AsyncClient.converse``; enter it with ``with``."""
        made = self._thread.call(
            lambda: self._client.converse(sample_rate, session_id=session_id, dtype=dtype)
        )
        return SyncConversation(self._thread, made)

    def resume(self, position: Position) -> SyncAnswerStream:
        """As ``AsyncClient.resume``."""
        return self._stream(lambda: self._client.resume(position))

    def replay(self, session_id: str, turn_id: str) -> SyncAnswerStream:
        """As ``AsyncClient.replay``."""
        return self._stream(lambda: self._client.replay(session_id, turn_id))

    def cancel(self, session_id: str, turn_id: str, *, played_samples: int | None = None) -> EndReason:
        """As ``AsyncClient.cancel``."""
        return self._thread.run(self._client.cancel(session_id, turn_id, played_samples=played_samples))

    def session(self, session_id: str) -> Session:
        """As ``AsyncClient.session``."""
        return self._thread.run(self._client.session(session_id))

    def _stream(self, make: Callable[[], AnswerStream]) -> SyncAnswerStream:
        return SyncAnswerStream(self._thread, self._thread.call(make))


async def _next_of(stream: AsyncIterator[Event]) -> Event | None:
    return await anext(stream, None)
