"""The sections of a bundle's manifest, each a frozen type that checks itself."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from aqaa.bundle.kinds import KINDS, Role, kinds_of
from aqaa.tokens.grammar import Caps
from aqaa.tokens.groups import Ratios
from aqaa.tokens.ids import IdLayout
from aqaa.tokens.sampling import Rule

MANIFEST_NAME = "manifest.json"


def _inside_bundle(path: str) -> str:
    """A file's name in a bundle: relative, POSIX, without a step upwards."""
    pure = PurePosixPath(path)
    plain = pure.parts and str(pure) == path and "\\" not in path and "\0" not in path
    if not plain or pure.is_absolute() or ".." in pure.parts:
        raise PydanticCustomError("path", "a path inside the bundle such as 'flow.safetensors'")
    if path == MANIFEST_NAME:
        raise PydanticCustomError("path", "a file other than the manifest itself")
    return path


def _kind_of(role: Role) -> AfterValidator:
    def known(kind: str) -> str:
        if kind not in KINDS or KINDS[kind].role is not role:
            expected = ", ".join(repr(name) for name in kinds_of(role))
            raise PydanticCustomError(
                "unknown_kind",
                "a {role} module this code knows: {expected}",
                {"role": role.value, "expected": expected},
            )
        return kind

    return AfterValidator(known)


BundlePath = Annotated[str, AfterValidator(_inside_bundle)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """What every part of a manifest shares: no unknown field, no silent conversion, no change once read."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Layout(Section):
    """Where each token class lies in the vocabulary, and how many of each make a group and a block."""

    audio_base: Count
    linguistic_codes: Count
    semantic_codes: Count
    vocab_size: Count
    group_linguistic: Whole = 2
    group_semantic: Whole = 3
    block_text: Whole | None = 10
    """Text tokens a block; null puts all text before all speech."""
    block_groups: Count = 3

    @property
    def ids(self) -> IdLayout:
        """The same ranges as the token code knows them."""
        return IdLayout(self.audio_base, self.linguistic_codes, self.semantic_codes, self.vocab_size)

    @property
    def ratios(self) -> Ratios:
        """The same ratios as the token code knows them."""
        return Ratios(self.block_text, self.group_linguistic, self.group_semantic, self.block_groups)

    @model_validator(mode="after")
    def _accepted_by_the_token_code(self) -> Self:
        try:
            _ = self.ids, self.ratios
        except ValueError as error:
            raise PydanticCustomError(
                "layout", "a layout that holds: {reason}", {"reason": str(error)}
            ) from None
        return self


class Pieces(Section):
    """Control pieces by name; their ids are resolved from the text tokenizer at load time."""

    bos: Name = "<s>"
    bot: Name = "<|BOT|>"
    eot: Name = "<|EOT|>"
    audio_start: Name
    audio_end: Name
    styles: Mapping[str, Name] = {}
    """Voice style → its undisplayed piece, for example ``{"slow": "<|slow|>"}``."""


class Text(Section):
    """The SentencePiece model of the text vocabulary."""

    file: BundlePath


class Prompt(Section):
    """How messages become tokens; the fields are those of :class:`aqaa.tokens.prompt.PromptTemplate`."""

    header: str = "{role}\n"
    roles: Mapping[str, Name] = {}
    header_prefix: bool = False
    content_prefix: bool = False
    system: str | None = None


class Draw(Section):
    """How one draw is made; temperature 0 takes the most likely row, top_k 0 keeps every row."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Whole = 0

    @property
    def rule(self) -> Rule:
        """The same as the sampler knows it."""
        return Rule(self.temperature, self.top_p, self.top_k)


class Repetition(Section):
    """A guard on audio, per codebook and segment: a code is barred once ``limit`` times in the ``window``."""

    window: Count
    limit: Count
    silence_window: Whole = 0
    """Silence codes stay exempt until this many in a row."""


class Sampling(Section):
    """One task's defaults: ``class_first`` draws a class, then its token; ``union`` over all legal ids."""

    mode: Literal["class_first", "union"] = "class_first"
    decision: Draw = Draw()
    text: Draw = Draw()
    linguistic: Draw = Draw()
    semantic: Draw = Draw()
    style: Draw = Draw()
    union: Draw = Draw()
    repetition: Repetition | None = None


class Limits(Section):
    """Where generation stops; a segment may hold ``groups_base + groups_per_text · text`` groups."""

    groups_base: Count
    groups_per_text: Annotated[float, Field(ge=0)]
    segments: Count
    text: Count
    tokens: Count

    @property
    def caps(self) -> Caps:
        """The same as the grammar knows them."""
        return Caps(self.groups_base, self.groups_per_text, self.segments, self.text, self.tokens)


class Silence(Section):
    """Codes (not ids) that stand for silence."""

    linguistic: tuple[Whole, ...] = ()
    semantic: tuple[Whole, ...] = ()


class Module(Section):
    """A network of the bundle: its kind, its sizes, its files by their role in the module."""

    kind: str
    config: Mapping[str, JsonValue] = {}
    files: Mapping[str, BundlePath]


class LinguisticModule(Module):
    kind: Annotated[str, _kind_of(Role.LINGUISTIC)]


class SemanticModule(Module):
    kind: Annotated[str, _kind_of(Role.SEMANTIC)]


class BackboneModule(Module):
    kind: Annotated[str, _kind_of(Role.BACKBONE)]


class FlowModule(Module):
    kind: Annotated[str, _kind_of(Role.FLOW)]


class WaveModule(Module):
    kind: Annotated[str, _kind_of(Role.WAVE)]


class Tokenizer(Section):
    """PCM at ``sample_rate`` → audio tokens: ``group_samples`` a group, computed every ``hop_samples``."""

    sample_rate: Count = 16000
    group_samples: Count = 1920
    hop_samples: Count
    linguistic: LinguisticModule
    semantic: SemanticModule

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.hop_samples % self.group_samples:
            raise PydanticCustomError(
                "hop", "hop_samples in whole groups, a multiple of {group}", {"group": self.group_samples}
            )
        return self


class Tiles(Section):
    """How an answer is cut for the vocoder, by group index alone; the last entry of ``schedule`` repeats."""

    schedule: Annotated[tuple[Count, ...], Field(min_length=1)]
    left_groups: Whole
    right_groups: Whole
    shapes: Annotated[tuple[Count, ...], Field(min_length=1, max_length=3)]
    """Tensor lengths in groups, context included; a tile is padded to the smallest that holds it."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if list(self.shapes) != sorted(set(self.shapes)):
            raise PydanticCustomError("shapes", "shapes in rising order, each once")
        largest = self.left_groups + max(self.schedule) + self.right_groups
        if self.shapes[-1] < largest:
            raise PydanticCustomError(
                "shapes",
                "a last shape that holds the largest tile with its context: {groups} groups",
                {"groups": largest},
            )
        return self


class Vocoder(Section):
    """Answer tokens → mel (flow) → PCM at ``sample_rate`` (wave), one frame each ``mel_hop`` samples."""

    sample_rate: Count
    mel_hop: Count
    mel_bins: Count
    flow_steps: Count
    tiles: Tiles
    wave_context_frames: Whole = 20
    flow: FlowModule
    wave: WaveModule


class FileEntry(Section):
    """What a file must be."""

    sha256: Sha256
    bytes: Whole
    licence: Name


class Provenance(Section):
    """How the weights came to be, in words a reader can check."""

    recipe: Name
    seeds: Mapping[str, int] = {}
    data: Name
    teachers: tuple[str, ...] = ()
    date: str = ""
