import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.tokens import Domain, keyed_normals, philox4x32, uniform, uniforms

# Random123, kat_vectors: philox 4x32, 10 rounds.
PUBLISHED = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]

seeds = st.integers(0, 2**64 - 1)
indices = st.integers(0, 2**40)


def words(line: str) -> list[int]:
    return [int(word, 16) for word in line.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_published_vectors(counter, key, expected):
    k0, k1 = words(key)
    assert philox4x32(words(counter), (k0, k1)).tolist() == words(expected)


def test_many_counters_at_once_keep_their_shape():
    counters = np.array([[words(PUBLISHED[0][0]), words(PUBLISHED[0][0])]])
    assert philox4x32(counters, (0, 0)).tolist() == [[words(PUBLISHED[0][2])] * 2]


@given(seeds, indices, st.integers(0, 5))
def test_a_uniform_is_the_first_two_words_of_its_counter(seed, index, lane):
    counter = [lane, index % 2**32, index >> 32, Domain.TOKEN]
    first, second, _, _ = philox4x32(counter, (seed % 2**32, seed >> 32)).tolist()
    expected = ((first >> 5) * 2**26 + (second >> 6)) / 2**53
    assert uniform(seed, Domain.TOKEN, index, lane) == expected
    assert uniforms(seed, Domain.TOKEN, index, lane + 1)[lane] == expected
    assert 0 <= expected < 1


@settings(max_examples=60)
@given(seeds, indices, st.integers(1, 60), st.integers(1, 90), st.data())
def test_normals_are_the_same_bits_however_they_are_sliced(seed, index, count, lanes, data):
    whole = keyed_normals(seed, Domain.FLOW_NOISE, index, count, lanes)
    first = data.draw(st.integers(0, count - 1))
    rows = data.draw(st.integers(0, count - first))
    fewer = data.draw(st.integers(1, lanes))
    part = keyed_normals(seed, Domain.FLOW_NOISE, index + first, rows, fewer)
    assert part.tobytes() == whole[first : first + rows, :fewer].tobytes()


def test_normals_are_the_same_bits_across_the_chunks_they_are_made_in():
    whole = keyed_normals(7, Domain.SOURCE_NOISE, 2**32 - 9000, 20_000, 5)
    for first in (0, 1, 4095, 4096, 8191, 9000, 19_990):
        part = keyed_normals(7, Domain.SOURCE_NOISE, 2**32 - 9000 + first, 10, 5)
        assert part.tobytes() == whole[first : first + 10].tobytes()


def test_normals_are_normal():
    drawn = keyed_normals(11, Domain.FLOW_NOISE, 0, 50_000, 8)
    assert drawn.dtype == np.float32
    assert drawn.shape == (50_000, 8)
    assert np.isfinite(drawn).all()
    flat = np.sort(drawn.ravel().astype(np.float64))
    assert abs(flat.mean()) < 0.005
    assert abs(flat.std() - 1) < 0.005
    quantiles = np.array([-2.326, -1.645, -0.674, 0.0, 0.674, 1.645, 2.326])
    expected = np.array([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    assert np.abs(np.searchsorted(flat, quantiles) / len(flat) - expected).max() < 0.003
    assert np.abs(np.corrcoef(drawn.T) - np.eye(8)).max() < 0.02
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.02


def test_seed_and_domain_part_the_streams():
    one = keyed_normals(1, Domain.FLOW_NOISE, 0, 4, 4)
    assert not np.array_equal(one, keyed_normals(2, Domain.FLOW_NOISE, 0, 4, 4))
    assert not np.array_equal(one, keyed_normals(1 << 32, Domain.FLOW_NOISE, 0, 4, 4))
    assert not np.array_equal(one, keyed_normals(1, Domain.SOURCE_NOISE, 0, 4, 4))


def test_no_rows_are_no_numbers():
    assert keyed_normals(1, Domain.FLOW_NOISE, 0, 0, 80).shape == (0, 80)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_beyond_64_bits_is_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        uniform(seed, Domain.TOKEN, 0, 0)
