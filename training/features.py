"""Batched torch forms of the front ends in ``aqaa.audio``, fast enough to compute while training.

They follow the same formulas in float32; ``tests/unit/training/test_features.py`` holds them to the
streaming originals.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from aqaa.audio.mel import kaldi_mel_basis, slaney_mel_basis

HOP_SAMPLES = 7680  # the tokenizer's hop: 480 ms at 16 kHz
GAIN_FLOOR, GAIN_PEAK = 0.01, 0.999

_KALDI = torch.from_numpy(kaldi_mel_basis(16000, 512, 80, 20.0, 8000.0)).float().T.contiguous()
_WHISPER = torch.from_numpy(slaney_mel_basis(16000, 400, 128, 0.0, 8000.0)).float().T.contiguous()
_SPEAKER = torch.from_numpy(slaney_mel_basis(24000, 1024, 80, 0.0, 12000.0)).float().T.contiguous()
_HAMMING = torch.hamming_window(400, periodic=False)
_HANN400 = torch.hann_window(400)
_HANN1024 = torch.hann_window(1024)


def causal_gain(pcm_BN: Tensor, hop: int = HOP_SAMPLES) -> Tensor:
    """``aqaa.audio.gain.CausalGain`` for a batch: 0.999 over the running peak, the current hop included."""
    padded = F.pad(pcm_BN, (0, -pcm_BN.shape[1] % hop)).unflatten(1, (-1, hop))
    peak_BH = padded.abs().amax(-1).cummax(1).values.clamp(min=GAIN_FLOOR)
    return (padded * (GAIN_PEAK / peak_BH)[..., None]).flatten(1)[:, : pcm_BN.shape[1]]


def fbank(pcm_BN: Tensor) -> Tensor:
    """Kaldi log-mel (hamming, ×32768, 80 bins): (B, N) at 16 kHz to (B, T, 80)."""
    frames = (pcm_BN * 32768.0).unfold(1, 400, 160)
    frames = frames - frames.mean(-1, keepdim=True)
    frames = frames - 0.97 * torch.cat((frames[..., :1], frames[..., :-1]), -1)
    power = torch.fft.rfft(frames * _HAMMING, 512).abs().square()
    return (power @ _KALDI).clamp(min=1.1920929e-07).log()


def lfr(fbank_BTF: Tensor) -> Tensor:
    """Seven frames in one, six apart, three copies of the first before it: (B, T, 80) to (B, L, 560)."""
    padded = torch.cat((fbank_BTF[:, :1].expand(-1, 3, -1), fbank_BTF), 1)
    return padded.unfold(1, 7, 6).transpose(2, 3).flatten(2)


def whisper_mel(pcm_BN: Tensor, floor: float = 1e-5) -> Tensor:
    """Whisper log-mel with a fixed floor, zero padding at both ends: (B, N) to (B, N // 160, 128).

    Frame t is centred on sample 160 t; (log10 + 4) / 4 as upstream, without its clamp to the maximum.
    """
    frames = F.pad(pcm_BN, (200, 200)).unfold(1, 400, 160)[:, : pcm_BN.shape[1] // 160]
    power = torch.fft.rfft(frames * _HANN400).abs().square()
    return ((power @ _WHISPER).clamp(min=floor).log10() + 4.0) / 4.0


def speaker_mel(pcm_BN: Tensor) -> Tensor:
    """The vocoder's mel of 24 kHz PCM: (B, N) to (B, N // 240, 80), natural logarithm, floor 1e-5."""
    return speaker_frames(F.pad(pcm_BN[:, None], (392, 392), mode="reflect")[:, 0])


def speaker_frames(pcm_BN: Tensor) -> Tensor:
    """The frames of :func:`speaker_mel` that lie wholly inside: (B, N) to (B, (N - 1024) // 240 + 1, 80)."""
    spectrum = torch.fft.rfft(pcm_BN.unfold(1, 1024, 240) * _HANN1024)
    magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
    return (magnitude @ _SPEAKER).clamp(min=1e-5).log()
