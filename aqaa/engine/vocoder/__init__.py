"""The tiled vocoder: groups to PCM, the same bits for any arrival, cut and restart."""

from aqaa.engine.vocoder.restart import Restart
from aqaa.engine.vocoder.stream import PcmChunk, Vocoder, VocoderStream

__all__ = ["PcmChunk", "Restart", "Vocoder", "VocoderStream"]
