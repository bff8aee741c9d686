"""The client for asyncio: ask, converse, resume, cancel, look at a session, hear a turn once more."""

from typing import Final, Self
from uuid import uuid4

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt

from aqaa.client.answer import AnswerStream
from aqaa.client.calls import DEFAULT_PATIENCE, DEFAULT_TIMING, CallSource, Patience, Source, Timing
from aqaa.client.conversation import Conversation
from aqaa.client.delivery import Position
from aqaa.client.events import EndReason, Session, session_of
from aqaa.client.line import Line
from aqaa.client.question import DEFAULT_OPTIONS, MAX_ASK_BYTES, PcmFormat, Recording, TurnOptions, recorded
from aqaa.errors import InvalidAudio, InvalidRequest
from aqaa.rpc.caller import Caller
from aqaa.rpc.channel import ChannelSettings, open_channel
from aqaa.v1 import orchestrator_pb2

DEFAULT_ADDRESS: Final = "127.0.0.1:50050"
MAX_REQUEST_ID: Final = 64


class AsyncClient:
    """Calls AQAA's orchestrator.

        async with AsyncClient("127.0.0.1:50050") as client:
            answer = client.ask(samples, sample_rate=16000)
            async for event in answer:
                if isinstance(event, AnswerAudio):
                    player.play(event.pcm, event.sample_rate)
            print(answer.text, answer.manifest)

    It connects when first used. Every call has a deadline, of ``patience``. Repeated are only calls that do
    no harm twice: those with a request id, which every question has, and those that read.

    Raises, from every call:
        AqaaError: of the kind that the service raised.
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
        """``address``: a gRPC name, ``dns:///aqaa-orchestrator:50050`` for all replicas. ``caller``: whose
        sessions, ``tenant`` or ``tenant/user``, where no proxy says so. ``credentials``: TLS; plain text
        without.

        Raises:
            InvalidRequest: ``caller`` is not written so.
        """
        self._address = address
        self._caller = Caller.parse(caller) if isinstance(caller, str) else caller
        self._credentials = credentials
        self._settings = channel or ChannelSettings()
        self._patience = patience
        self._timing = timing
        self._channel: grpc.aio.Channel | None = None
        self._line: Line | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes all streams and conversations, and the connection. The client can be used again after it."""
        channel, line = self._channel, self._line
        self._channel = self._line = None
        if line is not None:
            for open_one in list(line.open):
                await open_one.aclose()
        if channel is not None:
            await channel.close()

    def ask(
        self,
        audio: Recording | npt.ArrayLike,
        sample_rate: int | None = None,
        *,
        session_id: str = "",
        request_id: str | None = None,
        options: TurnOptions = DEFAULT_OPTIONS,
    ) -> AnswerStream:
        """One question, whole, and its answer as it is made.

        ``audio``: a Recording, or (n,) or (n, 2) samples, floating point within ±1 or int16, at
        ``sample_rate`` of 8000 to 48000 Hz. ``session_id``: an earlier session of this caller, to whose turns
        the question may refer. ``request_id``: 1 to 64 characters; the same one again attaches to the turn
        that it has opened.

        Raises:
            InvalidAudio: samples or a rate that cannot be used; the server checks the rest.
            InvalidRequest: a request id that is too long.
        """
        samples, rate = recorded(audio, sample_rate)
        pcm_format = PcmFormat.of(samples, rate)
        pcm = pcm_format.encode(samples)
        if not 0 < len(pcm) <= MAX_ASK_BYTES:
            raise InvalidAudio(
                f"a question of {len(pcm)} bytes, expected 1 to {MAX_ASK_BYTES}; int16 samples take half of "
                "float32, and a conversation takes longer ones"
            )
        request = orchestrator_pb2.AskRequest(
            session_id=session_id,
            request_id=_request_id(request_id),
            format=pcm_format.message(),
            pcm=pcm,
            options=options.message(),
        )
        line = self._connected()

        def first(seconds: float) -> Source:
            return CallSource(line.stub.Ask(request, timeout=seconds, metadata=line.metadata))

        return AnswerStream(line, first)

    def converse(
        self,
        sample_rate: int,
        *,
        session_id: str = "",
        dtype: type[np.float32] | type[np.int16] = np.float32,
    ) -> Conversation:
        """A conversation of many turns; enter it with ``async with``.

        ``sample_rate`` in Hz, of all its questions; ``dtype``: how their samples travel.

        Raises:
            InvalidAudio: a rate out of range.
        """
        pcm_format = PcmFormat(sample_rate, floating=np.dtype(dtype).kind == "f")
        return Conversation(self._connected(), session_id, pcm_format)

    def resume(self, position: Position) -> AnswerStream:
        """Goes on with an answer, on any replica: everything behind ``position``. Whoever had the turn before
        is superseded.
        """
        return AnswerStream(self._connected(), None, start=position)

    def replay(self, session_id: str, turn_id: str) -> AnswerStream:
        """The sound of a turn that has ended, from its beginning; Forbidden where the deployment says so."""
        line = self._connected()
        request = orchestrator_pb2.ReplayRequest(session_id=session_id, turn_id=turn_id)

        def again(seconds: float) -> Source:
            return CallSource(line.stub.Replay(request, timeout=seconds, metadata=line.metadata))

        return AnswerStream(line, again, start=Position(session_id, turn_id), repeats=True)

    async def cancel(self, session_id: str, turn_id: str, *, played_samples: int | None = None) -> EndReason:
        """Ends a turn; gives how it ended, which may be what came before."""
        return await self._connected().cancel(session_id, turn_id, played_samples)

    async def session(self, session_id: str) -> Session:
        """A session and its turns."""
        line = self._connected()
        request = orchestrator_pb2.GetSessionRequest(session_id=session_id)
        call = line.stub.GetSession(request, timeout=line.patience.call_seconds, metadata=line.metadata)
        return session_of(await line.unary(call))

    def _connected(self) -> Line:
        if self._line is None:
            self._channel = open_channel(self._address, self._settings, credentials=self._credentials)
            self._line = Line(self._channel, self._caller, self._patience, self._timing)
        return self._line


def _request_id(given: str | None) -> str:
    if given is None:
        return uuid4().hex
    if not 1 <= len(given) <= MAX_REQUEST_ID:
        raise InvalidRequest(f"a request id of {len(given)} characters, expected 1 to {MAX_REQUEST_ID}")
    return given
