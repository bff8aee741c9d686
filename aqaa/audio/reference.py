"""What upstream does to PCM before it tokenizes a file: offline, for parity, not for streams."""

from aqaa.audio.decode import Audio
from aqaa.audio.frames import Float32
from aqaa.audio.gain import peak_normalize
from aqaa.audio.resample import sinc_resample
from aqaa.audio.trim import trim_silence

REFERENCE_RATE = 16000


def reference_preprocess(audio: Audio, trim: bool) -> Float32:
    """Resample to 16 kHz, normalise the peak of the whole file, trim if asked: (n,) float32.

    Upstream trims speaker prompts (``trim=True``) and leaves questions as they are. Its step before these,
    mono as the mean of the channels, is ``read_audio``. Upstream refuses rates below 16 kHz; here they are
    raised by the same kernel.
    """
    pcm = peak_normalize(sinc_resample(audio.samples, audio.sample_rate, REFERENCE_RATE))
    return trim_silence(pcm, REFERENCE_RATE) if trim else pcm
