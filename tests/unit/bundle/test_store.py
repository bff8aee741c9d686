"""A bundle is opened whole or refused with the reason."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from aqaa.bundle import Bundle, State, check_bundle, write_manifest
from aqaa.bundle.checksums import sha256_of
from aqaa.bundle.kinds import build
from aqaa.errors import BundleCorrupt, BundleError, BundleUnsupported

Edit = Callable[[Callable[[dict[str, Any]], None]], Path]


def test_a_sound_bundle_opens_and_gives_its_tensors(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    assert bundle.manifest.name == "tiny"
    assert bundle.unlisted == ()
    assert bundle.path("text.model").read_bytes() == b"pieces"
    tensors = bundle.tensors("flow.safetensors")
    assert tensors["weight"].dtype == torch.float16
    assert torch.equal(bundle.tensors("backbone.safetensors")["weight"], torch.arange(12.0).reshape(3, 4))


def test_the_digest_names_manifest_and_so_every_file(bundle_dir: Path) -> None:
    digest = Bundle.open(bundle_dir).digest
    assert digest == hashlib.sha256((bundle_dir / "manifest.json").read_bytes()).hexdigest()


def test_progress_rises_to_the_end(bundle_dir: Path) -> None:
    shares: list[float] = []
    Bundle.open(bundle_dir, progress=lambda _, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*expected a folder that holds manifest\.json"):
        Bundle.open(tmp_path / "nowhere")


def test_a_changed_byte_is_refused_with_both_checksums(bundle_dir: Path) -> None:
    (bundle_dir / "text.model").write_bytes(b"pieceS")
    found = hashlib.sha256(b"pieceS").hexdigest()
    expected = hashlib.sha256(b"pieces").hexdigest()
    with pytest.raises(BundleCorrupt, match=rf"text\.model: SHA-256 is {found}, expected {expected}"):
        Bundle.open(bundle_dir)


def test_a_missing_file_is_refused_by_name(bundle_dir: Path) -> None:
    (bundle_dir / "flow.safetensors").unlink()
    with pytest.raises(BundleCorrupt, match=r"flow\.safetensors: not found, expected \d+ bytes"):
        Bundle.open(bundle_dir)


def test_a_folder_in_the_place_of_a_file_is_missing(bundle_dir: Path) -> None:
    (bundle_dir / "text.model").unlink()
    (bundle_dir / "text.model").mkdir()
    with pytest.raises(BundleCorrupt, match=r"text\.model: not found"):
        Bundle.open(bundle_dir)


def test_a_truncated_file_is_refused_with_both_sizes(bundle_dir: Path) -> None:
    path = bundle_dir / "backbone.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 4)
    with pytest.raises(
        BundleCorrupt, match=rf"backbone\.safetensors: holds {size - 4} bytes, expected {size}"
    ):
        Bundle.open(bundle_dir)


def test_a_truncated_manifest_is_refused(bundle_dir: Path) -> None:
    path = bundle_dir / "manifest.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BundleCorrupt, match=r"manifest\.json is not JSON"):
        Bundle.open(bundle_dir)


def test_an_unknown_manifest_version_is_refused(edit_manifest: Edit) -> None:
    root = edit_manifest(lambda manifest: manifest.update(manifest_version=99))
    with pytest.raises(BundleUnsupported, match="manifest_version is 99, this code reads 1"):
        Bundle.open(root)


def test_a_listed_path_may_not_climb_out(edit_manifest: Edit, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    entry = {"sha256": hashlib.sha256(b"s").hexdigest(), "bytes": 1, "licence": "MIT"}
    root = edit_manifest(lambda manifest: manifest["files"].update({"../secret": entry}))
    with pytest.raises(BundleError, match=r"'../secret'|inside the bundle"):
        Bundle.open(root)


@pytest.mark.parametrize("through_folder", [False, True])
def test_a_link_out_of_the_bundle_is_refused_even_with_the_right_content(
    files: Path, fields: dict[str, Any], tmp_path: Path, through_folder: bool
) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "extra.bin").write_bytes(b"x")
    if through_folder:
        (files / "sub").symlink_to(outside)
    else:
        (files / "sub").mkdir()
        (files / "sub" / "extra.bin").symlink_to(outside / "extra.bin")
    licences = dict.fromkeys(
        ("text.model", "backbone.safetensors", "flow.safetensors", "sub/extra.bin"), "MIT"
    )
    write_manifest(files, fields, licences=licences)
    with pytest.raises(BundleCorrupt, match=r"sub/extra\.bin: leads to .*elsewhere.*expected a file under"):
        Bundle.open(files)


def test_a_bundle_may_itself_be_reached_through_a_link(bundle_dir: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(bundle_dir)
    assert Bundle.open(link).manifest.name == "tiny"


def test_unlisted_files_are_told_but_not_refused_and_cannot_be_read(bundle_dir: Path) -> None:
    (bundle_dir / "notes").mkdir()
    (bundle_dir / "notes" / "todo.txt").write_text("later")
    bundle = Bundle.open(bundle_dir)
    assert bundle.unlisted == ("notes/todo.txt",)
    with pytest.raises(BundleError, match=r"'notes/todo\.txt' is not in the manifest"):
        bundle.path("notes/todo.txt")


def test_what_is_not_safetensors_is_refused_when_read(bundle_dir: Path) -> None:
    with pytest.raises(BundleCorrupt, match=r"text\.model is not a safetensors file"):
        Bundle.open(bundle_dir).tensors("text.model")


def test_check_tells_every_fault_without_stopping(bundle_dir: Path) -> None:
    (bundle_dir / "flow.safetensors").unlink()
    (bundle_dir / "text.model").write_bytes(b"pieceS")
    (bundle_dir / "stray").write_bytes(b"")
    report = check_bundle(bundle_dir)
    assert not report.sound
    assert {verdict.path: verdict.state for verdict in report.verdicts} == {
        "backbone.safetensors": State.OK,
        "flow.safetensors": State.MISSING,
        "text.model": State.CHECKSUM,
        "stray": State.UNLISTED,
    }


def test_check_passes_a_sound_bundle(bundle_dir: Path) -> None:
    assert check_bundle(bundle_dir).sound


def test_writing_refuses_a_missing_file_and_leaves_no_manifest(files: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(BundleCorrupt, match=r"absent\.bin not found"):
        write_manifest(files, fields, licences={"absent.bin": "MIT"})
    assert not (files / "manifest.json").exists()


def test_writing_refuses_what_reading_would_refuse(files: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="every named file listed in files"):
        write_manifest(files, fields, licences={"text.model": "MIT"})
    assert not list(files.glob("manifest*"))


def test_the_written_manifest_states_size_and_checksum(bundle_dir: Path) -> None:
    entry = json.loads((bundle_dir / "manifest.json").read_text())["files"]["text.model"]
    assert entry == {"sha256": sha256_of(bundle_dir / "text.model"), "bytes": 6, "licence": "Apache-2.0"}


def test_a_network_without_weights_is_refused(edit_manifest: Edit) -> None:
    root = edit_manifest(lambda manifest: manifest["backbone"].update(files={"index": "text.model"}))
    with pytest.raises(BundleError, match=r"backbone\.files lacks 'weights', it has index"):
        Bundle.open(root).network("backbone")


def test_a_config_that_the_module_does_not_know_is_unsupported(edit_manifest: Edit) -> None:
    root = edit_manifest(lambda manifest: manifest["backbone"].update(config={"wings": 2}))
    with pytest.raises(BundleUnsupported, match=r"config of module kind 'step1'.*wings"):
        Bundle.open(root).network("backbone")


def test_a_network_comes_with_its_weights_and_refuses_those_of_another(
    files: Path, fields: dict[str, Any]
) -> None:
    sizes = {"n_mels": 16, "dim": 8, "ahead": [1, 0], "levels": [2, 2]}
    saved = build("nano-semantic", sizes)
    save_file(saved.state_dict(), files / "semantic.safetensors")
    fields["tokenizer"]["semantic"] = {
        "kind": "nano-semantic",
        "config": sizes,
        "files": {"weights": "semantic.safetensors", "other": "flow.safetensors"},
    }
    names = ("text.model", "backbone.safetensors", "flow.safetensors", "semantic.safetensors")
    write_manifest(files, fields, licences=dict.fromkeys(names, "MIT"))
    loaded = Bundle.open(files).network("tokenizer.semantic")
    assert not loaded.training
    assert all(torch.equal(saved.state_dict()[name], value) for name, value in loaded.state_dict().items())

    fields["tokenizer"]["semantic"]["files"] = {"weights": "flow.safetensors"}
    write_manifest(files, fields, licences=dict.fromkeys(names, "MIT"))
    with pytest.raises(BundleUnsupported, match=r"tokenizer\.semantic \(nano-semantic\)[\s\S]*Missing key"):
        Bundle.open(files).network("tokenizer.semantic")
