"""A manifest is refused with the field, what it holds and what was expected."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqaa.bundle.manifest import Manifest, dump_manifest, parse_manifest
from aqaa.errors import BundleCorrupt, BundleError, BundleUnsupported
from aqaa.tokens.groups import Ratios

ENTRY = {"sha256": "0" * 64, "bytes": 1, "licence": "Apache-2.0"}


@pytest.fixture
def whole(fields: dict[str, Any]) -> dict[str, Any]:
    names = ("text.model", "backbone.safetensors", "flow.safetensors")
    return {"manifest_version": 1, **fields, "files": {name: dict(ENTRY) for name in names}}


def parse(manifest: dict[str, Any]) -> Manifest:
    return parse_manifest(json.dumps(manifest))


def changed(manifest: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    *path, last = dotted.split(".")
    section = manifest
    for key in path:
        section = section[key]
    section[last] = value
    return manifest


def test_a_written_manifest_reads_back_the_same(whole: dict[str, Any]) -> None:
    manifest = parse(whole)
    assert parse_manifest(dump_manifest(manifest)) == manifest


def test_null_inside_a_module_config_survives(whole: dict[str, Any]) -> None:
    manifest = parse(changed(whole, "backbone.config", {"window": None, "sizes": [1, 2]}))
    assert parse_manifest(dump_manifest(manifest)).backbone.config == {"window": None, "sizes": [1, 2]}


def test_derived_figures_follow_the_stated_ones(whole: dict[str, Any]) -> None:
    manifest = parse(whole)
    assert manifest.frames_per_group == 12
    assert manifest.layout.ids.semantic_range == (1624, 5720)
    assert manifest.layout.ratios == Ratios(text=10, linguistic=2, semantic=3, groups=3)


def test_the_token_code_gets_what_the_manifest_states(whole: dict[str, Any]) -> None:
    manifest = parse(changed(whole, "prompt", {"system": "Be brief.", "roles": {"speak": "say"}}))
    assert manifest.caps.caps.groups(text=2) == 12 + 9
    assert manifest.template.system == "Be brief."
    assert manifest.template.header_of("speak") == "say\n"
    settings = manifest.settings("answer", seed=9)
    assert (settings.seed, settings.text.temperature, settings.linguistic.temperature) == (9, 0.0, 0.3)
    assert settings.repetition is not None
    assert settings.repetition.silence_semantic == {0, 4095}
    assert manifest.settings("transcript", seed=0).repetition is None


def test_a_task_without_training_is_unsupported(whole: dict[str, Any]) -> None:
    with pytest.raises(BundleUnsupported, match="no task 'speak', expected one of answer, transcript"):
        parse(whole).settings("speak", seed=0)


def test_a_public_vocoder_has_a_fractional_number_of_frames_a_group(whole: dict[str, Any]) -> None:
    changed(whole, "vocoder.sample_rate", 22050)
    assert parse(changed(whole, "vocoder.mel_hop", 256)).frames_per_group == Fraction(22050 * 12, 25600)


@pytest.mark.parametrize("version", [0, 2, "1", True, None, 1.5])
def test_an_unknown_version_is_refused_whatever_else_it_holds(version: Any) -> None:
    with pytest.raises(BundleUnsupported, match=r"manifest_version is .*, this code reads 1"):
        parse({"manifest_version": version, "from_the_future": {}})


@pytest.mark.parametrize("raw", [b"", b"{", b'{"manifest_version": 1', b"\xff\xfe", b"[1]", b"null"])
def test_what_is_not_a_json_object_is_corrupt(raw: bytes) -> None:
    with pytest.raises(BundleCorrupt, match=r"manifest\.json (is not JSON|holds)"):
        parse_manifest(raw)


@pytest.mark.parametrize("place", ["", "layout.", "vocoder.tiles.", "backbone.", "sampling.answer."])
def test_an_unknown_field_is_refused_by_name(whole: dict[str, Any], place: str) -> None:
    with pytest.raises(BundleError, match=rf"{place}surprise is not a field of manifest version 1"):
        parse(changed(whole, f"{place}surprise", 1))


def test_every_fault_is_told_at_once(whole: dict[str, Any]) -> None:
    del whole["caps"]
    changed(whole, "vocoder.sample_rate", "24000")
    changed(whole, "layout.audio_base", 0)
    with pytest.raises(BundleError) as told:
        parse(whole)
    message = str(told.value)
    assert "caps is missing" in message
    assert "vocoder.sample_rate is '24000', expected a valid integer" in message
    assert "layout.audio_base is 0, expected greater than or equal to 1" in message


@pytest.mark.parametrize(
    ("place", "kind", "expected"),
    [
        ("backbone", "mamba", "'step1'"),
        ("vocoder.wave", "step1", "'hift', 'nano-wave'"),
        ("tokenizer.semantic", "sanm-chunk", "'whisper-vq', 'nano-semantic'"),
    ],
)
def test_an_unknown_or_misplaced_module_kind_is_unsupported(
    whole: dict[str, Any], place: str, kind: str, expected: str
) -> None:
    with pytest.raises(BundleUnsupported) as told:
        parse(changed(whole, f"{place}.kind", kind))
    assert f"{place}.kind is '{kind}'" in str(told.value)
    assert expected in str(told.value)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("layout.vocab_size", 5719, "vocab_size is 5719, expected at least 5720"),
        ("tokenizer.hop_samples", 2000, "multiple of 1920"),
        ("vocoder.tiles.schedule", [], "schedule"),
        ("vocoder.tiles.shapes", [7, 10, 15], "holds the largest tile with its context: 16 groups"),
        ("vocoder.tiles.shapes", [10, 7, 16], "rising order"),
        ("vocoder.tiles.shapes", [1, 2, 3, 16], "at most 3 items"),
        ("silence.semantic", [4096], "silence.semantic codes below 4096; one is 4096"),
        ("sampling.answer.text", {"temperature": -1}, r"sampling\.answer\.text\.temperature is -1"),
        ("sampling.sing", {}, r"sampling\.sing"),
        ("prompt", {"header": "assistant"}, "header is 'assistant', expected a text with {role}"),
        ("prompt", {"roles": {"robot": "r"}}, "template role 'robot', expected one of"),
        ("text.file", "other.model", "text.file names 'other.model'"),
        (
            "vocoder.wave.files.weights",
            "w.safetensors",
            r"vocoder\.wave\.files\.weights names 'w\.safetensors'",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_was_expected(
    whole: dict[str, Any], field: str, value: Any, reason: str
) -> None:
    with pytest.raises(BundleError, match=reason):
        parse(changed(whole, field, value))


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "a/../../b", "a\\b", "", ".", "./a", "a//b", "manifest.json"]
)
def test_a_path_out_of_the_bundle_is_refused(whole: dict[str, Any], path: str) -> None:
    whole["files"][path] = dict(ENTRY)
    with pytest.raises(BundleError, match=r"inside the bundle|other than the manifest"):
        parse(whole)


def test_a_manifest_cannot_be_changed_once_read(whole: dict[str, Any]) -> None:
    manifest = parse(whole)
    with pytest.raises(ValueError, match="frozen"):
        manifest.layout.audio_base = 1  # type: ignore[misc]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)


@given(raw=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_read_ends_in_a_manifest_or_a_bundle_error(raw: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(raw)


@given(section=json_values)
def test_whatever_a_section_holds_ends_in_a_manifest_or_a_bundle_error(section: Any) -> None:
    for name in ("layout", "pieces", "prompt", "sampling", "tokenizer", "vocoder", "files", "licences"):
        with pytest.raises(BundleError):
            parse({"manifest_version": 1, name: section})


def test_the_source_is_named_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(BundleCorrupt, match=r"models/other/manifest\.json is not JSON"):
        parse_manifest(b"", source="models/other/manifest.json")
