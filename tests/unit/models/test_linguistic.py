"""The linguistic encoder: upstream's numbers, and one result for the streaming and the parallel form."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aqaa.audio.lfr import LinguisticFrontend, read_cmvn
from aqaa.errors import BundleUnsupported, StateError
from aqaa.models.linguistic import LinguisticConfig, LinguisticEncoder, nearest_code

GOLDEN = Path(__file__).parents[2] / "golden" / "linguistic"
KEYS = Path(__file__).parents[2] / "golden" / "keys" / "keys_paraformer_encoder.tsv"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
SMALL = LinguisticConfig(dim=16, heads=2, ff_dim=24, blocks=3, input_dim=12, look_back_chunks=2)


@pytest.fixture(scope="module")
def arrays() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / "expected.npz").items()}


@pytest.fixture(scope="module")
def encoder() -> LinguisticEncoder:
    model = LinguisticEncoder(LinguisticConfig(dim=48, heads=3, ff_dim=96, blocks=3)).eval()
    stored = torch.load(GOLDEN / "model.pt", weights_only=True)
    prefix = "encoder."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)})
    return model


@pytest.fixture(scope="module")
def centroids() -> torch.Tensor:
    return torch.from_numpy(np.load(GOLDEN / "linguistic_tokenizer.npy"))


def random_encoder(config: LinguisticConfig) -> LinguisticEncoder:
    torch.manual_seed(0)
    return LinguisticEncoder(config).eval()


def stream_all(encoder: LinguisticEncoder, features: torch.Tensor) -> torch.Tensor:
    state, outputs = encoder.initial_state(len(features)), []
    for chunk in features.split(encoder.config.chunk_frames, dim=1):
        out, state = encoder.stream(chunk, state)
        outputs.append(out)
    return torch.cat(outputs, dim=1)


def test_the_full_size_tensors_are_those_of_the_public_checkpoint():
    with torch.device("meta"):
        model = LinguisticEncoder(LinguisticConfig(dim=512, heads=4, ff_dim=2048, blocks=50))
    shapes = {f"encoder.{name}": tuple(t.shape) for name, t in model.state_dict().items()}
    rows = [line.split("\t") for line in KEYS.read_text().splitlines() if line]
    assert shapes == {name: tuple(map(int, shape.split("x"))) for name, shape in rows}


@torch.no_grad()
def test_states_match_upstream(encoder, arrays):
    features = arrays["lfr_cmvn"][None]
    torch.testing.assert_close(stream_all(encoder, features)[0], arrays["enc_out"], rtol=0, atol=1e-4)
    torch.testing.assert_close(encoder(features)[0], arrays["enc_out"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_whole_windows_match_upstream(encoder, arrays):
    state, windows = encoder.initial_state(), []
    for chunk in arrays["lfr_cmvn"][None, :16].split(4, dim=1):
        window, state = encoder.stream_window(chunk, state)
        windows.append(window[0])
    torch.testing.assert_close(torch.cat(windows), arrays["enc_full_first4_chunks"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_states_from_the_wave_match_upstream(encoder, arrays):
    speech = soundfile.read(GOLDEN / "input.wav", dtype="float32")[0]
    frontend = LinguisticFrontend(read_cmvn(GOLDEN / "am.mvn"))
    features = torch.from_numpy(np.concatenate(frontend.push(speech) + frontend.flush()))
    torch.testing.assert_close(encoder(features[None])[0], arrays["enc_out"], rtol=0, atol=5e-3)


@pytest.mark.parametrize("case", EXPECTED["oneshot"], ids=lambda case: str(case["samples"]))
@torch.no_grad()
def test_codes_of_a_clip_match_upstream(case, encoder, centroids):
    speech = soundfile.read(GOLDEN / "input.wav", dtype="float32")[0][: case["samples"]]
    frontend = LinguisticFrontend(read_cmvn(GOLDEN / "am.mvn"))
    state, codes = encoder.initial_state(), []
    for chunk in frontend.push(speech) + frontend.flush():
        out, state = encoder.stream(torch.from_numpy(chunk)[None], state)
        codes += nearest_code(out[0], centroids).tolist()
    assert codes == case["codes"]


@pytest.mark.parametrize("session", EXPECTED["sessions"], ids=lambda session: str(len(session["calls"])))
@torch.no_grad()
def test_codes_of_each_call_of_a_session_match_upstream(session, encoder, centroids):
    speech = soundfile.read(GOLDEN / "input.wav", dtype="float32")[0]
    frontend, state, start = LinguisticFrontend(read_cmvn(GOLDEN / "am.mvn")), encoder.initial_state(), 0
    for call in session["calls"]:
        chunks = frontend.push(speech[start : start + call["samples"]])
        start += call["samples"]
        if call["is_final"]:
            chunks += frontend.flush()
        codes = []
        for chunk in chunks:
            out, state = encoder.stream(torch.from_numpy(chunk)[None], state)
            codes += nearest_code(out[0], centroids).tolist()
        assert codes == call["codes"]


@settings(max_examples=25, deadline=None)
@given(
    chunk=st.integers(1, 9),
    overlap=st.integers(0, 6),
    look_back=st.integers(0, 3),
    kernel=st.sampled_from([1, 5, 11]),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
)
@torch.no_grad()
def test_parallel_equals_streaming(chunk, overlap, look_back, kernel, lengths):
    config = replace(
        SMALL, chunk_frames=chunk, overlap_frames=overlap, look_back_chunks=look_back, kernel_size=kernel
    )
    encoder = random_encoder(config)
    features = torch.randn(len(lengths), max(lengths), config.input_dim)
    together = encoder(features, torch.tensor(lengths))
    for item, length in enumerate(lengths):
        alone = stream_all(encoder, features[item : item + 1, :length])[0]
        torch.testing.assert_close(together[item, :length], alone, rtol=0, atol=1e-5)
        assert not together[item, length:].any()


@torch.no_grad()
def test_padding_does_not_reach_real_frames():
    encoder = random_encoder(SMALL)
    features = torch.randn(2, 21, SMALL.input_dim)
    lengths = torch.tensor([21, 10])
    spoiled = features.clone()
    spoiled[1, 10:] = 1e4
    assert torch.equal(encoder(features, lengths), encoder(spoiled, lengths))


@torch.no_grad()
def test_a_state_is_a_value():
    encoder = random_encoder(SMALL)
    first, second, other = torch.randn(3, 1, 4, SMALL.input_dim).unbind()
    _, state = encoder.stream(first, encoder.initial_state())
    once, _ = encoder.stream(second, state)
    encoder.stream(other, state)
    again, _ = encoder.stream(second, state)
    assert torch.equal(once, again)


@torch.no_grad()
def test_streams_at_different_positions_share_a_batch():
    encoder = random_encoder(SMALL)
    ahead, behind = torch.randn(2, 1, 24, SMALL.input_dim).unbind()
    state, late = encoder.initial_state(), encoder.initial_state()
    for chunk in ahead[:, :20].split(4, dim=1):
        _, state = encoder.stream(chunk, state)
    joined = replace(
        state,
        position=torch.cat((state.position, late.position)),
        overlap=torch.cat((state.overlap, late.overlap)),
        past=tuple(torch.cat(pair) for pair in zip(state.past, late.past, strict=True)),
    )
    out, _ = encoder.stream(torch.cat((ahead[:, 20:], behind[:, :4])), joined)
    torch.testing.assert_close(out[:1], encoder.stream(ahead[:, 20:], state)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(out[1:], encoder.stream(behind[:, :4], late)[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_offset_shifts_positions_item_by_item():
    encoder = random_encoder(SMALL)
    features = torch.randn(2, 8, SMALL.input_dim)
    shifted = encoder(features, position_offset=torch.tensor([0, 5]))
    torch.testing.assert_close(shifted[0], encoder(features)[0])
    torch.testing.assert_close(shifted[1], encoder(features, position_offset=5)[1])
    assert not torch.allclose(shifted[1], encoder(features)[1], atol=1e-2)


def test_training_reaches_every_parameter_and_only_real_frames():
    encoder = LinguisticEncoder(replace(SMALL, dropout=0.1)).train()
    features = torch.randn(2, 13, SMALL.input_dim, requires_grad=True)
    encoder(features, torch.tensor([13, 6])).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert features.grad is not None
    assert features.grad[0].any(dim=1).all()
    assert not features.grad[1, 6:].any()


@pytest.mark.parametrize("shape", [(1, 5, 12), (1, 0, 12), (1, 4, 11), (2, 4, 12)])
def test_a_chunk_that_does_not_fit_is_refused(shape):
    encoder = random_encoder(SMALL)
    with pytest.raises(StateError, match="expected"):
        encoder.stream(torch.zeros(shape), encoder.initial_state())


def test_nothing_follows_a_short_chunk():
    encoder = random_encoder(SMALL)
    _, state = encoder.stream(torch.zeros(1, 3, SMALL.input_dim), encoder.initial_state())
    with pytest.raises(StateError, match="ended"):
        encoder.stream(torch.zeros(1, 4, SMALL.input_dim), state)


@pytest.mark.parametrize(
    "change",
    [
        {"heads": 3},
        {"dim": 0},
        {"kernel_size": 4},
        {"input_dim": 7},
        {"overlap_frames": -1},
        {"dropout": 1.0},
    ],
    ids=str,
)
def test_an_impossible_size_is_named(change):
    with pytest.raises(BundleUnsupported, match="dim" if "heads" in change else next(iter(change))):
        replace(SMALL, **change)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 30), start=st.integers(0, 29), seed=st.integers(0, 2**31))
def test_a_code_does_not_depend_on_the_other_rows(rows, start, seed):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(30, 32, generator=generator)
    table = torch.randn(64, 32, generator=generator)
    codes = nearest_code(states, table)
    assert torch.equal(nearest_code(states[start : start + rows], table), codes[start : start + rows])
    assert torch.equal(codes, torch.cdist(states.double(), table.double()).argmin(dim=1))


def test_equal_centroids_give_the_lowest_code():
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert nearest_code(torch.tensor([[[0.0, 2.0], [3.0, 0.0]]]), table).tolist() == [[1, 0]]
    assert nearest_code(torch.empty(0, 2), table).shape == (0,)
