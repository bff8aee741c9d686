"""Stub stages: a tokenizer, an llm and a vocoder that follow the protos, without a model.

    stages = StubStages()
    async with stages.serving() as address:          # all three at one address
        ...

Everything is a pure function of what comes in: tokens of the PCM, the answer of (seed, prompt, history),
sound of (seed, codes). Cuts and restarts change nothing, and a restart that is not the state of its sound is
refused. With ``pace`` answers come in real time. ``stages.faults`` holds or breaks a stage at a chosen place.
"""

import asyncio
import hashlib
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np

from aqaa.errors import AqaaError, CapacityError, InvalidRequest, InvalidToken, StateError
from aqaa.rpc.status import to_status
from aqaa.v1 import (
    backbone_pb2,
    backbone_pb2_grpc,
    tokenizer_pb2,
    tokenizer_pb2_grpc,
    vocoder_pb2,
    vocoder_pb2_grpc,
)
from aqaa.v1.audio_pb2 import AudioEncoding
from aqaa.v1.tokens_pb2 import (
    AnswerEnd,
    AnswerPiece,
    AudioGroups,
    EndReason,
    SegmentEnd,
    SegmentStart,
    StartMode,
    TextRun,
    Transcript,
)

BUNDLE = hashlib.sha256(b"stub stages").hexdigest()
RATE = 24000
GROUP_SAMPLES = RATE * 12 // 100
TILES = (3, 3, 6, 12)
"""Groups of each tile; the last one repeats."""
RIGHT = 1
"""Groups behind a tile that must be known to make it."""
WORDS = ("cloudy ", "with ", "some ", "rain, ", "later ", "très ", "doux. ")


def drawn(size: int, *parts: Any) -> bytes:
    """Bytes that depend on the parts alone."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=size).digest()


def codes(first: int, count: int, *parts: Any) -> AudioGroups:
    """Groups whose codes depend on their index and the parts."""
    made = AudioGroups(first_group=first)
    for group in range(first, first + count):
        values = struct.unpack("<5H", drawn(10, group, *parts))
        made.linguistic.extend(value % 1024 for value in values[:2])
        made.semantic.extend(value % 4096 for value in values[2:])
    return made


class Faults:
    """What shall go wrong, and what shall wait: a stage passes a point each time it is about to do something.

    faults.fail("llm", 5, AqaaError)           # once, before the sixth piece of any answer
    held = faults.hold("vocoder", 1)           # before the second tile, until held.release()
    await held.reached.wait()
    """

    def __init__(self) -> None:
        self._fails: dict[tuple[str, int], list[Callable[[], BaseException]]] = {}
        self._holds: dict[tuple[str, int], Held] = {}
        self.down: set[str] = set()
        """Stages that refuse every call as UNAVAILABLE."""

    def fail(self, stage: str, at: int, error: Callable[[], BaseException], times: int = 1) -> None:
        self._fails.setdefault((stage, at), []).extend([error] * times)

    def hold(self, stage: str, at: int) -> "Held":
        held = self._holds[stage, at] = Held()
        return held

    async def passing(self, stage: str, at: int) -> None:
        if (held := self._holds.get((stage, at))) is not None:
            held.reached.set()
            await held.open.wait()
        if planned := self._fails.get((stage, at)):
            raise planned.pop(0)()


class Held:
    """A point where a stage waits."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    def release(self) -> None:
        self.open.set()


@dataclass
class Plan:
    """What answers look like: (words, groups) of each segment; ``written``: without sound."""

    segments: tuple[tuple[int, int], ...] = ((4, 10), (3, 5))


@dataclass
class StubStages:
    """The three services. ``slots``: of the llm. ``pace``: seconds of a group; 0 is at once. ``together``:
    the tokenizer puts the groups of a piece into one response, as the real one does with those of a hop."""

    plan: Plan = field(default_factory=Plan)
    slots: int = 4
    tiles: tuple[int, ...] = TILES
    pace: float = 0.0
    together: bool = False
    replica: str = "stub"
    bundle: str = BUNDLE
    faults: Faults = field(default_factory=Faults)
    held: int = 0
    """Slots that are taken."""
    says_free: int | None = None
    """What the llm says of its slots where that is not true any more."""
    open_calls: int = 0
    prompts: list[backbone_pb2.OpenPrompt] = field(default_factory=list)
    """Every prompt that was committed."""
    answered: list[int] = field(default_factory=list)
    """Pieces that each committed prompt had been answered with before."""
    frontiers: list[int] = field(default_factory=list)
    limits: dict[str, list[float]] = field(default_factory=dict)
    """Seconds that each call for a turn was given, by stage."""

    @asynccontextmanager
    async def serving(
        self, address: str = "127.0.0.1:0", interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
    ) -> AsyncIterator[str]:
        """Their address."""
        server = grpc.aio.server(interceptors=interceptors)
        tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(StubTokenizer(self), server)
        backbone_pb2_grpc.add_BackboneServiceServicer_to_server(StubLlm(self), server)
        vocoder_pb2_grpc.add_VocoderServiceServicer_to_server(StubVocoder(self), server)
        port = server.add_insecure_port(address)
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)

    @asynccontextmanager
    async def call(self, stage: str, context: Any) -> AsyncIterator[None]:
        """Errors as services say them."""
        self.open_calls += 1
        status = None
        try:
            if stage in self.faults.down:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
            yield
        except AqaaError as error:
            status = to_status(error)
        finally:
            self.open_calls -= 1
        if status is not None:
            await context.abort(status.code, status.details, status.trailing_metadata)

    def begin(self, stage: str, digest: str, context: Any) -> None:
        """Who only asks what there is names no bundle."""
        if digest not in ("", self.bundle):
            raise StateError(f"bundle {digest} is not loaded")
        if digest:
            self.limits.setdefault(stage, []).append(context.time_remaining())


class StubTokenizer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """A group for each 120 ms of the signal, decided when its last sample has come."""

    def __init__(self, stages: StubStages) -> None:
        self._stages = stages

    async def StreamTokenize(self, requests: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        async with self._stages.call("tokenizer", context):
            opening, pcm, sent = None, bytearray(), 0
            async for request in requests:
                if opening is None:
                    opening = request.open
                    self._stages.begin("tokenizer", opening.bundle_digest, context)
                    width = 2 if opening.format.encoding == AudioEncoding.AUDIO_ENCODING_PCM_S16LE else 4
                    size = round(0.12 * opening.format.sample_rate_hz) * width * opening.format.channels
                    continue
                if request.audio.first_byte != len(pcm) or len(request.audio.pcm) > 2**20:
                    raise InvalidRequest(f"first_byte {request.audio.first_byte}, expected {len(pcm)}")
                pcm += request.audio.pcm
                decided = AudioGroups(first_group=sent)
                while len(pcm) >= (sent + 1) * size:
                    await self._stages.faults.passing("tokenizer", sent)
                    group = codes(sent, 1, bytes(pcm[sent * size : (sent + 1) * size]))
                    sent += 1
                    if not self._stages.together:
                        yield tokenizer_pb2.StreamTokenizeResponse(groups=group)
                    decided.linguistic.extend(group.linguistic)
                    decided.semantic.extend(group.semantic)
                if self._stages.together and decided.linguistic:
                    yield tokenizer_pb2.StreamTokenizeResponse(groups=decided)
            await self._stages.faults.passing("tokenizer-end", 0)
            last = AudioGroups(first_group=sent)
            if len(pcm) > sent * size:
                last = codes(sent, 1, bytes(pcm[sent * size :]))
            yield tokenizer_pb2.StreamTokenizeResponse(groups=last, end=True)
            await self._stages.faults.passing("tokenizer-end", 1)


Token = tuple[Any, ...]


def answer_tokens(plan: Plan, seed: int, prompt: bytes, *, written: bool) -> list[Token]:
    """An answer, one token or group an item."""
    tokens: list[Token] = []
    for index, (words, groups) in enumerate(plan.segments):
        if not written:
            tokens.append(("start", index, "slow" if index else ""))
        for word in range(words):
            number = drawn(1, seed, prompt, index, word)[0]
            tokens.append(("text", WORDS[number % len(WORDS)], 100 + number))
        if not written:
            for group in range(groups):
                made = codes(group, 1, seed, prompt, index)
                tokens.append(("group", group, tuple(made.linguistic), tuple(made.semantic)))
            tokens.append(("end", groups))
    return tokens


def flatten(pieces: Any) -> list[Token]:
    """Pieces, however they were gathered, as the same items. Words of a run are told by the number of ids."""
    tokens: list[Token] = []
    for piece in pieces:
        match piece.WhichOneof("piece"):
            case "segment_start":
                tokens.append(("start", piece.segment_start.segment, piece.segment_start.style))
            case "text":
                tokens += [("text", WORDS[(i - 100) % len(WORDS)], i) for i in piece.text.token_ids]
                if "".join(WORDS[(i - 100) % len(WORDS)] for i in piece.text.token_ids) != piece.text.text:
                    raise InvalidToken(f"{piece.text.text!r} is not what its ids say")
            case "groups":
                groups = piece.groups
                tokens += [
                    (
                        "group",
                        groups.first_group + i,
                        tuple(groups.linguistic[2 * i : 2 * i + 2]),
                        tuple(groups.semantic[3 * i : 3 * i + 3]),
                    )
                    for i in range(len(groups.linguistic) // 2)
                ]
            case "segment_end":
                tokens.append(("end", piece.segment_end.groups))
    return tokens


def piece_of(token: Token) -> AnswerPiece:
    match token[0]:
        case "start":
            return AnswerPiece(segment_start=SegmentStart(segment=token[1], style=token[2]))
        case "text":
            return AnswerPiece(text=TextRun(text=token[1], token_ids=[token[2]]))
        case "group":
            groups = AudioGroups(first_group=token[1], linguistic=token[2], semantic=token[3])
            return AnswerPiece(groups=groups)
        case _:
            return AnswerPiece(segment_end=SegmentEnd(groups=token[1]))


class StubLlm(backbone_pb2_grpc.BackboneServiceServicer):
    """Answers as the plan says; refuses to go on with an answer that it would not have written."""

    def __init__(self, stages: StubStages) -> None:
        self._stages = stages

    async def GetCapacity(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        async with self._stages.call("llm", context):
            stages = self._stages
            return backbone_pb2.GetCapacityResponse(
                replica=stages.replica,
                slots=stages.slots,
                free_slots=max(0, stages.slots - stages.held)
                if stages.says_free is None
                else stages.says_free,
                bundle_digest=stages.bundle,
                slot_positions=4096,
            )

    async def StreamGenerate(self, requests: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        stages = self._stages
        async with stages.call("llm", context):
            opening = (await anext(aiter(requests))).open
            stages.begin("llm", opening.bundle_digest, context)
            if stages.held >= stages.slots:
                raise CapacityError("no slot is free", retry_after=0.05)
            stages.held += 1
            try:
                yield backbone_pb2.StreamGenerateResponse(
                    opened=backbone_pb2.PromptOpened(bundle_digest=self._stages.bundle)
                )
                async for event in self._answer(opening, requests):
                    yield event
            finally:
                stages.held -= 1

    async def _answer(self, opening: Any, requests: Any) -> Any:
        stages, prompt = self._stages, AudioGroups()
        async for request in requests:
            if request.HasField("commit"):
                commit = request.commit
                break
            if request.prompt.first_group * 2 != len(prompt.linguistic):
                raise InvalidRequest(
                    f"group {request.prompt.first_group} after {len(prompt.linguistic) // 2}"
                )
            prompt.linguistic.extend(request.prompt.linguistic)
            prompt.semantic.extend(request.prompt.semantic)
            await stages.faults.passing("llm-prompt", request.prompt.first_group)
        else:
            return
        if commit.prompt_groups * 2 != len(prompt.linguistic):
            raise InvalidRequest(f"{commit.prompt_groups} groups committed")
        stages.prompts.append(opening)
        stages.answered.append(len(commit.answered))
        key = prompt.SerializeToString(deterministic=True) + b"".join(
            message.SerializeToString(deterministic=True) for message in opening.history
        )
        written = commit.start_mode == StartMode.START_MODE_TEXT
        tokens = answer_tokens(stages.plan, opening.seed, key, written=written)
        done = flatten(commit.answered)
        if done != tokens[: len(done)]:
            raise InvalidToken("answered with something else than would have been written")
        frontier = Frontier(commit.until_group)
        advances = asyncio.create_task(self._advance(requests, frontier))
        try:
            groups = sum(token[0] == "group" for token in done)
            clock = asyncio.get_running_loop().time
            due = clock()
            await stages.faults.passing("llm-commit", 0)
            for i in range(len(done), len(tokens)):
                if tokens[i][0] == "group":
                    await frontier.until(groups)
                    groups += 1
                    if stages.pace:  # by the clock: what one group took too long, the next one has less
                        due = max(due + stages.pace, clock())
                        await asyncio.sleep(due - clock())
                await stages.faults.passing("llm", i)
                yield backbone_pb2.StreamGenerateResponse(piece=piece_of(tokens[i]))
            await stages.faults.passing("llm", len(tokens))
            end = AnswerEnd(reason=EndReason.END_REASON_STOP, tokens=len(tokens), groups=groups)
            yield backbone_pb2.StreamGenerateResponse(piece=AnswerPiece(end=end))
            if commit.transcript:
                await stages.faults.passing("llm-transcript", 0)
                text = f"heard {hashlib.sha256(key).hexdigest()[:8]}"
                yield backbone_pb2.StreamGenerateResponse(transcript=Transcript(text=text))
        finally:
            advances.cancel()

    async def _advance(self, requests: Any, frontier: "Frontier") -> None:
        async for request in requests:
            self._stages.frontiers.append(request.advance.until_group)
            frontier.move(request.advance.until_group)


class Frontier:
    """How many groups may be written; 0 is all."""

    def __init__(self, until_group: int) -> None:
        self._until = until_group
        self._moved = asyncio.Event()

    def move(self, until_group: int) -> None:
        self._until = until_group
        self._moved.set()

    async def until(self, group: int) -> None:
        while self._until and group >= self._until:
            self._moved.clear()
            await self._moved.wait()


class StubVocoder(vocoder_pb2_grpc.VocoderServiceServicer):
    """Tiles of a schedule. Their sound depends on codes and on a phase that runs through the segment."""

    def __init__(self, stages: StubStages) -> None:
        self._stages = stages

    async def StreamSynthesize(self, requests: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        async with self._stages.call("vocoder", context):
            opening = (await anext(aiter(requests))).open
            self._stages.begin("vocoder", opening.bundle_digest, context)
            opened = vocoder_pb2.SynthesisOpened(
                sample_rate_hz=RATE,
                bundle_digest=self._stages.bundle,
                chunk_groups=self._stages.tiles,
                context_groups=RIGHT,
            )
            yield vocoder_pb2.StreamSynthesizeResponse(opened=opened)
            segment: StubSegment | None = None
            async for request in requests:
                match request.WhichOneof("step"):
                    case "segment":
                        segment = StubSegment(opening.seed, request.segment, self._stages.tiles)
                    case "groups":
                        if segment is None:
                            raise InvalidRequest("groups outside of a segment")
                        segment.add(request.groups)
                    case "segment_end":
                        if segment is None or segment.count != request.segment_end.groups:
                            raise InvalidRequest("another number of groups")
                        segment.ended = True
                while segment is not None and (audio := segment.next()) is not None:
                    await self._stages.faults.passing("vocoder", segment.made - 1)
                    if self._stages.pace:
                        await asyncio.sleep(self._stages.pace)
                    yield vocoder_pb2.StreamSynthesizeResponse(audio=audio)
                if segment is not None and segment.ended:
                    await self._stages.faults.passing("vocoder-done", segment.index)
                    done = vocoder_pb2.SegmentSynthesized(
                        segment=segment.index, samples=segment.count * GROUP_SAMPLES
                    )
                    yield vocoder_pb2.StreamSynthesizeResponse(segment_done=done)
                    segment = None


class StubSegment:
    """One segment of a stream: what it knows and what it has made."""

    def __init__(self, seed: int, start: Any, tiles: tuple[int, ...]) -> None:
        self.index = start.segment
        self.count = 0
        self.ended = False
        self.made = 0
        self._seed = seed
        self._tiles = tiles
        self._codes: list[tuple[int, ...]] = []
        self._from_sample = start.from_sample
        self._tile, self._group, self._phase = 0, 0, 0
        if start.restart:
            index, self._tile, self._group, self._phase, check = struct.unpack("<IIIQ8s", start.restart)
            if index != self.index or check != drawn(8, seed, index, self._tile, self._phase):
                raise StateError("the restart state is of another turn or segment")
            if start.from_sample < self._group * GROUP_SAMPLES:
                raise InvalidRequest("from_sample is before the restart state")

    def add(self, groups: AudioGroups) -> None:
        if groups.first_group != self.count:
            raise InvalidRequest(f"group {groups.first_group}, expected {self.count}")
        number = len(groups.linguistic) // 2
        for i in range(number):
            self._codes.append((*groups.linguistic[2 * i : 2 * i + 2], *groups.semantic[3 * i : 3 * i + 3]))
        self.count += number

    def next(self) -> vocoder_pb2.SynthesizedAudio | None:
        """The next sound that can be made and is wanted."""
        while True:
            size = self._tiles[min(self._tile, len(self._tiles) - 1)]
            stop = min(self._group + size, self.count) if self.ended else self._group + size
            if stop <= self._group or (not self.ended and self.count < stop + RIGHT):
                return None
            state = struct.pack(
                "<IIIQ8s", self.index, self._tile, self._group, self._phase,
                drawn(8, self._seed, self.index, self._tile, self._phase),
            )  # fmt: skip
            sound, first = b"", self._group * GROUP_SAMPLES
            for group in range(self._group, stop):
                noise = drawn(8, self._seed, self.index, group, self._codes[group], self._phase)
                self._phase = int.from_bytes(noise, "little")
                ramp = np.arange(GROUP_SAMPLES, dtype=np.uint64) * (self._phase % 65521 or 1)
                sound += (ramp % 65536).astype("<u2").tobytes()
            needed = stop if self.ended else stop + RIGHT
            self._tile, self._group = self._tile + 1, stop
            self.made += 1
            skip = max(0, self._from_sample - first)
            if 2 * skip >= len(sound):
                continue
            return vocoder_pb2.SynthesizedAudio(
                segment=self.index,
                first_sample=first + skip,
                pcm=sound[2 * skip :],
                restart=state,
                groups_needed=needed,
            )
