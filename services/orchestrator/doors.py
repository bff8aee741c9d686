"""What callers may send: every request is looked at here before anything is done for it."""

import math
import re
from collections.abc import Iterable

import numpy as np

from aqaa.errors import FieldFault, InvalidAudio, InvalidRequest
from aqaa.v1.audio_pb2 import AudioEncoding, AudioFormat, QuestionAudio
from aqaa.v1.orchestrator_pb2 import TextReceived, TurnOptions
from aqaa.v1.tokens_pb2 import StartMode

MAX_QUESTION_BYTES = 4 * 2**20
MAX_PIECE_BYTES = 2**20
_MAX_SEGMENTS = 1024
_RATES = (8000, 48000)
_SAMPLE_BYTES = {AudioEncoding.AUDIO_ENCODING_PCM_S16LE: 2, AudioEncoding.AUDIO_ENCODING_PCM_F32LE: 4}
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,64}")


def check_format(given: AudioFormat) -> AudioFormat:
    """Raises InvalidRequest."""
    faults = []
    if given.encoding not in _SAMPLE_BYTES:
        faults.append(
            FieldFault("format.encoding", f"is {given.encoding}, expected PCM_S16LE (1) or PCM_F32LE (2)")
        )
    if not _RATES[0] <= given.sample_rate_hz <= _RATES[1]:
        faults.append(
            FieldFault(
                "format.sample_rate_hz", f"is {given.sample_rate_hz}, expected {_RATES[0]} to {_RATES[1]}"
            )
        )
    if given.channels not in (1, 2):
        faults.append(FieldFault("format.channels", f"is {given.channels}, expected 1 or 2"))
    if faults:
        raise InvalidRequest(faults=faults)
    return given


def frame_bytes(given: AudioFormat) -> int:
    """Bytes of one sample of all channels."""
    return _SAMPLE_BYTES[given.encoding] * given.channels


def check_pcm(pcm: bytes, given: AudioFormat, *, at_most: int, field: str) -> bytes:
    """Whole, finite samples. Raises InvalidRequest for their size, InvalidAudio for what they are."""
    if not pcm or len(pcm) > at_most:
        raise _fault(field, f"has {len(pcm)} bytes, expected 1 to {at_most}")
    if len(pcm) % frame_bytes(given):
        raise _fault(field, f"has {len(pcm)} bytes, expected a multiple of {frame_bytes(given)}")
    floats = given.encoding == AudioEncoding.AUDIO_ENCODING_PCM_F32LE
    if floats and not np.isfinite(np.frombuffer(pcm, "<f4")).all():
        raise InvalidAudio(f"{field} holds NaN or infinity, expected finite samples")
    return pcm


def check_piece(audio: QuestionAudio, given: AudioFormat, received: int) -> bytes:
    """The next piece of a question of which ``received`` bytes have come. Raises as ``check_pcm``."""
    if audio.first_byte != received:
        raise _fault("audio.first_byte", f"is {audio.first_byte}, expected {received}: no gap, no overlap")
    return check_pcm(audio.pcm, given, at_most=MAX_PIECE_BYTES, field="audio.pcm")


def check_options(options: TurnOptions) -> TurnOptions:
    """Raises InvalidRequest."""
    faults = []
    if options.start_mode not in StartMode.values():
        faults.append(FieldFault("options.start_mode", f"is {options.start_mode}, expected 0 to 3"))
    sampling = options.sampling
    for name in ("text_temperature", "linguistic_temperature", "semantic_temperature"):
        value = getattr(sampling, name)
        if sampling.HasField(name) and not 0 <= value <= 2:  # NaN is not
            faults.append(FieldFault(f"options.sampling.{name}", f"is {value}, expected 0 to 2"))
    if sampling.HasField("audio_top_p") and not 0 < sampling.audio_top_p <= 1:
        faults.append(
            FieldFault(
                "options.sampling.audio_top_p", f"is {sampling.audio_top_p}, expected above 0, at most 1"
            )
        )
    if faults:
        raise InvalidRequest(faults=faults)
    return options


def check_request_id(request_id: str) -> str:
    """Raises InvalidRequest."""
    if request_id and not _REQUEST_ID.fullmatch(request_id):
        raise _fault("request_id", "expected at most 64 printable ASCII characters without spaces")
    return request_id


def text_received(given: Iterable[TextReceived]) -> dict[int, int]:
    """Bytes by segment. Raises InvalidRequest."""
    received: dict[int, int] = {}
    for one in given:
        if one.segment in received or len(received) >= _MAX_SEGMENTS:
            raise _fault("text", f"names segment {one.segment} twice, or more than {_MAX_SEGMENTS} segments")
        received[one.segment] = one.bytes
    return received


def question_bytes(given: AudioFormat, seconds: float) -> int:
    """The largest question in bytes: so many seconds, and no more than the contract allows."""
    frames = math.floor(seconds * given.sample_rate_hz)
    return min(MAX_QUESTION_BYTES, frames * frame_bytes(given))


def _fault(field: str, fault: str) -> InvalidRequest:
    return InvalidRequest(faults=[FieldFault(field, fault)])
