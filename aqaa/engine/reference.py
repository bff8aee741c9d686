"""The offline reference chain of upstream: a whole file to linguistic, semantic and merged ids, for parity.

Serving tokenizes streams and pads the last group instead. This chain looks at the whole file (peak
normalisation, a log floor per piece) and drops what fills no group, because the public code does so.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aqaa.audio.decode import Audio
from aqaa.audio.lfr import LinguisticFrontend
from aqaa.audio.reference import reference_preprocess
from aqaa.audio.whisper_mel import WHISPER, LogMelOptions, whisper_log_mel
from aqaa.bundle.public_tokenizer import PublicLinguistic, PublicTokenizer
from aqaa.models.linguistic import nearest_code
from aqaa.models.semantic import SemanticEncoder, piece_bounds
from aqaa.tokens.groups import Ratios, merge
from aqaa.tokens.ids import IdLayout, Ids

Codes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ReferenceTokens:
    """What upstream's ``wav2token`` returns, and the signal that it saw.

    pcm         (n,) float32 at 16 kHz, after preprocessing
    linguistic  codes, 16.67 a second
    semantic    codes, 25 a second
    merged      ids of whole groups, in the vocabulary of ``layout``
    """

    pcm: NDArray[np.float32]
    linguistic: Codes
    semantic: Codes
    merged: Ids


def reference_tokenize(
    tokenizer: PublicTokenizer, audio: Audio, *, trim: bool, layout: IdLayout, ratios: Ratios
) -> ReferenceTokens:
    """Step-Audio ``tokenizer.py`` wav2token: ``trim`` is upstream's for speaker prompts, not for questions.

    Raises InvalidToken when ``layout`` has fewer codes than the tokenizer.
    """
    pcm = reference_preprocess(audio, trim)
    linguistic = reference_linguistic(tokenizer.linguistic, pcm)
    semantic = reference_semantic(tokenizer.semantic, pcm)
    return ReferenceTokens(pcm, linguistic, semantic, merge(linguistic, semantic, layout, ratios))


@torch.inference_mode()
def reference_linguistic(tokenizer: PublicLinguistic, pcm: NDArray[np.float32]) -> Codes:
    """16 kHz PCM (n,) to linguistic codes: 240 ms chunks through one session, as get_vq02_code.

    The end follows upstream's chunk rule (see ``LinguisticFrontend``): a rest under 880 samples has no code.
    """
    frontend = LinguisticFrontend(tokenizer.cmvn, tokenizer.fbank, tokenizer.lfr)
    state = tokenizer.encoder.initial_state()
    codes = [np.empty(0, np.int64)]
    for chunk_TF in frontend.push(pcm) + frontend.flush():
        states_BTD, state = tokenizer.encoder.stream(torch.from_numpy(chunk_TF)[None], state)
        codes.append(nearest_code(states_BTD[0], tokenizer.centroids).numpy())
    return np.concatenate(codes)


@torch.inference_mode()
def reference_semantic(
    encoder: SemanticEncoder, pcm: NDArray[np.float32], options: LogMelOptions = WHISPER
) -> Codes:
    """16 kHz PCM (n,) to semantic codes: each piece of up to 30 s on its own, as get_vq06_code."""
    codes = [np.empty(0, np.int64)]
    for start, stop in piece_bounds(len(pcm)):
        mel_TM = whisper_log_mel(pcm[start:stop], options)
        codes.append(encoder.codes(torch.from_numpy(mel_TM.T.copy())[None])[0].numpy())
    return np.concatenate(codes)
