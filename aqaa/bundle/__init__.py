"""A model bundle on disk: manifest, checksums, and the doors through which weights come in."""

from aqaa.bundle.checksums import State, Verdict
from aqaa.bundle.manifest import MANIFEST_VERSION, Manifest, parse_manifest
from aqaa.bundle.schema import MANIFEST_NAME
from aqaa.bundle.store import Bundle, Report, check_bundle, read_manifest, write_manifest

__all__ = [
    "MANIFEST_NAME",
    "MANIFEST_VERSION",
    "Bundle",
    "Manifest",
    "Report",
    "State",
    "Verdict",
    "check_bundle",
    "parse_manifest",
    "read_manifest",
    "write_manifest",
]
