"""The whole turn in one process: question PCM in, answer text and answer PCM out, as they are made.

The services of the next layer run the same parts behind gRPC; nothing here knows of them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from aqaa.audio.decode import Audio
from aqaa.audio.resample import StreamResampler
from aqaa.bundle import Bundle, Manifest
from aqaa.engine.backbone import BackboneEngine, EngineSettings, Priority, Request
from aqaa.engine.tokenizer import Groups, Tokenizer
from aqaa.engine.vocoder import PcmChunk, Vocoder, VocoderStream
from aqaa.errors import BundleUnsupported
from aqaa.models.step1 import Step1
from aqaa.tokens.answer import AnswerParser, Group, SegmentEnd, SegmentStart, TextRun
from aqaa.tokens.classes import TokenClass
from aqaa.tokens.grammar import Grammar
from aqaa.tokens.prompt import PromptBuilder
from aqaa.tokens.sampling import Sampler
from aqaa.tokens.table import Task
from aqaa.tokens.text import TextVocabulary, class_ranges

Pcm = NDArray[np.float32]
Clock = Callable[[], float]
Progress = Callable[[str, float], None]

CAPACITY = 1536  # positions of a turn: the longest question nano takes, its answer, and both markers
PIECE_SECONDS = 0.12  # how a whole recording is handed in: as a microphone would


@dataclass(frozen=True)
class Said:
    """A piece of the answer's text, in segment ``segment`` (None: a text-only answer)."""

    text: str
    segment: int | None


@dataclass(frozen=True, eq=False)
class Sounded:
    """PCM of the answer, ±1 at the bundle's rate; ``first_sample`` counts from the start of the answer."""

    pcm: Pcm
    segment: int
    first_sample: int


@dataclass(frozen=True)
class Understood:
    """The question as the model heard it."""

    text: str


Event = Said | Sounded | Understood


@dataclass(frozen=True)
class Segment:
    """One voice state of an answer; samples count from the answer's start."""

    style: str | None
    text: str
    groups: int
    start_sample: int
    end_sample: int


@dataclass(frozen=True)
class Timeline:
    """Seconds since the request began: question heard and prefilled, first text, first PCM, last PCM."""

    heard: float
    thought: float
    first_audio: float
    done: float


@dataclass(frozen=True, eq=False)
class AnswerResult:
    """A finished turn.

    ``ttfa_seconds``: from the last sample of the question handed in to the first PCM. ``rtf``: from the same
    moment to the last PCM, over the answer's duration. ``tokens`` counts by kind.
    """

    question_text: str
    answer_text: str
    pcm: Pcm
    sample_rate: int
    segments: tuple[Segment, ...]
    timeline: Timeline
    question_pcm: Pcm
    question_tokens: tuple[int, ...]
    answer_tokens: tuple[tuple[int, TokenClass], ...]
    tokens: dict[str, int]
    ttfa_seconds: float
    rtf: float


class Pipeline:
    """A loaded bundle that answers.

    >>> pipeline = Pipeline.load(Path("models/nano"))
    >>> turn = pipeline.listen(seed=0)
    >>> turn.push(pcm_16k)                       # any sizes, while the user speaks
    >>> for event in turn.finish(): ...          # text and PCM as they are made

    For one thread. Turns may be interleaved; they share the backbone's slots and the vocoder, which computes
    in a thread of its own while the backbone goes on.
    """

    def __init__(self, bundle: Bundle, clock: Clock = time.perf_counter, *, threads: int = 1) -> None:
        self.bundle = bundle
        self.manifest: Manifest = bundle.manifest
        self.clock = clock
        manifest = self.manifest
        pieces = manifest.pieces
        self.layout = manifest.layout.ids
        controls = (
            pieces.bos,
            pieces.bot,
            pieces.eot,
            pieces.audio_start,
            pieces.audio_end,
            *pieces.styles.values(),
        )
        self.text = TextVocabulary.load(bundle.path(manifest.text.file), controls=controls)
        ranges = class_ranges(
            self.text,
            self.layout,
            eot=pieces.eot,
            audio_start=pieces.audio_start,
            audio_end=pieces.audio_end,
            styles=tuple(pieces.styles.values()),
        )
        self.grammar = Grammar(ranges, manifest.layout.ratios, manifest.caps.caps)
        self.prompts = PromptBuilder(manifest.template, self.text, self.layout)
        self.styles = {self.text.piece_id(piece): style for style, piece in pieces.styles.items()}
        self.tokenizer = Tokenizer.load(bundle)
        network = bundle.network("backbone")
        if not isinstance(network, Step1):
            kind = manifest.backbone.kind
            raise BundleUnsupported(
                f"bundle {bundle.root}: backbone kind {kind!r}, this engine decodes 'step1'"
            )
        self.backbone = BackboneEngine(network, EngineSettings(slots=4, capacity=CAPACITY))
        self.vocoder = Vocoder.load(bundle)
        # A pass takes as many threads as its own thread was told to.
        self.sounding = ThreadPoolExecutor(1, "vocoder", torch.set_num_threads, (threads,))

    @classmethod
    def load(cls, bundle_dir: Path, *, threads: int = 1, progress: Progress | None = None) -> Self:
        """Verifies and loads a bundle, and runs one silent turn so that the first real one is warm.

        ``threads`` of each pass are set for the whole process. Nano's products are so small that a second
        thread costs more than it gives, and with one the same seed gives the same bits on any number of
        cores; a bigger model wants more.

        Raises:
            BundleError: the bundle must not be loaded; the message says why.
        """
        torch.set_num_threads(threads)
        report = progress or (lambda what, share: None)
        bundle = Bundle.open(bundle_dir, progress=lambda what, share: report(what, 0.3 * share))
        pipeline = cls(bundle, threads=threads)
        report("warming up", 0.8)
        pipeline.warm_up()
        report("ready", 1.0)
        return pipeline

    def warm_up(self) -> None:
        """One second of silence through every stage."""
        turn = self.listen()
        turn.push(np.zeros(self.manifest.tokenizer.sample_rate, np.float32))
        for event in turn.finish():
            if isinstance(event, Sounded):
                turn.cancel()
                break

    def listen(self, *, seed: int = 0) -> Turn:
        """A new turn; hand it the question with ``push``, then read ``finish``."""
        return Turn(self, seed)

    def ask(
        self, audio: Audio, *, seed: int = 0, on_event: Callable[[Event], None] | None = None
    ) -> AnswerResult:
        """Answers a whole recording. Raises the errors of :class:`Turn`."""
        rate = self.manifest.tokenizer.sample_rate
        resampler = StreamResampler(audio.sample_rate, rate)
        pcm = np.concatenate((resampler.push(audio.samples), resampler.flush()))
        turn = self.listen(seed=seed)
        piece = round(PIECE_SECONDS * rate)
        for start in range(0, len(pcm), piece):
            turn.push(pcm[start : start + piece])
        return self._collect(turn, turn.finish(), pcm, on_event)

    def say(self, text: str, *, seed: int = 0, style: str | None = None) -> AnswerResult:
        """Speaks a text in the bundle's voice; ``style`` is one of the bundle's."""
        turn = Turn(self, seed)
        return self._collect(turn, turn.speak(text, style), np.zeros(0, np.float32), None)

    def tokenize(self, audio: Audio) -> Sequence[int]:
        """The audio ids of a recording, groups one after another."""
        rate = self.manifest.tokenizer.sample_rate
        resampler = StreamResampler(audio.sample_rate, rate)
        pcm = np.concatenate((resampler.push(audio.samples), resampler.flush()))
        return self.audio_ids(self.tokenizer.tokenize(pcm))

    def audio_ids(self, groups: Groups) -> list[int]:
        """(G, 5) codes to ids in the order of the prompt."""
        pair = self.manifest.layout.group_linguistic
        words, sounds = groups[:, :pair], groups[:, pair:]
        ids = np.concatenate((self.layout.linguistic_ids(words), self.layout.semantic_ids(sounds)), axis=1)
        return [int(token_id) for token_id in ids.ravel()]

    def _collect(
        self, turn: Turn, events: Iterator[Event], question: Pcm, on_event: Callable[[Event], None] | None
    ) -> AnswerResult:
        sound: list[Pcm] = []
        understood = ""
        for event in events:
            if on_event is not None:
                on_event(event)
            match event:
                case Sounded():
                    sound.append(event.pcm)
                case Understood():
                    understood = event.text
                case Said():
                    pass
        pcm = np.concatenate(sound) if sound else np.zeros(0, np.float32)
        rate = self.manifest.vocoder.sample_rate
        marks = turn.marks
        done = marks.done - marks.asked
        return AnswerResult(
            question_text=understood,
            answer_text=" ".join(segment.text for segment in turn.segments) or turn.plain_text,
            pcm=pcm,
            sample_rate=rate,
            segments=tuple(turn.segments),
            timeline=Timeline(
                *(mark - marks.began for mark in (marks.heard, marks.thought, marks.first_audio, marks.done))
            ),
            question_pcm=question,
            question_tokens=tuple(turn.question_ids),
            answer_tokens=tuple(turn.answer_tokens),
            tokens=turn.counts(),
            ttfa_seconds=marks.first_audio - marks.asked,
            rtf=done / (len(pcm) / rate) if len(pcm) else 0.0,
        )


@dataclass
class Marks:
    """Clock readings: turn begun, last sample handed in, all prefilled, first text, first and last PCM."""

    began: float
    asked: float = 0.0
    heard: float = 0.0
    thought: float = 0.0
    first_audio: float = 0.0
    done: float = 0.0


@dataclass(eq=False)
class _Voice:
    """A segment being spoken; ``start`` is where its sound begins in the answer's."""

    index: int
    style: str | None
    stream: VocoderStream
    text: list[int] = field(default_factory=list)
    groups: int = 0
    start: int | None = None


@dataclass(frozen=True, eq=False)
class _Sound:
    """What the vocoder was asked to compute, in order; ``last`` of its segment."""

    voice: _Voice
    chunks: Future[list[PcmChunk]]
    last: bool = False


class Turn:
    """One question and its answer. Made by :meth:`Pipeline.listen`."""

    def __init__(self, pipeline: Pipeline, seed: int) -> None:
        self._pipeline = pipeline
        self._seed = seed
        self._ears = pipeline.tokenizer.stream()
        self._request: Request | None = None
        self._transcript: Request | None = None
        self._voice: _Voice | None = None
        self._sounds: deque[_Sound] = deque()
        self._sent = 0
        self._plain = pipeline.text.detokenizer()
        self.plain_text = ""
        self.marks = Marks(pipeline.clock())
        self.question_ids: list[int] = []
        self.answer_tokens: list[tuple[int, TokenClass]] = []
        self.segments: list[Segment] = []

    def push(self, pcm: Pcm) -> None:
        """Takes more of the question, (n,) float32 at the tokenizer's rate, and prefills what it completes.

        Raises:
            CapacityError: no slot is free, or the question is longer than a slot.
        """
        self.marks.asked = self._pipeline.clock()
        self._hear(self._ears.push(pcm))

    def finish(self) -> Iterator[Event]:
        """The question is over: answer it. Closing the iterator cancels the turn."""
        pipeline = self._pipeline
        self._hear(self._ears.finish())
        request = self._opened()
        pipeline.backbone.append(request, pipeline.prompts.closing)
        prefix = list(request.ids)
        pipeline.backbone.append(request, pipeline.prompts.marker("answer"))
        self._commit(request, "answer")
        self.marks.heard = pipeline.clock()
        # The transcript shares the question's keys and values and never delays first audio.
        transcript = pipeline.backbone.open(
            prefix + pipeline.prompts.marker("transcript"), priority=Priority.BACKGROUND
        )
        self._transcript = transcript
        self._commit(transcript, "transcript")
        try:
            yield from self._answer(request, "answer")
            text = pipeline.text.decode(
                token_id
                for token_id in pipeline.backbone.stream(transcript)
                if token_id != pipeline.grammar.ranges.eot
            )
            yield Understood(text)
        finally:
            self.cancel()

    def speak(self, text: str, style: str | None) -> Iterator[Event]:
        """Text to speech with the same voice: the prompt is the text, the answer its sound."""
        pipeline = self._pipeline
        self.marks.asked = pipeline.clock()
        spoken = pipeline.prompts.content(text)
        ids = pipeline.prompts.question(text) + pipeline.prompts.marker("speak")
        forced = [pipeline.grammar.ranges.audio_start]
        if style is not None:
            forced.append(pipeline.text.piece_id(pipeline.manifest.pieces.styles[style]))
        self._request = request = pipeline.backbone.open(ids)
        self._commit(request, "speak", resumed=forced, spoken_text=len(spoken))
        self.marks.heard = self.marks.thought = pipeline.clock()
        self.plain_text = text
        try:
            yield from self._answer(request, "speak", forced)
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Takes the turn back; its slots are free after the next step."""
        while self._sounds:
            self._sounds.popleft().chunks.cancel()
        for request in (self._request, self._transcript):
            if request is not None and request.end is None:
                self._pipeline.backbone.cancel(request)
        if self._pipeline.backbone.busy:
            self._pipeline.backbone.step()

    def counts(self) -> dict[str, int]:
        """Tokens by kind: the question's audio, and the answer's text, linguistic, semantic and markers."""
        kinds = [token_class for _, token_class in self.answer_tokens]
        text = kinds.count(TokenClass.TEXT)
        words, sounds = kinds.count(TokenClass.LINGUISTIC), kinds.count(TokenClass.SEMANTIC)
        return {
            "question": len(self.question_ids),
            "text": text,
            "linguistic": words,
            "semantic": sounds,
            "markers": len(kinds) - text - words - sounds,
        }

    def _opened(self) -> Request:
        if self._request is None:
            self._request = self._pipeline.backbone.open(self._pipeline.prompts.opening())
        return self._request

    def _hear(self, groups: Groups) -> None:
        if not len(groups):
            return
        pipeline = self._pipeline
        ids = pipeline.audio_ids(groups)
        self.question_ids += ids
        pipeline.backbone.append(self._opened(), ids)
        while pipeline.backbone.busy:
            pipeline.backbone.step()

    def _commit(
        self, request: Request, task: Task, *, resumed: Sequence[int] = (), spoken_text: int | None = None
    ) -> None:
        pipeline = self._pipeline
        automaton = pipeline.grammar.start(
            task=task, max_tokens=pipeline.backbone.room(request), spoken_text=spoken_text
        )
        sampler = Sampler(pipeline.manifest.settings(task, seed=self._seed), pipeline.layout)
        pipeline.backbone.commit(request, automaton, sampler, resumed=resumed)

    def _answer(self, request: Request, task: Task, given: Sequence[int] = ()) -> Iterator[Event]:
        """Reads the answer's tokens and turns whole groups into sound."""
        pipeline = self._pipeline
        parser = AnswerParser(pipeline.grammar, task)
        for token_id in chain(given, pipeline.backbone.stream(request)):
            token_class = pipeline.grammar.ranges.class_of(token_id)
            assert token_class is not None  # the automaton took it
            self.answer_tokens.append((token_id, token_class))
            for happened in parser.push([token_id]):
                match happened:
                    case SegmentStart():
                        self._start_voice(happened)
                    case TextRun():
                        yield self._say(happened)
                    case Group():
                        self._sound(happened)
                    case SegmentEnd():
                        self._end_voice()
            while self._sounds and self._sounds[0].chunks.done():
                yield from self._heard()
        while self._sounds:
            yield from self._heard()
        self.marks.done = pipeline.clock()
        if not self.marks.first_audio:
            self.marks.first_audio = self.marks.done

    def _start_voice(self, start: SegmentStart) -> None:
        style = None if start.style is None else self._pipeline.styles[start.style]
        stream = self._pipeline.vocoder.stream(seed=self._seed, segment=start.segment)
        self._voice = _Voice(start.segment, style, stream)

    def _say(self, run: TextRun) -> Said:
        if not self.marks.thought:
            self.marks.thought = self._pipeline.clock()
        text = self._plain.push(run.ids)
        if self._voice is not None:
            self._voice.text += run.ids
        else:
            self.plain_text += text
        return Said(text, run.segment)

    def _sound(self, group: Group) -> None:
        assert self._voice is not None
        self._voice.groups += 1
        pair = self._pipeline.manifest.layout.group_linguistic
        layout = self._pipeline.layout
        codes = np.concatenate(
            (layout.linguistic_code(group.ids[:pair]), layout.semantic_code(group.ids[pair:]))
        )
        chunks = self._pipeline.sounding.submit(self._voice.stream.push, codes[None])
        self._sounds.append(_Sound(self._voice, chunks))

    def _end_voice(self) -> None:
        voice = self._voice
        assert voice is not None
        chunks = self._pipeline.sounding.submit(voice.stream.finish)
        self._sounds.append(_Sound(voice, chunks, last=True))
        self._voice = None

    def _heard(self) -> Iterator[Sounded]:
        """Waits for the oldest sound, and gives it."""
        sound = self._sounds.popleft()
        voice = sound.voice
        if voice.start is None:
            voice.start = self._sent
        for chunk in sound.chunks.result():
            if not self.marks.first_audio:
                self.marks.first_audio = self._pipeline.clock()
            yield Sounded(chunk.pcm, voice.index, self._sent)
            self._sent += len(chunk.pcm)
        if sound.last:
            text = self._pipeline.text.decode(voice.text) or self.plain_text
            self.segments.append(Segment(voice.style, text, voice.groups, voice.start, self._sent))
