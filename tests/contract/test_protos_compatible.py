"""The wire contract goes on: what a client of an earlier checkout relies on is still there."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def git(*words: str) -> bytes:
    """What git says of this checkout; skips where it has no history, or not so much of it."""
    try:
        made = subprocess.run(["git", *words], cwd=ROOT, capture_output=True)
    except FileNotFoundError:
        pytest.skip("git is not installed: there is nothing to compare the protos with")
    if made.returncode or not made.stdout.strip():
        pytest.skip(f"no history to compare the protos with: git {' '.join(words)}: {made.stderr.decode()}")
    return made.stdout


def before_the_last_change() -> str:
    changed = git("log", "-1", "--format=%H", "HEAD", "--", "protos").decode().strip()
    return git("rev-parse", "--verify", f"{changed}^").decode().strip()


def breaking(old: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["buf", "breaking", "--against", str(old)], cwd=ROOT, env=TOOLS, capture_output=True, text=True
    )


def unpacked(commit: str, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit, "protos", "buf.yaml"))) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("than", ["the last commit", "the commit before the last change"])
def test_nothing_that_clients_rely_on_has_changed(than, tmp_path):
    commit = "HEAD" if than == "the last commit" else before_the_last_change()
    found = breaking(unpacked(commit, tmp_path))
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_field_that_is_gone_is_noticed(tmp_path):
    old = unpacked("HEAD", tmp_path)
    proto = old / "protos" / "aqaa" / "v1" / "orchestrator.proto"
    text = proto.read_text()
    proto.write_text(
        text.replace("  bool resumable = 3;\n", "  bool resumable = 3;\n  // More.\n  bool more = 99;\n")
    )
    found = breaking(old)
    assert found.returncode != 0
    assert "more" in found.stdout
