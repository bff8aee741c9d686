"""Nano's networks at toy sizes, shared by the tests of the networks and of what runs them."""

from aqaa.models.nano_flow import NanoFlowConfig
from aqaa.models.nano_wave import NanoWaveConfig

FLOW = NanoFlowConfig(
    n_mels=6,
    dim=8,
    linguistic_codes=10,
    levels=(4, 3),
    token_blocks=1,
    outer_blocks=1,
    inner_blocks=1,
    time_dim=8,
)
WAVE = NanoWaveConfig(
    sample_rate=2400,
    hop=24,
    n_fft=96,
    n_mels=6,
    dim=8,
    blocks=1,
    kernel=3,
    ahead=1,
    f0_reference=60,
    max_hz=900,
)
