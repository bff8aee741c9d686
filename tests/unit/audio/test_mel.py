"""Filter banks and the projection: rows that do not depend on their neighbours."""

from pathlib import Path

import numpy as np
import pytest

from aqaa.audio.mel import MelProjection, MelSpectrogram, kaldi_mel_basis, slaney_mel_basis

GOLDEN = Path(__file__).parents[2] / "golden"


def test_slaney_basis_matches_librosa():
    expected = np.load(GOLDEN / "speaker_mel" / "expected.npz")["mel_basis"]
    np.testing.assert_allclose(slaney_mel_basis(22050, 1024, 80, 0, 8000), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "basis",
    [kaldi_mel_basis(16000, 512, 80, 20, 8000), slaney_mel_basis(16000, 400, 128, 0, 8000)],
    ids=["kaldi", "slaney"],
)
def test_projection_equals_the_matrix_product_and_no_row_sees_another(basis):
    spectrum = np.random.default_rng(0).exponential(size=(33, basis.shape[1]))
    project = MelProjection(basis)
    mel = project(spectrum)
    np.testing.assert_allclose(mel, spectrum @ basis.T, rtol=1e-12)
    for rows in (1, 2, 7):
        assert np.array_equal(project(spectrum[:rows]), mel[:rows])


def test_a_filter_in_two_parts_is_refused():
    with pytest.raises(ValueError, match="contiguous"):
        MelProjection(np.array([[0.0, 1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]]))


def test_a_short_window_stands_in_the_middle_of_the_fft():
    basis = np.eye(9)
    pcm = np.zeros(16, np.float32)
    pcm[[0, 3, 12, 15]] = 1  # outside the middle 8 samples
    assert MelSpectrogram(basis, hop=4, window=8)(pcm).max() == 0
    pcm[8] = 1
    assert MelSpectrogram(basis, hop=4, window=8)(pcm).min() > 0.5
