"""The streaming tokenizer: the same groups for any chunking, nothing from the future, nothing lost."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.audio.decode import read_audio
from aqaa.audio.fbank import PARAFORMER
from aqaa.audio.gain import peak_normalize
from aqaa.audio.lfr import Cmvn, LfrOptions
from aqaa.audio.whisper_mel import LogMelOptions, causal_log_mel
from aqaa.bundle.public_tokenizer import PublicTokenizer, load_linguistic, load_semantic
from aqaa.engine.reference import reference_linguistic
from aqaa.engine.tokenizer import Tokenizer
from aqaa.engine.tokenizer.branches import NanoSemanticBranch, SanmBranch
from aqaa.errors import BundleUnsupported, InvalidAudio, StateError
from aqaa.models.linguistic import LinguisticConfig, LinguisticEncoder
from aqaa.models.nano_semantic import NanoSemanticConfig, NanoSemanticEncoder

GOLDEN = Path(__file__).parents[2] / "golden"
GROUP, HOP = 1920, 7680
LEVELS = st.sampled_from(["normalised", "kept"])


def nano(hop: int = HOP, group: tuple[int, int] = (2, 3)) -> Tokenizer:
    torch.manual_seed(0)
    encoder = LinguisticEncoder(
        LinguisticConfig(dim=16, heads=2, ff_dim=16, blocks=2, chunk_frames=8, overlap_frames=4)
    ).eval()
    sizes = NanoSemanticConfig(n_mels=16, dim=8)
    mel = LogMelOptions(n_mels=sizes.n_mels, floor=sizes.floor)
    cmvn = Cmvn(np.full(560, -8, np.float32), np.full(560, 0.2, np.float32))
    return Tokenizer(
        SanmBranch(PARAFORMER, LfrOptions(chunk=8), cmvn, encoder, torch.randn(64, 16)),
        NanoSemanticBranch(NanoSemanticEncoder(sizes).eval(), mel, hop // mel.hop),
        16000,
        hop,
        *group,
    )


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return nano()


@pytest.fixture(scope="module")
def parts() -> PublicTokenizer:
    linguistic = load_linguistic(GOLDEN / "linguistic", GOLDEN / "linguistic" / "linguistic_tokenizer.npy")
    return PublicTokenizer(
        linguistic, load_semantic(GOLDEN / "semantic" / "speech_tokenizer_v1.onnx", heads=2)
    )


@pytest.fixture(scope="module")
def public(parts: PublicTokenizer) -> Tokenizer:
    return Tokenizer.public(parts)


def speech(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.uniform(0.0, 0.5, samples // 800 + 1), 800)[:samples]
    return (rng.normal(size=samples) * level).clip(-1, 1).astype(np.float32)


def streamed(tokenizer: Tokenizer, pieces, level="normalised") -> np.ndarray:
    stream = tokenizer.stream(level)
    return np.concatenate([*(stream.push(piece) for piece in pieces), stream.finish()])


@settings(deadline=None, max_examples=12)
@given(samples=st.integers(0, 3 * HOP), cuts=st.lists(st.integers(0, 3 * HOP), max_size=8), level=LEVELS)
def test_any_chunking_gives_the_groups_of_the_whole_signal(tokenizer, samples, cuts, level):
    pcm = speech(samples)
    whole = tokenizer.tokenize(pcm, level)
    assert whole.shape == (-(-samples // GROUP), 5)
    assert np.array_equal(streamed(tokenizer, np.split(pcm, sorted(cuts)), level), whole)


@pytest.mark.parametrize("pieces", [1, 7, 40])
def test_the_public_modules_stream_as_exactly(public, pieces):
    pcm = speech(2 * HOP + 3000)
    whole = public.tokenize(pcm)
    assert whole.shape == (-(-len(pcm) // GROUP), 5)
    assert np.array_equal(streamed(public, np.array_split(pcm, pieces)), whole)


def test_the_public_linguistic_codes_are_the_references(parts, public):
    """Where the loudest sample is in the first hop the causal gain is the reference's."""
    pcm = read_audio(GOLDEN / "linguistic" / "input.wav").samples
    pcm = pcm[: len(pcm) // GROUP * GROUP].copy()
    pcm[1000] = np.abs(pcm).max() * 1.5
    expected = reference_linguistic(parts.linguistic, peak_normalize(pcm))
    assert public.tokenize(pcm)[:, :2].reshape(-1).tolist() == expected.tolist()


@torch.no_grad()
def test_nano_codes_are_those_of_the_encoders_on_the_whole_signal(tokenizer):
    """Windows and chunks are a way to compute, not another result (rounding aside)."""
    pcm = speech(3 * HOP)
    groups = tokenizer.tokenize(pcm, "kept")
    branch = tokenizer.semantic
    values = branch.encoder(torch.tensor(causal_log_mel(pcm, branch.mel))[None])
    expected = branch.encoder.quantizer.encode(values)[0].numpy()
    assert np.mean(groups[:, 2:].reshape(-1) == expected) > 0.97


def test_groups_of_a_hop_come_with_the_next_and_do_not_change(tokenizer):
    pcm, other = speech(3 * HOP), speech(HOP, seed=1)
    stream = tokenizer.stream()
    assert len(stream.push(pcm[:HOP])) == 0
    first = stream.push(pcm[HOP : 2 * HOP])
    assert first.shape == (4, 5)
    whole = tokenizer.tokenize(pcm)
    assert np.array_equal(whole[:4], first)
    changed = tokenizer.tokenize(np.concatenate((pcm[: 2 * HOP], other)))
    assert np.array_equal(changed[:4], first)
    assert not np.array_equal(changed, whole)


def test_the_tail_counts_as_if_followed_by_silence(tokenizer):
    pcm = speech(HOP + 500)
    padded = np.concatenate((pcm, np.zeros(GROUP - 500, np.float32)))
    assert np.array_equal(tokenizer.tokenize(pcm), tokenizer.tokenize(padded))


def test_a_normalised_level_does_not_matter_and_a_kept_one_does(tokenizer):
    pcm = speech(2 * HOP)
    loud, soft = (tokenizer.tokenize(pcm * np.float32(scale)) for scale in (1, 0.25))
    assert np.array_equal(loud, soft)
    loud, soft = (tokenizer.tokenize(pcm * np.float32(scale), "kept") for scale in (1, 0.25))
    assert np.array_equal(loud[:, :2], soft[:, :2])
    assert not np.array_equal(loud[:, 2:], soft[:, 2:])


def test_two_streams_at_once_do_not_disturb_each_other(tokenizer):
    pcm, other = speech(2 * HOP), speech(2 * HOP, seed=1)
    one, two = tokenizer.stream(), tokenizer.stream()
    heard = []
    for ours, theirs in zip(np.split(pcm, 4), np.split(other, 4), strict=True):
        heard.append(one.push(ours))
        two.push(theirs)
    two.finish()
    assert np.array_equal(np.concatenate([*heard, one.finish()]), tokenizer.tokenize(pcm))


def test_samples_that_are_no_sound_are_refused(tokenizer):
    with pytest.raises(InvalidAudio, match="NaN or infinity"):
        tokenizer.stream().push(np.array([0.0, np.nan], np.float32))
    with pytest.raises(ValueError, match="PCM must be a float array"):
        tokenizer.stream().push(np.zeros(5, np.int16))


def test_a_finished_stream_takes_no_more(tokenizer):
    stream = tokenizer.stream()
    assert stream.finish().shape == (0, 5)
    with pytest.raises(StateError, match="has been finished"):
        stream.push(np.zeros(5, np.float32))


def test_clocks_that_do_not_meet_are_refused():
    with pytest.raises(BundleUnsupported, match="span 960 samples and its 3 semantic codes 1920"):
        nano(group=(1, 3))
    with pytest.raises(BundleUnsupported, match="the hop is 5000 samples"):
        nano(hop=5000)
