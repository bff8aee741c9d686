"""A stage's call that breaks while something is on its way to the log: it is written once."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from aqaa.errors import Unavailable
from aqaa.v1.audio_pb2 import AudioEncoding, AudioFormat
from aqaa.v1.backbone_pb2 import StreamGenerateResponse
from aqaa.v1.tokenizer_pb2 import StreamTokenizeResponse
from aqaa.v1.tokens_pb2 import AnswerEnd, AnswerPiece, AudioGroups, EndReason, TextRun
from aqaa.v1.turnlog_pb2 import History, TurnSpec
from aqaa.v1.vocoder_pb2 import SynthesizedAudio
from services.orchestrator.config import OrchestratorSettings
from services.orchestrator.front.question import Question
from services.orchestrator.front.telling import Telling
from services.orchestrator.run import Run
from services.orchestrator.sound import Sound

FORMAT = AudioFormat(encoding=AudioEncoding.AUDIO_ENCODING_PCM_S16LE, sample_rate_hz=16000, channels=1)
SOUND = bytes(2 * 16000 * 12 // 100 * 3)


class Pen:
    """A pen whose log is slow at one record: the stage breaks meanwhile."""

    def __init__(self, slow: int) -> None:
        self.records = []
        self.slow = slow
        self.busy = asyncio.Event()

    async def append(self, record) -> int:
        self.records.append(record)  # it has its place at once
        if len(self.records) == self.slow:
            self.busy.set()
            await asyncio.Event().wait()
        return len(self.records)


class Call:
    """A stage that answers ``responses``; sending breaks as soon as the pen is busy."""

    def __init__(self, stage: str, pen: Pen, responses) -> None:
        self.stage, self.pen, self.responses = stage, pen, iter(responses)

    def owes(self, something=True) -> None:
        pass

    async def send(self, request) -> None:
        if self.pen.busy.is_set():
            return
        if request.WhichOneof(request.DESCRIPTOR.oneofs[0].name) == "open":
            return
        await self.pen.busy.wait()
        raise Unavailable("shot", stage=self.stage)

    async def close(self) -> None:
        pass

    async def receive(self, within=None):
        await asyncio.sleep(0)
        return next(self.responses, None)


class Clock:
    def now(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


def shared_with(calls) -> SimpleNamespace:
    """What the parts share, as far as a question or a run needs it; ``calls``: one for each attempt."""

    @asynccontextmanager
    async def calling(method, stage, ends=None):
        yield next(calls)

    stages = SimpleNamespace(
        calling=calling,
        tokenizer=SimpleNamespace(StreamTokenize=None),
        llm=SimpleNamespace(StreamGenerate=None),
        known=None,
    )
    return SimpleNamespace(
        settings=OrchestratorSettings(text_interval_seconds=0),
        stages=stages,
        clock=Clock(),
        lookahead_groups=100,
    )


@pytest.mark.parametrize("slow", [1, 2, 3])
def test_a_group_of_the_question_is_written_once(slow):
    async def ask() -> None:
        pen = Pen(slow)
        groups = [AudioGroups(first_group=i, linguistic=[i, i], semantic=[i, i, i]) for i in range(3)]
        responses = [StreamTokenizeResponse(groups=g, end=i == 2) for i, g in enumerate(groups)]
        question = Question(shared_with(iter([Call("tokenizer", pen, responses) for _ in range(2)])), FORMAT)
        question.add(SOUND)
        question.commit(len(SOUND))
        assert await question.into(pen, "") == 3
        assert [record.groups for record in pen.records[:-1]] == groups
        assert pen.records[-1].end.groups == 3

    asyncio.run(asyncio.wait_for(ask(), 10))


PIECES = [
    AnswerPiece(text=TextRun(text="One ", token_ids=[1])),
    AnswerPiece(groups=AudioGroups(first_group=0, linguistic=[1, 1], semantic=[1, 1, 1])),
    AnswerPiece(text=TextRun(text="two.", token_ids=[2])),
    AnswerPiece(groups=AudioGroups(first_group=1, linguistic=[2, 2], semantic=[2, 2, 2])),
    AnswerPiece(end=AnswerEnd(reason=EndReason.END_REASON_STOP, groups=2)),
]


@pytest.mark.parametrize("slow", range(1, len(PIECES) + 1))
def test_a_piece_of_the_answer_is_written_once(slow):
    async def answer() -> None:
        pen = Pen(slow)

        def calls():
            while True:  # each goes on behind what the runner says is written
                rest = PIECES[len(run._pieces) :]
                yield Call("llm", pen, [StreamGenerateResponse(piece=piece) for piece in rest])

        query = SimpleNamespace(state=None)
        run = Run(shared_with(calls()), None, TurnSpec(), History(), query, pen, [])
        run._asked = 0
        await run._generate()
        assert [record.piece for record in pen.records] == PIECES
        assert run._groups == 2

    asyncio.run(asyncio.wait_for(answer(), 10))


def test_a_chunk_leaves_when_its_record_is_safe():
    """Its append broke with the vocoder's call, and it is made again: it is not sent before its record."""

    async def deliver() -> None:
        done, sent, busy = [], [], asyncio.Event()

        class Delivery:
            cursor = SimpleNamespace(seq=0)

            async def append(self, record, *, below=0) -> None:
                self.cursor = SimpleNamespace(seq=1)
                busy.set()
                await asyncio.Event().wait()

            async def settle(self) -> None:
                done.append("settled")

        async def send(event) -> None:
            done.append("sent")
            sent.append(event.audio)

        sound = Sound(24000)
        telling = Telling(shared_with(iter(())), TurnSpec(), None, None, sound, Delivery(), send)
        telling._note_audio = lambda event: None
        chunk = sound.chunk(SynthesizedAudio(pcm=bytes(96), restart=b""))
        first = asyncio.create_task(telling._deliver(*chunk))
        await busy.wait()
        first.cancel()
        await asyncio.wait({first})
        await telling._deliver(*chunk)
        assert done == ["settled", "sent"]
        assert sent == [chunk[0]]

    asyncio.run(asyncio.wait_for(deliver(), 10))
