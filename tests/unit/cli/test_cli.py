"""The command line gives its answer, or one clear line and the exit code of its kind."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from aqaa import cli
from aqaa.audio.decode import Audio, read_audio, write_wav
from aqaa.bundle import Manifest, read_manifest
from aqaa.commands.wish import Wish
from aqaa.errors import CapacityError

Run = Callable[..., tuple[int, str, str]]


class FakePipeline:
    """Answers anything with one answer and remembers what it was asked."""

    def __init__(self, manifest: Manifest, answer: Any) -> None:
        self.manifest = manifest
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    def load(self, bundle_dir: Path, *, threads: int = 1, progress: Any = None) -> "FakePipeline":
        self.calls.append(("load", bundle_dir, threads))
        progress("reading weights", 0.5)
        return self

    def ask(self, audio: Audio, *, seed: int = 0) -> Any:
        self.calls.append(("ask", audio, seed))
        return self.answer

    def say(self, text: str, *, seed: int = 0, style: str | None = None) -> Any:
        self.calls.append(("say", text, seed, style))
        return self.answer

    def tokenize(self, audio: Audio) -> tuple[int, ...]:
        return (600, 601, 1624, 1625, 1626, 1623, 602, 5719, 1700, 1800)


@pytest.fixture
def pipeline(bundle_dir: Path, fake_answer: Any, monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline(read_manifest(bundle_dir), fake_answer)
    monkeypatch.setattr(cli, "pipeline_class", lambda: fake)
    return fake


@pytest.fixture
def run(
    bundle_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Run:
    """Runs the command with the tiny bundle: exit code, output, error output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AQAA_BUNDLE", str(bundle_dir))
    monkeypatch.setenv("COLUMNS", "120")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aqaa", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return command


@pytest.fixture
def question(tmp_path: Path) -> Path:
    path = tmp_path / "question.wav"
    write_wav(path, 0.1 * np.sin(np.arange(16000) / 20), 16000)
    return path


def test_ask_writes_the_answer_and_tells_what_was_heard_and_when(
    run: Run, pipeline: FakePipeline, question: Path, tmp_path: Path
) -> None:
    code, out, err = run(
        "ask", str(question), "--out", "answer.wav", "--seed", "7", "--local", "--threads", "3"
    )
    assert (code, err) == (0, "")
    for shown in (
        "Say the cat sees a red ball",
        "The cat sees",
        "heard",
        "0.43 s",
        "0.38",
        "wrote answer.wav",
    ):
        assert shown in out
    written = read_audio(tmp_path / "answer.wav")
    assert written.sample_rate == 24000
    np.testing.assert_allclose(written.samples, pipeline.answer.pcm.clip(-1, 1), atol=1 / 32768)
    assert pipeline.calls[0][2] == 3
    assert pipeline.calls[1][2] == 7


def test_json_is_one_object_and_nothing_else(run: Run, pipeline: FakePipeline, question: Path) -> None:
    code, out, err = run("ask", str(question), "--out", "answer.wav", "--local", "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    record = json.loads(out)
    segments = record.pop("segments")
    assert record == {
        "question_text": "Say the cat sees a red ball, first loud, then soft.",
        "answer_text": "The cat sees a red ball. The cat sees a red ball.",
        "answer_seconds": 3.6,
        "ttfa_seconds": 0.43,
        "rtf": 0.38,
        "tokens": {"text": 19, "linguistic": 60, "semantic": 90},
    }
    assert [
        (part["style"], part["groups"], part["start_seconds"], part["end_seconds"]) for part in segments
    ] == [
        ("loud", 18, 0.0, 2.16),
        ("soft", 12, 2.16, 3.6),
    ]
    assert segments[0]["text"] == "The cat sees a red ball."


def test_the_picture_is_written_beside_the_answer(
    run: Run, pipeline: FakePipeline, question: Path, tmp_path: Path
) -> None:
    code, out, _ = run("ask", str(question), "--local", "--out", "answer.wav", "--picture", "answer.png")
    assert code == 0
    assert "wrote answer.wav and answer.png" in out
    assert (tmp_path / "answer.png").read_bytes().startswith(b"\x89PNG")


def test_without_local_the_services_answer_and_all_is_told_as_before(
    run: Run, pipeline: FakePipeline, question: Path, bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes: list[Wish] = []

    def served(wish: Wish) -> Any:
        wishes.append(wish)
        return pipeline.answer

    monkeypatch.setattr(cli, "served", served)
    monkeypatch.setenv("AQAA_ORCHESTRATOR_PORT", "50099")
    flags = ("--out", "answer.wav", "--json", "--seed", "3", "--address", "127.0.0.1:9")
    said = run("ask", str(question), *flags)
    assert said == run("ask", str(question), "--out", "answer.wav", "--json", "--local")
    (wish,) = wishes
    assert (wish.seed, wish.address, wish.bundle, wish.ours) == (3, "127.0.0.1:9", bundle_dir, bundle_dir)
    assert wish.usual == "127.0.0.1:50099"
    assert wish.question.sample_rate == 16000


def test_a_bundle_is_only_wished_for_if_it_was_named(
    run: Run, question: Path, bundle_dir: Path, fake_answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes: list[Wish] = []
    monkeypatch.setattr(cli, "served", lambda wish: wishes.append(wish) or fake_answer)
    monkeypatch.delenv("AQAA_BUNDLE")
    monkeypatch.delenv("AQAA_ADDRESS", raising=False)
    monkeypatch.setattr(cli, "CHECKOUT_BUNDLE", bundle_dir)
    assert run("ask", str(question), "--out", "answer.wav")[0] == 0
    monkeypatch.setattr(cli, "CHECKOUT_BUNDLE", bundle_dir / "nowhere")
    assert run("ask", str(question), "--out", "answer.wav")[0] == 0, "a client without a bundle may ask"
    assert [(wish.bundle, wish.ours, wish.address) for wish in wishes] == [
        (None, bundle_dir, None),
        (None, None, None),
    ]
    code, _, err = run("ask", str(question), "--out", "answer.wav", "--picture", "answer.png")
    assert code == 3
    assert_one_line(err, "no bundle")


def test_threads_are_for_one_process(run: Run, question: Path) -> None:
    code, _, err = run("ask", str(question), "--out", "answer.wav", "--threads", "1")
    assert code == 2
    assert_one_line(err, "--threads is for --local")


def test_say_passes_text_style_and_seed(run: Run, pipeline: FakePipeline) -> None:
    code, _, _ = run("say", "Good morning.", "--style", "slow", "--seed", "3", "--out", "answer.wav")
    assert code == 0
    assert pipeline.calls[-1] == ("say", "Good morning.", 3, "slow")


def test_one_thread_computes_unless_told_otherwise(
    run: Run, pipeline: FakePipeline, question: Path, bundle_dir: Path
) -> None:
    commands = (
        ("ask", str(question), "--out", "answer.wav", "--local"),
        ("say", "Hello.", "--out", "answer.wav"),
        ("tokens", str(question)),
    )
    for command in commands:
        pipeline.calls.clear()
        assert run(*command)[0] == 0
        assert pipeline.calls[0] == ("load", bundle_dir, 1), command


def test_tokens_prints_a_group_a_line(run: Run, pipeline: FakePipeline, question: Path) -> None:
    code, out, _ = run("tokens", str(question))
    assert code == 0
    assert out.splitlines() == [
        "   0.00 s |    0    1 |    0    1    2",
        "   0.12 s | 1023    2 | 4095   76  176",
    ]


def test_tokens_as_json_gives_ids_and_codes(run: Run, pipeline: FakePipeline, question: Path) -> None:
    record = json.loads(run("tokens", str(question), "--json")[1])
    assert record["seconds"] == 1.0
    assert record["ids"] == list(pipeline.tokenize(Audio(np.zeros(0, np.float32), 16000)))
    assert (record["linguistic"], record["semantic"]) == ([0, 1, 1023, 2], [0, 1, 2, 4095, 76, 176])


def test_version(run: Run) -> None:
    code, out, _ = run("--version")
    assert (code, out.split()[0]) == (0, "aqaa")


def assert_one_line(err: str, *parts: str) -> None:
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def _not_audio(path: Path) -> None:
    path.write_text("What is two plus two?")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _short(path: Path) -> None:
    write_wav(path, np.zeros(1600), 16000)


def _long(path: Path) -> None:
    write_wav(path, np.zeros(8000 * 600), 8000)


def _nan(path: Path) -> None:
    soundfile.write(path, np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")


def _truncated(path: Path) -> None:
    write_wav(path, np.zeros(16000), 16000)
    path.write_bytes(path.read_bytes()[:8000])


def _low_rate(path: Path) -> None:
    write_wav(path, np.zeros(8000), 4000)


@pytest.mark.parametrize(
    "command", [("ask", "--out", "answer.wav"), ("ask", "--local", "--out", "answer.wav"), ("tokens",)]
)
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_not_audio, "expected WAV or FLAC"),
        (_empty, "empty"),
        (_short, "0.10 s of audio, expected 0.2 to 30 s"),
        (_long, "600.00 s of audio, expected 0.2 to 30 s"),
        (_nan, "NaN"),
        (_truncated, "cut short"),
        (_low_rate, "4000 Hz, expected 8000 to 48000 Hz"),
        (lambda _: None, "cannot be opened"),
    ],
)
def test_a_bad_recording_ends_in_one_line_and_code_2(
    run: Run,
    pipeline: FakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    make: Callable[[Path], None],
    expected: str,
) -> None:
    wishes: list[Wish] = []
    monkeypatch.setattr(cli, "served", wishes.append)
    make(tmp_path / "bad.wav")
    code, out, err = run(command[0], "bad.wav", *command[1:])
    assert (code, out) == (2, "")
    assert_one_line(err, "bad.wav", expected)
    assert pipeline.calls == [], "a bad recording is refused before the models are loaded"
    assert wishes == [], "and before a stack is looked for"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--out", "answer.mp3"), "answer.mp3: cannot be written as .mp3, expected .wav"),
        (("--out", "nowhere/answer.wav"), "its folder does not exist"),
        (("--out", "a.wav", "--picture", "a.pdf"), "expected .png"),
        (("--out", "a.wav", "--style", "sung"), "style 'sung', this bundle has slow"),
    ],
)
def test_a_bad_argument_is_refused_before_anything_is_computed(
    run: Run, pipeline: FakePipeline, arguments: tuple[str, ...], expected: str
) -> None:
    code, _, err = run("say", "Good morning.", *arguments)
    assert code == 2
    assert_one_line(err, expected)
    assert pipeline.calls == []


def test_an_empty_text_is_refused(run: Run, pipeline: FakePipeline) -> None:
    code, _, err = run("say", "  ", "--out", "a.wav")
    assert code == 2
    assert_one_line(err, "the text is empty")


def test_an_error_of_the_engine_is_one_line_and_code_1(
    run: Run, pipeline: FakePipeline, question: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise CapacityError("no free slot,\nexpected one of 8")

    monkeypatch.setattr(pipeline, "ask", refuse)
    code, _, err = run("ask", str(question), "--local", "--out", "a.wav")
    assert code == 1
    assert_one_line(err, "no free slot, expected one of 8")


def test_a_client_without_torch_is_told_what_to_install(
    run: Run, question: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_torch() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli, "pipeline_class", no_torch)
    code, _, err = run("ask", str(question), "--local", "--out", "a.wav")
    assert code == 1
    assert_one_line(err, "torch", "pip install 'aqaa[models]'")


def test_another_missing_module_is_a_fault_and_keeps_its_traceback(
    run: Run, question: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ModuleNotFoundError("No module named 'nonsense'", name="nonsense")

    monkeypatch.setattr(cli, "pipeline_class", broken)
    with pytest.raises(ModuleNotFoundError):
        run("ask", str(question), "--local", "--out", "a.wav")


def test_a_place_that_cannot_be_written_is_one_line(
    run: Run, pipeline: FakePipeline, question: Path, tmp_path: Path
) -> None:
    (tmp_path / "answer.wav").mkdir()
    code, _, err = run("ask", str(question), "--local", "--out", "answer.wav")
    assert code == 1
    assert_one_line(err, "directory")


def test_check_lists_every_file_of_a_sound_bundle(run: Run) -> None:
    code, out, err = run("bundle", "check")
    assert (code, err) == (0, "")
    for shown in ("text.model", "Apache-2.0", "ok", "tiny (step-audio-aqaa, en): 3 files"):
        assert shown in out


def test_check_names_what_is_wrong_and_ends_with_code_3(run: Run, bundle_dir: Path) -> None:
    (bundle_dir / "text.model").write_bytes(b"pieceS")
    (bundle_dir / "stray").write_bytes(b"")
    code, out, err = run("bundle", "check", str(bundle_dir))
    assert code == 3
    assert "wrong checksum" in out
    assert "not in the manifest" in out
    assert_one_line(err, "text.model: SHA-256 is", "expected")
    assert "stray" not in err


def test_an_unknown_manifest_version_ends_with_code_3(
    run: Run, question: Path, edit_manifest: Callable[..., Path]
) -> None:
    edit_manifest(lambda manifest: manifest.update(manifest_version=2))
    code, _, err = run("ask", str(question), "--local", "--out", "a.wav")
    assert code == 3
    assert_one_line(err, "manifest_version is 2, this code reads 1")


def test_without_a_bundle_the_error_says_where_it_looked(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AQAA_BUNDLE")
    monkeypatch.setattr(cli, "CHECKOUT_BUNDLE", tmp_path / "models" / "nano")
    code, _, err = run("bundle", "check")
    assert code == 3
    assert_one_line(err, str(tmp_path / "models" / "nano"), "--bundle or AQAA_BUNDLE")
