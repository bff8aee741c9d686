"""Answer groups to PCM, tile by tile: the same bits for any arrival, any cut and any restart.

A tile's mel is solved alone and cross-faded with what the tile before it said of the same frames. Its PCM is
then rendered on a window of final mel frames, up to where the wave head's look-ahead reaches the tile's end.
Nothing generated conditions anything later; the source's phase, an integer, is all that is carried. The work
of a tile does not depend on what came before, so it stays flat however long the answer.

Several streams' tiles of one shape may go through the networks together, in numbers that are known to give
each the bits that it has alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from aqaa.bundle import Bundle
from aqaa.engine.rows import Watch, in_all, in_sizes, unwatched
from aqaa.engine.tiles import FrameGrid, Tile, TilePlan
from aqaa.engine.vocoder.draws import SegmentDraws
from aqaa.engine.vocoder.loading import load_nano
from aqaa.engine.vocoder.parts import Codes, Mel, MelSolver, Pcm, Span, WaveHead, Window
from aqaa.engine.vocoder.restart import Restart
from aqaa.errors import InvalidToken, StateError


@dataclass(frozen=True, eq=False)
class PcmChunk:
    """Samples (n,) float32 in ±1 from ``start`` on, counted from the segment's start.

    ``before`` makes this chunk again, or with ``before.at(sample)`` the rest of it; ``after`` what follows.
    ``needs`` groups of the segment must be known to make it.
    """

    pcm: Pcm
    start: int
    before: Restart
    after: Restart
    needs: int


@dataclass(frozen=True, eq=False)
class Vocoder:
    """Both halves, the tile plan, and the sizes of the codebooks in the order of a group.

    Holds weights only, so any number of streams may be open::

        vocoder = Vocoder.load(bundle)
        stream = vocoder.stream(seed=turn_seed, segment=0)
        for groups in answer:                  # (G, 5) codes, any G
            for chunk in stream.push(groups): play(chunk.pcm)
        for chunk in stream.finish(): play(chunk.pcm)

    A segment of G groups has exactly ``samples(G)`` samples. ``digest`` names the weights.
    """

    digest: str
    plan: TilePlan
    solver: MelSolver
    head: WaveHead
    codebooks: tuple[int, ...]

    @classmethod
    def load(cls, bundle: Bundle) -> "Vocoder":
        """The vocoder of a bundle.

        Raises:
            BundleError: a module's files, sizes or tensors do not fit its kind or the manifest.
        """
        manifest = bundle.manifest
        solver, head = load_nano(bundle)
        return cls(
            digest=bundle.digest,
            plan=TilePlan.of(manifest.vocoder.tiles),
            solver=solver,
            head=head,
            codebooks=(manifest.layout.linguistic_codes,) * 2 + (manifest.layout.semantic_codes,) * 3,
        )

    @property
    def sample_rate(self) -> int:
        """Hz of the PCM."""
        return self.head.sample_rate

    @property
    def grid(self) -> FrameGrid:
        return self.solver.grid

    def samples(self, groups: int) -> int:
        """Samples of a segment of so many groups."""
        return self.grid.edge(groups) * self.head.hop

    def stream(self, seed: int, segment: int = 0) -> "VocoderStream":
        """A stream at the start of a turn's segment. Raises StateError for numbers out of range."""
        phase = SegmentDraws(seed, segment).phase()
        return VocoderStream(self, Restart(self.digest, seed, segment, frame=0, sample=0, phase=phase))

    def resume(self, state: Restart) -> "VocoderStream":
        """A stream that hands out the samples from ``state.sample`` on.

        Push the segment's groups from the first one: those that are only context are passed over, and of the
        tiles already heard the last few are solved again, a bounded number.

        Raises StateError for the state of another bundle.
        """
        if state.digest != self.digest:
            raise StateError(f"the state belongs to bundle {state.digest}, this is bundle {self.digest}")
        return VocoderStream(self, state)

    def synthesize(self, groups: ArrayLike, seed: int, segment: int = 0) -> Pcm:
        """PCM (samples(G),) of a whole segment (G, C): its stream's."""
        stream = self.stream(seed, segment)
        chunks = stream.push(groups) + stream.finish()
        return np.concatenate([np.empty(0, np.float32), *(chunk.pcm for chunk in chunks)])

    def advance(
        self,
        streams: "Sequence[VocoderStream]",
        *,
        sizes: Sequence[int] = (1,),
        watch: Watch = unwatched,
    ) -> list[list[PcmChunk]]:
        """Compute the next tile of each stream, whose ``due`` must be equal: the chunks of each.

        What has one shape goes through a network together, so many at a time as ``sizes`` allows: what
        ``equal_sizes`` gives, or 1. ``watch`` is entered around each pass.
        """
        for batch in in_sizes([stream for stream in streams if stream.due], sizes):
            windows = [stream._next_window() for stream in batch]
            with watch("flow", len(batch)):
                solved = self.solver.solve_together(windows)
            for stream, mel in zip(batch, solved, strict=True):
                stream._take_mel(mel)
        chunks: dict[VocoderStream, list[PcmChunk]] = {stream: [] for stream in streams}
        # A segment's last tile leaves two pieces of sound: up to what it made final, then up to the end.
        for piece in (VocoderStream._next_sound, VocoderStream._last_sound):
            spans = {stream: span for stream in streams if (span := piece(stream)) is not None}
            for length in sorted({len(span.mel) for span in spans.values()}):
                alike = [stream for stream, span in spans.items() if len(span.mel) == length]
                for batch in in_sizes(alike, sizes):
                    with watch("wave", len(batch)):
                        rendered = self.head.render_together([spans[stream] for stream in batch])
                    for stream, (pcm, phase) in zip(batch, rendered, strict=True):
                        chunks[stream] += stream._take_sound(spans[stream], pcm, phase)
        for stream in streams:
            stream._forget()
        return list(chunks.values())

    def equal_sizes(self, most: int) -> tuple[int, ...]:
        """Up to ``most``, the numbers of streams in which each has the bits that it has alone.

        A fact of this machine and its thread count. Computes for a moment: ask once, at start-up.
        """
        return in_all(
            (
                self.solver.equal_sizes(most, self.plan.shapes),
                self.head.equal_sizes(most, self.render_shapes),
            )
        )

    @property
    def fade_frames(self) -> int:
        """Frames over which one tile gives way to the next: the nearer half of the right context."""
        return self.grid.most(self.plan.right) // 2

    @property
    def render_shapes(self) -> tuple[int, ...]:
        """Hops that the wave head renders at once: the tiles' own sizes."""
        return tuple(sorted({self.grid.most(size) for size in self.plan.schedule}))

    def first_tile(self, frame: int) -> int:
        """The tile from which to solve so that PCM from ``frame`` on finds its mel context final."""
        earliest = max(0, frame - self.head.frames_before)
        tile = self.plan.index(self.grid.group(earliest))
        faded = self.grid.edge(self.plan.start(tile)) + self.fade_frames
        return max(0, tile - 1) if earliest < faded else tile


class VocoderStream:
    """One segment's groups that arrive in pieces. Abandoning a stream needs no call.

    ``push`` and ``finish`` compute at once. Who computes for many streams calls ``feed`` and ``end``, which
    only keep what comes, and ``Vocoder.advance`` with those that are ``due``.
    """

    def __init__(self, vocoder: Vocoder, state: Restart) -> None:
        self._vocoder = vocoder
        self._draws = SegmentDraws(state.seed, state.segment)
        self._state = state
        self._tile = vocoder.first_tile(state.frame)  # the next to solve
        self._groups: Codes = np.empty((0, len(vocoder.codebooks)), np.int64)
        self._base = 0  # the first group held
        self._mel: Mel = np.empty((0, vocoder.solver.bins), np.float32)  # final frames that PCM still needs
        self._mel_start = vocoder.grid.edge(vocoder.plan.start(self._tile))
        self._ahead = self._mel  # what the tile before says of the next one's first frames
        self._final = 0  # the frame up to which the solved tiles let sound be rendered
        self._needs = 0  # groups that it took
        self._ended = False

    @property
    def state(self) -> Restart:
        """Where the PCM handed out so far ends."""
        return self._state

    @property
    def groups(self) -> int:
        """Groups of the segment that have come."""
        return self._base + len(self._groups)

    @property
    def waiting(self) -> int:
        """Groups whose tile is not solved yet."""
        return max(0, self.groups - self._vocoder.plan.start(self._tile))

    @property
    def due(self) -> int | None:
        """Groups of the next tile's window; 0 if all tiles are solved and sound is left; None if the next
        tile cannot be computed yet, or nothing is left.
        """
        tile = self._next_tile()
        if tile is not None:
            return tile.length
        end = self._vocoder.grid.edge(self.groups)
        return 0 if self._ended and self._state.frame < end else None

    @property
    def finished(self) -> bool:
        """Whether the segment has ended and all its sound has been handed out."""
        return self._ended and self.due is None

    def push(self, groups: ArrayLike) -> list[PcmChunk]:
        """Take groups (G, C) of codes, G >= 0; give the chunks of the tiles that they complete.

        Raises InvalidToken for codes outside their codebook, StateError after ``finish``.
        """
        self.feed(groups)
        return self._advance()

    def finish(self) -> list[PcmChunk]:
        """End of the segment: the chunks that are left.

        Raises StateError if the segment ends before the sample at which a resumed stream stands.
        """
        self.end()
        return self._advance()

    def feed(self, groups: ArrayLike) -> None:
        """Take groups (G, C) of codes, G >= 0. Raises as ``push`` does."""
        self._check_open()
        self._groups = np.concatenate((self._groups, self._checked(groups)))

    def end(self) -> None:
        """End of the segment. Raises as ``finish`` does."""
        self._check_open()
        total, begun = self._vocoder.samples(self.groups), self._state.sample
        if total < begun:
            raise StateError(
                f"{self.groups} groups make {total} samples, but the stream was resumed at {begun}"
            )
        self._ended = True

    def _advance(self) -> list[PcmChunk]:
        chunks = []
        while self.due is not None:
            chunks += self._vocoder.advance([self])[0]
        self._forget()
        return chunks

    def _check_open(self) -> None:
        if self._ended:
            raise StateError("the segment has been finished; open a new stream for the next one")

    def _checked(self, groups: ArrayLike) -> Codes:
        limits = np.array(self._vocoder.codebooks)
        codes = np.asarray(groups)
        if codes.size == 0:
            return self._groups[:0]
        if codes.ndim != 2 or codes.shape[1] != len(limits) or codes.dtype.kind not in "iu":
            raise InvalidToken(
                f"groups are {codes.dtype} of shape {codes.shape}, expected integers (G, {len(limits)})"
            )
        wrong = (codes < 0) | (codes >= limits)
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            raise InvalidToken(
                f"group {self.groups + row}, place {column}: code {codes[row, column]}, "
                f"expected 0 … {limits[column] - 1}"
            )
        return codes.astype(np.int64)

    def _next_tile(self) -> Tile | None:
        """The next tile, if its groups are there."""
        plan = self._vocoder.plan
        if plan.needs(self._tile) <= self.groups:
            return plan.tile(self._tile)
        if self._ended and self._tile < plan.count(self.groups):
            return plan.tile(self._tile, self.groups)
        return None

    def _next_window(self) -> Window:
        """The groups of the next tile's window, -1 where there is none."""
        tile = self._next_tile()
        assert tile is not None, "only streams with a tile that is due are advanced"
        codes = np.full((tile.length, self._groups.shape[1]), -1, np.int64)
        first = max(0, tile.first)
        codes[first - tile.first : tile.last - tile.first] = self._groups[
            first - self._base : tile.last - self._base
        ]
        return Window(codes, tile.first, self._draws)

    def _take_mel(self, mel: Mel) -> None:
        """The mel of the next tile's window."""
        tile, grid = self._next_tile(), self._vocoder.grid
        assert tile is not None, "nothing has come since its window was made"
        start, stop, last = (grid.edge(g) - grid.edge(tile.first) for g in (tile.start, tile.stop, tile.last))
        self._mel = np.concatenate((self._mel, self._faded(mel[start:stop])))
        self._ahead = mel[stop:last]
        self._tile += 1
        self._final = grid.edge(tile.stop) - self._vocoder.head.frames_after
        self._needs = tile.last

    def _faded(self, own: Mel) -> Mel:
        """A tile's own frames, the first ones entered gradually from what the tile before made of them."""
        count = min(self._vocoder.fade_frames, len(own), len(self._ahead))
        weight = (np.arange(count, dtype=np.float32) + 1)[:, None] / np.float32(count + 1)
        return np.concatenate((self._ahead[:count] * (1 - weight) + own[:count] * weight, own[count:]))

    def _next_sound(self) -> Span | None:
        """What the solved tiles let be rendered."""
        return self._span(self._final)

    def _last_sound(self) -> Span | None:
        """The rest of the segment, once all its tiles are solved."""
        if not self._ended or self._next_tile() is not None:
            return None
        self._needs = self.groups
        return self._span(self._vocoder.grid.edge(self.groups))

    def _span(self, until: int) -> Span | None:
        """From the state's frame to ``until``, whose context is final, in one of the fixed shapes."""
        count = until - self._state.frame
        if count <= 0:
            return None
        shape = next((shape for shape in self._vocoder.render_shapes if shape >= count), count)
        mel = self._context(self._state.frame, shape)
        return Span(mel, self._state.frame, count, self._state.phase, self._draws)

    def _take_sound(self, span: Span, pcm: Pcm, phase: int) -> list[PcmChunk]:
        """The PCM of a span, as the chunk that it is; none if all of it was handed out before."""
        before, hop, until = self._state, self._vocoder.head.hop, span.frame + span.count
        start = max(before.sample, span.frame * hop)
        self._state = replace(before, frame=until, sample=max(start, until * hop), phase=phase)
        pcm = pcm[start - span.frame * hop :]
        return [PcmChunk(pcm, start, before, self._state, self._needs)] if len(pcm) else []

    def _context(self, frame: int, hops: int) -> Mel:
        """The mel of ``hops`` hops with their context; the floor where it does not exist, or not yet."""
        head, held = self._vocoder.head, self._mel
        first = frame - head.frames_before
        length = head.frames_before + hops + head.frames_after
        window = np.full((length, held.shape[1]), head.floor, np.float32)
        start, stop = max(first, self._mel_start), min(first + length, self._mel_start + len(held))
        window[start - first : stop - first] = held[start - self._mel_start : stop - self._mel_start]
        return window

    def _forget(self) -> None:
        """Drop the groups and frames that nothing to come depends on."""
        groups = max(0, self._vocoder.plan.tile(self._tile).first - self._base)
        groups = min(groups, len(self._groups))
        self._groups, self._base = self._groups[groups:], self._base + groups
        frames = max(0, self._state.frame - self._vocoder.head.frames_before - self._mel_start)
        frames = min(frames, len(self._mel))
        self._mel, self._mel_start = self._mel[frames:], self._mel_start + frames
