"""The manifest of a model bundle: every number that the code must not know by heart, typed and checked.

One schema serves nano and the public checkpoints; they differ in module ``kind`` and in sizes only.
Derived figures (frames a group, first semantic id) are properties, so that no fact is stated twice.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from aqaa.bundle.schema import (
    MANIFEST_NAME,
    BackboneModule,
    BundlePath,
    FileEntry,
    Layout,
    Limits,
    Module,
    Name,
    Pieces,
    Prompt,
    Provenance,
    Sampling,
    Section,
    Silence,
    Text,
    Tokenizer,
    Vocoder,
)
from aqaa.errors import BundleCorrupt, BundleError, BundleUnsupported
from aqaa.tokens.prompt import PromptTemplate
from aqaa.tokens.sampling import Repetition, SamplingSettings
from aqaa.tokens.table import Task

MANIFEST_VERSION = 1
DRAWS = ("decision", "text", "linguistic", "semantic", "style", "union")


class Manifest(Section):
    """A whole bundle. Read it with :func:`parse_manifest`, which raises errors of ``aqaa.errors`` only."""

    manifest_version: Literal[1]
    name: Name
    family: Name
    language: Name
    max_question_seconds: Annotated[float, Field(gt=0)]
    layout: Layout
    pieces: Pieces
    text: Text
    prompt: Prompt = Prompt()
    sampling: Mapping[Task, Sampling]
    """The defaults of each task that the bundle was trained for."""
    caps: Limits
    silence: Silence = Silence()
    tokenizer: Tokenizer
    backbone: BackboneModule
    vocoder: Vocoder
    files: Mapping[BundlePath, FileEntry]
    provenance: Provenance
    licences: Mapping[str, str]
    """Licence identifier → what it covers, or its full text."""

    @property
    def frames_per_group(self) -> Fraction:
        """Mel frames a group: 12 for nano, 10.34 at 22.05 kHz. Frame edges are ``floor(group · this)``."""
        tokenizer, vocoder = self.tokenizer, self.vocoder
        return Fraction(
            tokenizer.group_samples * vocoder.sample_rate, tokenizer.sample_rate * vocoder.mel_hop
        )

    @property
    def template(self) -> PromptTemplate:
        """How messages become tokens."""
        return PromptTemplate(self.pieces.bos, self.pieces.bot, self.pieces.eot, **self.prompt.model_dump())

    def settings(self, task: Task, *, seed: int) -> SamplingSettings:
        """How one turn of a task is decoded.

        Raises:
            BundleUnsupported: the bundle was not trained for the task.
        """
        if task not in self.sampling:
            known = ", ".join(self.sampling)
            raise BundleUnsupported(f"bundle {self.name}: no task {task!r}, expected one of {known}")
        own = self.sampling[task]
        repetition = None
        if own.repetition is not None:
            window, limit, silence_window = (
                own.repetition.window,
                own.repetition.limit,
                own.repetition.silence_window,
            )
            quiet = frozenset(self.silence.linguistic), frozenset(self.silence.semantic)
            repetition = Repetition(window, limit, *quiet, silence_window)
        draws = {name: getattr(own, name).rule for name in DRAWS}
        return SamplingSettings(seed=seed, mode=own.mode, repetition=repetition, **draws)

    @property
    def modules(self) -> Mapping[str, Module]:
        """Every network by its place in the manifest."""
        return {
            "tokenizer.linguistic": self.tokenizer.linguistic,
            "tokenizer.semantic": self.tokenizer.semantic,
            "backbone": self.backbone,
            "vocoder.flow": self.vocoder.flow,
            "vocoder.wave": self.vocoder.wave,
        }

    def references(self) -> Iterator[tuple[str, str]]:
        """(field, path) of every file that a section names."""
        yield "text.file", self.text.file
        for place, module in self.modules.items():
            for role, path in module.files.items():
                yield f"{place}.files.{role}", path

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field, path in self.references():
            if path not in self.files:
                raise PydanticCustomError(
                    "unlisted",
                    "every named file listed in files; {field} names '{path}'",
                    {"field": field, "path": path},
                )
        try:
            _ = self.template
        except ValueError as error:
            raise PydanticCustomError(
                "prompt", "a prompt that holds: {reason}", {"reason": str(error)}
            ) from None
        for codes, size, field in (
            (self.silence.linguistic, self.layout.linguistic_codes, "silence.linguistic"),
            (self.silence.semantic, self.layout.semantic_codes, "silence.semantic"),
        ):
            if codes and max(codes) >= size:
                raise PydanticCustomError(
                    "silence",
                    "{field} codes below {size}; one is {code}",
                    {"field": field, "size": size, "code": max(codes)},
                )
        return self


def parse_manifest(raw: bytes | str, *, source: str = MANIFEST_NAME) -> Manifest:
    """Reads a manifest; ``source`` names it in messages.

    Raises:
        BundleCorrupt: not JSON, or not an object.
        BundleUnsupported: a manifest version or a module kind that this code does not know.
        BundleError: a field that is missing, unknown or out of range; the message names each.
    """
    try:
        fields = json.loads(raw)
    except ValueError as error:
        raise BundleCorrupt(f"{source} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BundleCorrupt(f"{source} holds {type(fields).__name__}, expected one JSON object")
    version = fields.get("manifest_version")
    if version != MANIFEST_VERSION or isinstance(version, bool):
        raise BundleUnsupported(
            f"{source}: manifest_version is {version!r}, this code reads {MANIFEST_VERSION}; "
            "use the aqaa release that wrote the bundle, or export it again"
        )
    try:
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        kind = BundleUnsupported if any(fault["type"] == "unknown_kind" for fault in faults) else BundleError
        raise kind(f"{source}: " + "; ".join(map(_describe, faults))) from error


def dump_manifest(manifest: Manifest) -> str:
    """The manifest as the text that is written to disk; reading it gives the same manifest."""
    return manifest.model_dump_json(indent=2) + "\n"


def _describe(fault: ErrorDetails) -> str:
    """One fault as ``field: expected …, got …``."""
    field = _dotted(fault["loc"]) or "manifest"
    given: Any = fault["input"]
    match fault["type"]:
        case "missing":
            return f"{field} is missing"
        case "extra_forbidden":
            return f"{field} is not a field of manifest version {MANIFEST_VERSION}"
    if isinstance(given, Mapping | list | tuple | Section):
        return f"{field}: expected {_expectation(fault['msg'])}"
    return f"{field} is {given!r}, expected {_expectation(fault['msg'])}"


def _expectation(message: str) -> str:
    """pydantic's 'Input should be X' as 'X', so that each message reads as one sentence of ours."""
    return message.removeprefix("Input should be ").removeprefix("Input should ")


def _dotted(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location)
