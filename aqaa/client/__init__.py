"""AQAA for Python callers: spoken questions in, spoken answers out, over gRPC. No torch.

    from aqaa.client import AnswerAudio, AsyncClient

    async with AsyncClient("127.0.0.1:50050") as client:
        async for event in client.ask(samples, sample_rate=16000):
            ...

``AsyncClient`` and ``Client``, which needs no asyncio, call; ``events`` says what comes back. Every sample is
given once and in order, or an error says what is missing (``delivery``); calls that break are taken up again
(``answer``, ``conversation``). Needs grpcio, protobuf, grpcio-status, google-crc32c and numpy.
"""

from aqaa.client.answer import AnswerStream
from aqaa.client.asynchronous import DEFAULT_ADDRESS, AsyncClient
from aqaa.client.calls import Patience, Timing
from aqaa.client.conversation import Conversation
from aqaa.client.delivery import Position
from aqaa.client.events import (
    AnswerAudio,
    AnswerText,
    Codes,
    EndReason,
    Event,
    Manifest,
    QuestionCommitted,
    Segment,
    SegmentStarted,
    Session,
    TextIds,
    Transcript,
    TurnOpened,
    TurnPhase,
    TurnSummary,
    TurnTokens,
    as_float,
)
from aqaa.client.playback import Player
from aqaa.client.question import Recording, StartMode, TurnOptions
from aqaa.client.synchronous import Client, SyncAnswerStream, SyncConversation, SyncTurn
from aqaa.client.turn import Turn

__all__ = [
    "DEFAULT_ADDRESS",
    "AnswerAudio",
    "AnswerStream",
    "AnswerText",
    "AsyncClient",
    "Client",
    "Codes",
    "Conversation",
    "EndReason",
    "Event",
    "Manifest",
    "Patience",
    "Player",
    "Position",
    "QuestionCommitted",
    "Recording",
    "Segment",
    "SegmentStarted",
    "Session",
    "StartMode",
    "SyncAnswerStream",
    "SyncConversation",
    "SyncTurn",
    "TextIds",
    "Timing",
    "Transcript",
    "Turn",
    "TurnOpened",
    "TurnOptions",
    "TurnPhase",
    "TurnSummary",
    "TurnTokens",
    "as_float",
]
