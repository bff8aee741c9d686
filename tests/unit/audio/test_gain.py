"""Gain: a stream is scaled by what has been heard, and never by what has not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aqaa.audio.gain import CausalGain, causal_gain, peak_normalize

PCM = arrays(np.float32, st.integers(0, 400), elements=st.floats(-4, 4, width=32))
HOP = 48


@settings(deadline=None)
@given(pcm=PCM, cuts=st.lists(st.integers(0, 400), max_size=20), hop=st.integers(1, 100))
def test_any_chunking_gives_the_same_bits(pcm, cuts, hop):
    stream = CausalGain(hop)
    pieces = [stream.push(piece) for piece in np.split(pcm, sorted(cuts))]
    streamed = np.concatenate([*pieces, stream.flush()])
    assert streamed.shape == pcm.shape
    assert np.array_equal(streamed, causal_gain(pcm, hop))


@settings(deadline=None)
@given(pcm=PCM, future=PCM)
def test_no_whole_hop_depends_on_the_future(pcm, future):
    whole = len(pcm) // HOP * HOP
    assert np.array_equal(
        causal_gain(pcm, HOP)[:whole], causal_gain(np.concatenate([pcm, future]), HOP)[:whole]
    )


@given(pcm=PCM)
def test_nothing_leaves_the_range(pcm):
    assert np.abs(causal_gain(pcm, HOP)).max(initial=0) <= np.float32(0.999)
    assert np.abs(peak_normalize(pcm)).max(initial=0) <= np.float32(0.999)


@given(pcm=PCM)
def test_once_the_peak_has_passed_it_is_the_offline_normalisation(pcm):
    loudest = int(np.abs(pcm).argmax()) // HOP * HOP if len(pcm) else 0
    assert np.array_equal(causal_gain(pcm, HOP)[loudest:], peak_normalize(pcm)[loudest:])


def test_the_gain_changes_at_hop_edges_only():
    pcm = np.full(4 * HOP, 0.1, np.float32)
    pcm[2 * HOP + 7] = 0.5
    expected = np.repeat(np.float32([0.999, 0.999, 0.1998, 0.1998]), HOP)
    expected[2 * HOP + 7] = 0.999
    np.testing.assert_allclose(causal_gain(pcm, HOP), expected, rtol=1e-6)


def test_noise_below_the_floor_is_not_raised_to_full_scale():
    quiet = np.full(HOP, 0.001, np.float32)
    for scaled in (causal_gain(quiet, HOP), peak_normalize(quiet)):
        np.testing.assert_allclose(scaled, 0.0999, rtol=1e-6)


def test_a_hop_of_nothing_is_refused():
    with pytest.raises(ValueError, match="hop"):
        CausalGain(0)
