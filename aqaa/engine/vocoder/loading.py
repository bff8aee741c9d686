"""A bundle's vocoder modules as the two halves that tiles need."""

from math import prod

from aqaa.bundle import Bundle
from aqaa.engine.rows import keep_rows_apart
from aqaa.engine.tiles import FrameGrid
from aqaa.engine.vocoder.parts import NanoHead, NanoSolver
from aqaa.errors import BundleUnsupported
from aqaa.models.nano_flow import FRAMES_PER_GROUP, NanoFlow
from aqaa.models.nano_wave import NanoWave


def load_nano(bundle: Bundle) -> tuple[NanoSolver, NanoHead]:
    """Nano's flow and wave head.

    Raises:
        BundleError: a module's files, sizes or tensors do not fit its kind, or its sizes the manifest.
    """
    section, layout = bundle.manifest.vocoder, bundle.manifest.layout
    if (section.flow.kind, section.wave.kind) != ("nano-flow", "nano-wave"):
        raise BundleUnsupported(
            f"bundle {bundle.root}: a vocoder of {section.flow.kind!r} and {section.wave.kind!r}, expected "
            "'nano-flow' and 'nano-wave' (the public pair needs a speaker's prompt: public_parts)"
        )
    flow, wave = bundle.network("vocoder.flow"), bundle.network("vocoder.wave")
    assert isinstance(flow, NanoFlow), "the registry maps 'nano-flow' to NanoFlow"
    assert isinstance(wave, NanoWave), "the registry maps 'nano-wave' to NanoWave"
    facts = {
        "vocoder.sample_rate": (section.sample_rate, wave.config.sample_rate),
        "vocoder.mel_hop": (section.mel_hop, wave.config.hop),
        "vocoder.mel_bins": (section.mel_bins, wave.config.n_mels),
        "vocoder.flow.config.n_mels": (flow.config.n_mels, wave.config.n_mels),
        "mel frames a group": (bundle.manifest.frames_per_group, FRAMES_PER_GROUP),
        "layout.group_linguistic": (layout.group_linguistic, 2),
        "layout.group_semantic": (layout.group_semantic, 3),
        "layout.linguistic_codes": (layout.linguistic_codes, flow.config.linguistic_codes),
        "layout.semantic_codes": (layout.semantic_codes, prod(flow.config.levels)),
    }
    for name, (given, expected) in facts.items():
        if given != expected:
            raise BundleUnsupported(
                f"bundle {bundle.root}: {name} is {given}, the vocoder's networks expect {expected}"
            )
    keep_rows_apart(flow)
    keep_rows_apart(wave)
    grid = FrameGrid(bundle.manifest.frames_per_group)
    return NanoSolver(flow, grid, section.flow_steps), NanoHead(wave)
