"""Augmentation: whole groups, levels in range, and nothing random but the generator passed in."""

import numpy as np
import pytest
import torch

from training import augment
from training.augment import AugmentConfig

CLEAN = AugmentConfig(room=0.0, noise=0.0, level_db=(-3.0, 0.0))


def clips(*seconds: float) -> list[np.ndarray]:
    """Bursts of a tone with noise."""
    rng, made = np.random.default_rng(5), []
    for length in seconds:
        time = np.arange(int(length * 16000)) / 16000
        pcm = np.sin(2 * np.pi * 300 * time) * (np.sin(9 * time) > 0) + 0.01 * rng.standard_normal(len(time))
        made.append((0.3 * pcm).astype(np.float32))
    return made


class TestWaveforms:
    def test_lengths_are_whole_groups_that_hold_the_clip(self):
        source = clips(0.7, 1.9, 1.2)
        pcm, samples = augment.waveforms(source, AugmentConfig(), np.random.default_rng(0))
        assert (samples % 1920 == 0).all()
        assert pcm.shape == (3, int(samples.max()))
        for row, clip in enumerate(source):
            assert len(clip) + 960 <= samples[row] < len(clip) + 6400 + 960 + 1920
            assert (pcm[row, samples[row] :] == 0).all()

    @pytest.mark.parametrize("seed", range(4))
    def test_levels_are_in_range(self, seed):
        config = AugmentConfig(level_db=(-24.0, -6.0))
        for clip in clips(0.8, 1.5):
            pcm, _ = augment.waveforms([clip], config, np.random.default_rng(seed))
            peak = 20 * np.log10(float(pcm.abs().max()))
            assert -24.01 <= peak <= -5.99

    def test_the_same_generator_gives_the_same_batch(self):
        first, again, other = (
            augment.waveforms(clips(0.8, 1.1), AugmentConfig(), np.random.default_rng(seed))[0]
            for seed in (3, 3, 4)
        )
        assert torch.equal(first, again)
        assert first.shape != other.shape or not torch.equal(first, other)

    def test_torch_has_no_say(self):
        torch.manual_seed(1)
        first, _ = augment.waveforms(clips(0.8), AugmentConfig(), np.random.default_rng(3))
        torch.manual_seed(2)
        again, _ = augment.waveforms(clips(0.8), AugmentConfig(), np.random.default_rng(3))
        assert torch.equal(first, again)

    def test_clean_and_noisy_of_one_seed_have_the_same_shifts(self):
        """The semantic tokenizer compares their codes position by position."""
        noisy = AugmentConfig(room=0.0, noise=1.0, snr_db=(30.0, 40.0))
        made = [augment.waveforms(clips(0.9, 1.4), c, np.random.default_rng(8)) for c in (CLEAN, noisy)]
        assert torch.equal(made[0][1], made[1][1])
        for a, b in zip(made[0][0], made[1][0], strict=True):
            assert torch.corrcoef(torch.stack((a, b)))[0, 1] > 0.98

    def test_without_shift_a_clip_starts_at_once(self):
        (clip,) = clips(0.6)
        pcm, samples = augment.waveforms([clip], CLEAN, np.random.default_rng(1), shift=False)
        assert samples[0] == -(-(len(clip) + 960) // 1920) * 1920
        head = pcm[0, : len(clip)].numpy()
        assert np.corrcoef(head, clip)[0, 1] > 0.999

    def test_noise_keeps_its_distance(self):
        (clip,) = clips(1.5)
        config = AugmentConfig(room=0.0, noise=1.0, snr_db=(20.0, 20.0), level_db=(0.0, 0.0))
        pcm, _ = augment.waveforms([clip], config, np.random.default_rng(1), shift=False)
        heard = pcm[0, : len(clip)].numpy().astype(np.float64)
        scale = heard @ clip / (clip @ clip)
        noise = heard - scale * clip
        distance = 10 * np.log10(np.mean((scale * clip) ** 2) / np.mean(noise**2))
        assert distance == pytest.approx(20.0, abs=2.5)


class TestTape:
    def test_a_slower_tape_is_longer_and_deeper(self):
        config = AugmentConfig(speed=1.0, speed_range=(0.8, 0.8))
        time = np.arange(16000) / 16000
        tone = np.sin(2 * np.pi * 400 * time).astype(np.float32)
        played = augment.tape(tone, config, np.random.default_rng(0))
        assert len(played) == pytest.approx(20000, abs=2)
        assert np.abs(np.fft.rfft(played)).argmax() * 16000 / len(played) == pytest.approx(320, abs=1)

    def test_as_many_clips_are_played_otherwise_as_asked(self):
        config = AugmentConfig(speed=0.25, speed_range=(0.9, 1.1))
        rng, clip = np.random.default_rng(0), np.zeros(1600, np.float32)
        changed = sum(len(augment.tape(clip, config, rng)) != 1600 for _ in range(400))
        assert 70 < changed < 130


def test_a_room_keeps_the_direct_sound_first():
    click = torch.zeros(2, 9000)
    click[:, 100] = 1.0
    wet = augment.room(click, np.random.default_rng(0))
    assert wet.shape == click.shape
    torch.testing.assert_close(wet[:, 100], torch.ones(2), atol=1e-4, rtol=0)
    assert wet[:, :100].abs().max() < 1e-4
    assert wet[:, 101:124].abs().max() < 1e-4
    assert (wet[:, 124:].abs().amax(1) > 1e-3).all()


class TestMel:
    mel = torch.from_numpy(np.random.default_rng(2).standard_normal((3, 50, 80)).astype(np.float32))

    def test_colour_and_warp_can_be_switched_off(self):
        off = AugmentConfig(colour=0.0, warp=0.0)
        same = augment.mel_colour(self.mel, off, np.random.default_rng(0), db=0.23)
        torch.testing.assert_close(same[..., :-1], self.mel[..., :-1], atol=1e-5, rtol=0)

    def test_colour_is_a_curve_over_frequency_and_constant_in_time(self):
        on = AugmentConfig(colour=1.0, warp=0.0)
        made = augment.mel_colour(self.mel, on, np.random.default_rng(0), db=0.23)
        added = (made - self.mel)[..., :-1]
        assert added.std(1).max() < 1e-4
        assert added.std(2).min() > 0.01

    def test_a_warp_moves_bands_by_at_most_its_range(self):
        config = AugmentConfig(colour=0.0, warp=1.0, warp_range=0.09)
        ramp = torch.arange(80.0).expand(4, 6, 80)
        made = augment.mel_colour(ramp, config, np.random.default_rng(0), db=0.23)
        assert ((made - ramp).abs() <= 0.0901 * ramp + 1e-3)[..., :-8].all()
        assert (made - ramp).abs().max() > 1

    def test_masks_put_the_mean_and_leave_the_input(self):
        before = self.mel.clone()
        made = augment.masks(self.mel, AugmentConfig(), np.random.default_rng(0))
        assert torch.equal(self.mel, before)
        mean = self.mel.mean((1, 2), keepdim=True).expand_as(made)
        changed = made != self.mel
        assert torch.equal(made[changed], mean[changed])
        assert 0 < changed.float().mean() < 0.6
