"""The flow reproduces the reference's stored values, and keeps its contract of arguments and shapes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aqaa.bundle.public_vocoder import load_flow
from aqaa.errors import InvalidToken
from aqaa.models.flow import Flow, FlowConfig, MatchingConfig, step_times
from aqaa.models.flow_conformer import ConformerConfig, align_distances, relative_positions
from aqaa.models.flow_unet import ConditionalDecoder, UnetConfig

GOLDEN = Path(__file__).parents[2] / "golden" / "flow"
TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-5

TINY = FlowConfig(
    vocab_size=20,
    token_rate=41.667,
    sample_rate=22050,
    hop=256,
    mel_bins=6,
    speaker_size=5,
    regulator_convs=2,
    encoder=ConformerConfig(input_size=8, output_size=8, heads=2, linear_units=16, blocks=1),
    unet=UnetConfig(
        in_channels=24, out_channels=6, channels=(8, 8), heads=2, head_dim=4, blocks=1, mid_blocks=1
    ),
    matching=MatchingConfig(sigma_min=1e-6, training_cfg_rate=0.2, inference_cfg_rate=0.7),
)


class Vectors:
    """The stored inputs and expectations, as tensors."""

    def __init__(self) -> None:
        with np.load(GOLDEN / "inputs.npz") as inputs, np.load(GOLDEN / "expected.npz") as expected:
            self.given = {key: torch.from_numpy(inputs[key]) for key in inputs.files}
            self.expected = {key: torch.from_numpy(expected[key]) for key in expected.files}

    def prompt(self, case: str) -> tuple[Tensor, Tensor]:
        """Prompt tokens (1, N) and mel (1, F, T); both empty in the case without a prompt."""
        tokens, mel = self.given["prompt_token"], self.given["prompt_mel"].transpose(1, 2)
        return (tokens, mel) if case == "prompt" else (tokens[:, :0], mel[:, :, :0])

    def assert_close(self, actual: Tensor, key: str, tolerance: float = TOLERANCE) -> None:
        expected = self.expected[key].to(torch.float64)
        torch.testing.assert_close(
            actual.detach().to(torch.float64).reshape(expected.shape), expected, rtol=0, atol=tolerance
        )


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return Vectors()


@pytest.fixture
def flow() -> Flow:
    return load_flow(GOLDEN)


@pytest.fixture(scope="module")
def tiny() -> Flow:
    torch.manual_seed(3)
    return Flow(TINY).eval()


@pytest.mark.parametrize("case", ["prompt", "noprompt"])
class TestGoldenSynthesis:
    def test_encoder_and_prior(self, flow: Flow, vectors: Vectors, case: str) -> None:
        prompt_tokens, prompt_mel = vectors.prompt(case)
        tokens = vectors.given["token"]
        encoded = flow.encode(torch.cat((prompt_tokens, tokens), dim=1))
        vectors.assert_close(flow.speaker(vectors.given["xvec"]), f"{case}_spk80")
        vectors.assert_close(encoded, f"{case}_encoder_out")
        if case == "prompt":
            vectors.assert_close(flow.encoder_proj(encoded), "prompt_encoder_proj")
        frames = flow.config.mel_frames(tokens.shape[1])
        vectors.assert_close(flow.prior(tokens, prompt_tokens, prompt_mel.shape[2], frames), f"{case}_mu")

    def test_mel(self, flow: Flow, vectors: Vectors, case: str) -> None:
        vectors.assert_close(synthesize(flow, vectors, case), f"{case}_mel")

    def test_bfloat16_mel(self, flow: Flow, vectors: Vectors, case: str) -> None:
        mel = synthesize(flow.to(torch.bfloat16), vectors, case)
        expected = vectors.expected[f"{case}_mel"]
        assert mel.dtype == torch.float32
        assert (mel - expected).norm() / expected.norm() <= 0.1


def synthesize(flow: Flow, vectors: Vectors, case: str) -> Tensor:
    prompt_tokens, prompt_mel = vectors.prompt(case)
    given = vectors.given
    return flow.synthesize(
        given["token"], prompt_tokens, prompt_mel, given["xvec"], given[f"z_{case}"], steps=10, cfg_rate=0.7
    )


def test_golden_euler_path(flow: Flow, vectors: Vectors) -> None:
    """The states after steps 1 and 5, and the time of every step."""
    prompt_mel = vectors.prompt("prompt")[1]
    mu, noise = vectors.expected["prompt_mu"], vectors.given["z_prompt"]
    cond = F.pad(prompt_mel, (0, mu.shape[2] - prompt_mel.shape[2]))
    speaker = vectors.expected["prompt_spk80"]
    path = list(flow.decoder.euler(noise, mu, speaker, cond, steps=10, cfg_rate=0.7))
    assert len(path) == 10
    vectors.assert_close(torch.cat((path[0], path[4])), "prompt_x_after_step")
    vectors.assert_close(step_times(10)[:-1], "prompt_t_of_step")


def test_golden_estimator(flow: Flow, vectors: Vectors) -> None:
    """One evaluation on the guided batch: conditions first, zeros second."""
    prompt_mel = vectors.prompt("prompt")[1]
    mu, state = vectors.expected["prompt_mu"], vectors.given["z_prompt"]
    cond = F.pad(prompt_mel, (0, mu.shape[2] - prompt_mel.shape[2]))
    speaker = vectors.expected["prompt_spk80"]
    mu, speaker, cond = (torch.cat((part, torch.zeros_like(part))) for part in (mu, speaker, cond))
    velocity = flow.decoder.estimator(
        state.repeat(2, 1, 1), mu, vectors.given["est_t"].repeat(2), speaker, cond
    )
    vectors.assert_close(velocity, "est_out")


def test_golden_matching_loss(flow: Flow, vectors: Vectors) -> None:
    given = vectors.given
    loss, state = flow.decoder.compute_loss(
        given["loss_x1"],
        given["loss_mu"],
        given["loss_spk"],
        given["loss_cond"],
        noise_BFT=given["loss_z"],
        time_uniform_B=given["loss_t_uniform"],
        guidance_uniform_B=given["loss_cfg_uniform"],
    )
    vectors.assert_close(loss, "loss")
    vectors.assert_close(state, "loss_y")
    loss.backward()
    assert_gradients(flow, vectors, "loss_grad.")


def test_golden_training_loss(flow: Flow, vectors: Vectors) -> None:
    given = vectors.given
    tokens = given["train_token"]
    loss = flow.compute_loss(
        tokens,
        given["train_feat"].transpose(1, 2),
        given["train_xvec"],
        prompt_frames_B=torch.tensor([0, int(given["train_prompt_frames"])]),
        noise_BFT=given["loss_z"],
        time_uniform_B=given["loss_t_uniform"],
        guidance_uniform_B=given["loss_cfg_uniform"],
    )
    vectors.assert_close(loss, "train_loss")
    loss.backward()
    assert_gradients(flow, vectors, "train_grad.", embedding_rows=tokens[0, :4])


def assert_gradients(flow: Flow, vectors: Vectors, prefix: str, embedding_rows: Tensor | None = None) -> None:
    gradients = {name: parameter.grad for name, parameter in flow.named_parameters()}
    keys = [key for key in vectors.expected if key.startswith(prefix)]
    assert keys
    for key in keys:
        gradient = gradients[key.removeprefix(prefix)]
        assert gradient is not None
        if key.endswith("input_embedding.weight"):
            gradient = gradient[embedding_rows]
        vectors.assert_close(gradient, key, GRADIENT_TOLERANCE)


class TestConformer:
    @given(frames=st.integers(1, 12))
    @settings(max_examples=12, deadline=None)
    def test_distances_align_with_keys(self, frames: int) -> None:
        """Query i and key j meet at the row that encodes the distance i - j."""
        distance_of_row = torch.arange(frames - 1, -frames, -1.0)
        aligned = align_distances(distance_of_row.expand(1, 1, frames, -1))[0, 0]
        position = torch.arange(frames)
        assert torch.equal(aligned, (position[:, None] - position).float())

    def test_positions_encode_signed_distance(self) -> None:
        table = relative_positions(5, 6, torch.device("cpu"))
        assert table.shape == (9, 6)
        assert torch.equal(table[4], torch.tensor([0.0, 1.0] * 3))  # distance 0
        assert torch.equal(table[3, 0::2], -table[5, 0::2])  # sine is odd
        assert torch.equal(table[3, 1::2], table[5, 1::2])  # cosine is even

    def test_wrong_number_of_distances(self) -> None:
        with pytest.raises(ValueError, match="expected 7 distances for 4 queries, got 8"):
            align_distances(torch.zeros(1, 1, 4, 8))

    def test_heads_must_divide_the_width(self) -> None:
        with pytest.raises(ValueError, match="10 is not a multiple of 4 heads"):
            ConformerConfig(input_size=8, output_size=10, heads=4, linear_units=8, blocks=1)


class TestUnet:
    @given(frames=st.integers(1, 23))
    @settings(max_examples=15, deadline=None)
    def test_any_number_of_frames(self, frames: int) -> None:
        torch.manual_seed(0)
        config = UnetConfig(
            in_channels=8, out_channels=2, channels=(16, 16, 32), heads=2, head_dim=4, blocks=1, mid_blocks=1
        )
        assert config.stride == 4
        part = torch.randn(1, 2, frames)
        velocity = ConditionalDecoder(config)(part, part, torch.tensor([0.5]), torch.randn(1, 2), part)
        assert velocity.shape == (1, 2, frames)
        assert velocity.isfinite().all()

    def test_channels_must_split_into_groups(self) -> None:
        with pytest.raises(ValueError, match="multiples of 8"):
            UnetConfig(
                in_channels=8, out_channels=2, channels=(12,), heads=1, head_dim=4, blocks=1, mid_blocks=1
            )


class TestContract:
    """What holds for every flow, whatever its weights."""

    def inputs(self, frames: int = 17) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(5)
        return (
            torch.tensor([[1, 2, 3, 4, 19]]),
            torch.tensor([[7, 8]]),
            torch.randn(1, 6, 4, generator=generator),
            torch.randn(1, 5, generator=generator),
            torch.randn(1, 6, 4 + frames, generator=generator),
        )

    def test_nothing_random_inside(self, tiny: Flow) -> None:
        given = self.inputs()
        torch.manual_seed(1)
        first = tiny.synthesize(*given, steps=3)
        torch.manual_seed(2)
        assert torch.equal(first, tiny.synthesize(*given, steps=3))

    def test_noise_decides_the_length(self, tiny: Flow) -> None:
        assert tiny.synthesize(*self.inputs(frames=9), steps=1).shape == (1, 6, 9)
        assert tiny.synthesize(*self.inputs(frames=12), steps=1).shape == (1, 6, 12)

    def test_guidance_defaults_to_the_configured_rate(self, tiny: Flow) -> None:
        given = self.inputs()
        assert torch.equal(tiny.synthesize(*given, steps=2), tiny.synthesize(*given, steps=2, cfg_rate=0.7))

    def test_guidance_of_zero_is_the_plain_velocity(self, tiny: Flow) -> None:
        """Off means off: nearly the limit of weak guidance, at half the work."""
        given = self.inputs()
        off = tiny.synthesize(*given, steps=2, cfg_rate=0.0)
        weak = tiny.synthesize(*given, steps=2, cfg_rate=1e-6)
        torch.testing.assert_close(off, weak, rtol=0, atol=1e-4)

    def test_mel_frames_round_down(self) -> None:
        assert TINY.mel_frames(40) == 82
        assert TINY.mel_frames(0) == 0

    @pytest.mark.parametrize("code", [-1, 20])
    def test_codes_outside_the_vocabulary(self, tiny: Flow, code: int) -> None:
        tokens, *rest = self.inputs()
        tokens[0, 2] = code
        with pytest.raises(InvalidToken, match=r"tokens hold codes .* expected 0 … 19"):
            tiny.synthesize(tokens, *rest, steps=1)

    def test_noise_must_reach_past_the_prompt(self, tiny: Flow) -> None:
        *rest, noise = self.inputs()
        with pytest.raises(ValueError, match="4 of them the prompt's"):
            tiny.synthesize(*rest, noise[:, :, :4], steps=1)

    def test_prompt_is_whole_or_absent(self, tiny: Flow) -> None:
        tokens, prompt_tokens, prompt_mel, xvector, noise = self.inputs()
        with pytest.raises(ValueError, match="0 tokens, 4 frames"):
            tiny.synthesize(tokens, prompt_tokens[:, :0], prompt_mel, xvector, noise, steps=1)

    def test_at_least_one_step(self, tiny: Flow) -> None:
        with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
            tiny.synthesize(*self.inputs(), steps=0)

    def test_training_lowers_the_loss(self) -> None:
        """Twenty steps of gradient descent on one fixed draw."""
        torch.manual_seed(7)
        flow = Flow(TINY)
        optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
        tokens, mel = torch.randint(0, 20, (2, 10)), torch.randn(2, 6, 20)
        xvector, noise = torch.randn(2, 5), torch.randn(2, 6, 20)
        losses = []
        for _ in range(20):
            loss = flow.compute_loss(
                tokens,
                mel,
                xvector,
                prompt_frames_B=torch.tensor([0, 6]),
                noise_BFT=noise,
                time_uniform_B=torch.tensor([0.3, 0.8]),
                guidance_uniform_B=torch.tensor([0.9, 0.9]),
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]
