"""F0 handed from the teacher's 12.5 ms frames to the 10 ms frames of the mel, in place and time."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.semantic import frame_f0
from training.wave import frame_f0_at

HIBARI_HOP = 300


def glide(samples: np.ndarray) -> np.ndarray:
    """An F0 that tells the time: 100 Hz and a hundredth of a hertz a sample."""
    return 100 + 0.01 * samples


def teacher(frames: int) -> np.ndarray:
    """The glide at the centres of the teacher's frames."""
    return glide((np.arange(frames) + 0.5) * HIBARI_HOP).astype(np.float32)


def test_semantic_targets_are_the_f0_at_sample_240_t():
    found = frame_f0(teacher(80), 100)
    where = 240 * np.arange(100)
    inside = (where >= 150) & (where <= 79.5 * 300)
    np.testing.assert_allclose(found[inside], glide(where)[inside], atol=1e-2)


@given(st.integers(0, 8000), st.integers(1, 40))
@settings(max_examples=50)
def test_wave_targets_are_the_f0_at_frame_centres(first, frames):
    found = frame_f0_at(teacher(80), first, frames)
    where = first + 240 * np.arange(frames) + 120
    inside = (where >= 150) & (where <= 79.5 * 300)
    assert found.shape == (frames,)
    np.testing.assert_allclose(found[inside], glide(where)[inside], atol=1e-2)


def test_both_agree_on_a_frame_that_both_name():
    np.testing.assert_allclose(
        frame_f0_at(teacher(80), -120, 90)[5:], frame_f0(teacher(80), 90)[5:], atol=1e-3
    )


def test_an_edge_of_voicing_is_never_a_mixture():
    f0 = np.where((np.arange(60) // 10) % 2 == 0, 0, 200).astype(np.float32)
    assert set(np.unique(frame_f0(f0, 70))) == {0, 200}
    assert set(np.unique(frame_f0_at(f0, 35, 70))) == {0, 200}


def test_at_an_edge_the_codes_hear_no_pitch_and_the_wave_that_of_the_nearer_frame():
    f0 = np.array([0, 0, 200, 200], np.float32)  # the edge lies between centres 450 and 750
    assert frame_f0(f0, 4).tolist() == [0, 0, 0, 0]  # sample 720 still has an unvoiced neighbour
    assert frame_f0_at(f0, 420, 1).tolist() == [0]  # sample 540
    assert frame_f0_at(f0, 520, 1).tolist() == [200]  # sample 640
