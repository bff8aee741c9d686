"""The steps of a turn as its caller sends them, checked against what came before."""

import numpy as np

from aqaa.engine.vocoder import Restart, Vocoder, VocoderStream
from aqaa.engine.vocoder.parts import Codes
from aqaa.errors import AqaaError, BundleChanged, FieldFault, InvalidRequest, InvalidToken, StateError
from aqaa.v1 import tokens_pb2, vocoder_pb2
from services.vocoder.engine import Begin, Close, End, Step

_PER_GROUP = (("linguistic", 2), ("semantic", 3))


def fault(field: str, what: str) -> AqaaError:
    """What is wrong with one field of a request."""
    return InvalidRequest(faults=[FieldFault(field, what)])


class Turn:
    """What has come of a turn. Each step raises what is wrong with it."""

    def __init__(self, vocoder: Vocoder, seed: int, max_groups: int) -> None:
        self._vocoder, self._seed, self._max_groups = vocoder, seed, max_groups
        self._next_segment: int | None = None  # any number, at first
        self._groups: int | None = None  # of the open segment

    @classmethod
    def opened(cls, given: vocoder_pb2.OpenSynthesis, vocoder: Vocoder, max_groups: int) -> "Turn":
        """Raises BundleChanged for another bundle than the one that is loaded."""
        if given.bundle_digest not in ("", vocoder.digest):
            raise BundleChanged(
                f"open.bundle_digest is {given.bundle_digest[:64]}, this replica holds {vocoder.digest}"
            )
        return cls(vocoder, given.seed, max_groups)

    def step(self, request: vocoder_pb2.StreamSynthesizeRequest) -> tuple[Step, float]:
        """What to do, and the groups that it brings.

        Raises:
            InvalidRequest: out of order, or a number that does not fit.
            InvalidToken: a code outside its codebook.
            StateError: a restart state of another bundle, turn or segment.
        """
        match request.WhichOneof("step"):
            case "segment":
                return self._begin(request.segment), 0.0
            case "groups":
                codes = self._codes(request.groups)
                return codes, float(len(codes))
            case "segment_end":
                return self._end(request.segment_end), 0.0
            case other:
                raise fault(other or "step", "expected segment, groups or segment_end")

    def close(self) -> Close:
        """Nothing more comes. Raises InvalidRequest inside a segment."""
        if self._groups is not None:
            raise fault("segment_end", f"missing after {self._groups} groups")
        return Close()

    def _begin(self, given: vocoder_pb2.SynthesisSegment) -> Begin:
        if self._groups is not None:
            raise fault("segment", "has begun before the end of the one before it")
        if self._next_segment not in (None, given.segment):
            raise fault("segment.segment", f"{given.segment}, expected {self._next_segment}")
        stream = self._stream(given)
        self._next_segment, self._groups = given.segment + 1, 0
        return Begin(given.segment, stream)

    def _stream(self, given: vocoder_pb2.SynthesisSegment) -> VocoderStream:
        if not given.restart:
            state = self._vocoder.stream(self._seed, given.segment).state
        else:
            state = Restart.from_bytes(given.restart)
            if (state.seed, state.segment) != (self._seed, given.segment):
                raise StateError("segment.restart belongs to another turn or segment")
        if given.from_sample:
            if given.from_sample < state.sample:
                raise fault("segment.from_sample", f"{given.from_sample}, expected 0 or {state.sample} on")
            state = state.at(given.from_sample)
        return self._vocoder.resume(state)

    def _codes(self, given: tokens_pb2.AudioGroups) -> Codes:
        if self._groups is None:
            raise fault("groups", "outside of a segment")
        if given.first_group != self._groups:
            raise fault("groups.first_group", f"{given.first_group}, expected {self._groups}")
        count = len(given.linguistic) // _PER_GROUP[0][1]
        columns = []
        for name, size in _PER_GROUP:
            codes = getattr(given, name)
            if len(codes) != count * size:
                raise fault(
                    f"groups.{name}", f"{len(codes)} codes, expected {size} for each of {count} groups"
                )
            columns.append(np.array(codes, np.int64).reshape(count, size))
        groups = np.hstack(columns)
        wrong = np.argwhere(groups >= np.array(self._vocoder.codebooks))
        if len(wrong):
            row, place = (int(index) for index in wrong[0])
            raise InvalidToken(
                f"group {self._groups + row}, place {place}: code {groups[row, place]}, "
                f"expected 0 … {self._vocoder.codebooks[place] - 1}"
            )
        self._groups += count
        if self._groups > self._max_groups:
            raise fault("groups", f"{self._groups} in a segment, expected at most {self._max_groups}")
        return groups

    def _end(self, given: vocoder_pb2.SynthesisSegmentEnd) -> End:
        if self._groups is None:
            raise fault("segment_end", "outside of a segment")
        if given.groups != self._groups:
            raise fault("segment_end.groups", f"{given.groups}, but {self._groups} have come")
        self._groups = None
        return End()
