"""A bundle on disk: opened only when every file is what the manifest says, tensors read when asked for."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aqaa.bundle.checksums import Progress, State, Verdict, sha256_of, verify
from aqaa.bundle.kinds import build
from aqaa.bundle.manifest import MANIFEST_VERSION, Manifest, dump_manifest, parse_manifest
from aqaa.bundle.schema import MANIFEST_NAME
from aqaa.errors import BundleCorrupt, BundleError, BundleUnsupported

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

        bundle = Bundle.open(Path("models/nano"))
        bundle.manifest.vocoder.sample_rate      # 24000
        flow = bundle.network("vocoder.flow")    # torch is imported here, not before

    ``digest`` is the SHA-256 of the manifest. The manifest holds the checksum of every file, so the digest
    names the whole bundle; restart state carries it.
    """

    root: Path
    manifest: Manifest
    digest: str
    unlisted: tuple[str, ...] = ()
    """Files in the folder that the manifest does not know. Nothing reads them."""

    @classmethod
    def open(cls, root: Path, *, progress: Progress | None = None) -> Self:
        """Reads the manifest and verifies every file.

        Raises:
            BundleCorrupt: a file is missing, cut, changed or outside the folder; the message names each.
            BundleUnsupported: a manifest version or module kind that this code does not know.
            BundleError: no bundle there, or a field of the manifest is wrong.
        """
        manifest, raw = _read_manifest(root)
        verdicts = verify(root, manifest.files, progress=progress)
        if refused := [str(verdict) for verdict in verdicts if verdict.refused]:
            raise BundleCorrupt(f"bundle {root}: {'; '.join(refused)}")
        unlisted = tuple(verdict.path for verdict in verdicts if verdict.state is State.UNLISTED)
        return cls(root, manifest, hashlib.sha256(raw).hexdigest(), unlisted)

    def path(self, name: str) -> Path:
        """Where a listed file lies.

        Raises:
            BundleError: the manifest does not list it, so it was not verified.
        """
        if name not in self.manifest.files:
            listed = ", ".join(self.manifest.files)
            raise BundleError(
                f"bundle {self.root}: {name!r} is not in the manifest, expected one of {listed}"
            )
        return self.root / name

    def tensors(self, name: str) -> "dict[str, Tensor]":
        """The state dict of a safetensors file, on the CPU, in the dtypes on disk.

        Raises:
            BundleError: not listed, or not a safetensors file.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path(name)
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise BundleCorrupt(f"bundle {self.root}: {name} is not a safetensors file: {error}") from error

    def network(self, place: str) -> "nn.Module":
        """The network of a place such as ``"vocoder.flow"`` in float32, weights loaded, in evaluation mode.

        Its file role ``weights`` must hold exactly the tensors of the module.

        Raises:
            BundleError: the module names no ``weights``.
            BundleUnsupported: its config or its tensors do not fit the code of its kind.
        """
        module = self.manifest.modules[place]
        if "weights" not in module.files:
            roles = ", ".join(module.files) or "nothing"
            raise BundleError(f"bundle {self.root}: {place}.files lacks 'weights', it has {roles}")
        network: nn.Module = build(module.kind, module.config)
        try:
            network.load_state_dict(self.tensors(module.files["weights"]))
        except RuntimeError as error:
            raise BundleUnsupported(f"bundle {self.root}: {place} ({module.kind}): {error}") from error
        return network.float().eval()


@dataclass(frozen=True)
class Report:
    """What ``aqaa bundle check`` tells."""

    root: Path
    manifest: Manifest
    verdicts: tuple[Verdict, ...]

    @property
    def sound(self) -> bool:
        """Whether the bundle would be loaded."""
        return not any(verdict.refused for verdict in self.verdicts)


def check_bundle(root: Path, *, progress: Progress | None = None) -> Report:
    """Every file's verdict, without stopping at the first fault.

    Raises:
        BundleError: the manifest itself cannot be read; its subclasses say why.
    """
    manifest, _ = _read_manifest(root)
    return Report(root, manifest, verify(root, manifest.files, progress=progress))


def write_manifest(root: Path, fields: Mapping[str, Any], *, licences: Mapping[str, str]) -> Manifest:
    """Completes ``fields`` with version and checksums, writes ``manifest.json``: an export's last act.

    Args:
        root: the folder that already holds the files.
        fields: every section of the manifest but ``manifest_version`` and ``files``, as JSON values.
        licences: file → licence identifier, for exactly the files that belong to the bundle.

    Raises:
        BundleError: a file is missing, or a field is wrong. Nothing is written then.
    """
    files = {}
    for name, licence in sorted(licences.items()):
        path = root / name
        if not path.is_file():
            raise BundleCorrupt(
                f"bundle {root}: {name} not found, expected it before the manifest is written"
            )
        files[name] = {"sha256": sha256_of(path), "bytes": path.stat().st_size, "licence": licence}
    target = root / MANIFEST_NAME
    manifest = parse_manifest(
        json.dumps({"manifest_version": MANIFEST_VERSION, **fields, "files": files}), source=str(target)
    )
    partial = target.with_suffix(".json.partial")
    partial.write_text(dump_manifest(manifest), encoding="utf-8")
    partial.replace(target)
    return manifest


def read_manifest(root: Path) -> Manifest:
    """The manifest alone, its files unverified: enough to know what the bundle accepts.

    Raises:
        BundleError: it is missing or cannot be read; its subclasses say why.
    """
    return _read_manifest(root)[0]


def _read_manifest(root: Path) -> tuple[Manifest, bytes]:
    path = root / MANIFEST_NAME
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"no bundle at {root}: expected a folder that holds {MANIFEST_NAME} ({error.strerror})"
        ) from error
    return parse_manifest(raw, source=str(path)), raw
