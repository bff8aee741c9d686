"""The command line: ask a spoken question, say a text, see a recording's tokens, check a bundle, run it all.

Results go to standard output, progress and errors to standard error. Exit codes: 0 all is well, 2 the input
cannot be used, 3 the bundle cannot be used, 1 anything else.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import aqaa
from aqaa.audio.decode import Audio, AudioLimits, read_audio, write_wav
from aqaa.bundle import Manifest, check_bundle, read_manifest
from aqaa.commands.wish import PORT_VARIABLE, Wish, usual_address
from aqaa.errors import AqaaError, BundleCorrupt, BundleError, GrammarError, InvalidAudio, InvalidToken
from aqaa.present.answer import Answer, Pipeline
from aqaa.present.terminal import answer_record, progress_bar, show_answer, show_report
from aqaa.stack.plan import DEFAULT_PORT, Plan
from aqaa.tokens.groups import split

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
bundle_app = typer.Typer(no_args_is_help=True, help="Look at a model bundle.")
app.add_typer(bundle_app, name="bundle")

CHECKOUT_BUNDLE = Path(aqaa.__file__).resolve().parents[1] / "models" / "nano"
NEEDED_TO_COMPUTE = {"torch": "models", "safetensors": "models", "matplotlib": "models"}
NEEDED_TO_SERVE = {"grpc_health": "serve", "redis": "serve"}
"""Package → the extra that brings it."""

Out = Annotated[Path, typer.Option("--out", help="Where the answer is written, as WAV.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Seed = Annotated[int, typer.Option(min=0, max=2**64 - 1, help="The same seed gives the same answer.")]
Threads = Annotated[
    int, typer.Option(min=1, help="CPU threads of a pass; a bigger model wants more than one.")
]
BundleDir = Annotated[
    Path | None,
    typer.Option("--bundle", envvar="AQAA_BUNDLE", help="A model bundle's folder; nano by default."),
]
Picture = Annotated[Path | None, typer.Option(help="Also draw the turn to this file, as PNG.")]


class BadArgument(AqaaError):
    """An argument that no audio file is to blame for."""

    reason = "INVALID_ARGUMENT"


def main() -> None:
    """The ``aqaa`` command: every error on purpose ends in one line and an exit code."""
    try:
        app()
    except AqaaError as error:
        sys.exit(refuse(error))
    except OSError as error:
        sys.exit(refuse(AqaaError(f"{error.filename or 'input or output'}: {error.strerror or error}")))
    except ModuleNotFoundError as error:
        extra = (NEEDED_TO_COMPUTE | NEEDED_TO_SERVE).get(error.name or "")
        if extra is None:
            raise
        sys.exit(
            refuse(AqaaError(f"this needs {error.name}, which is not installed: pip install 'aqaa[{extra}]'"))
        )


def refuse(error: AqaaError) -> int:
    """Prints the one line of an error; gives the exit code of its kind."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    match error:
        case InvalidAudio() | InvalidToken() | GrammarError() | BadArgument():
            return 2
        case BundleError():
            return 3
    return 1


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """A spoken question gets a spoken answer."""
    if show:
        print(f"aqaa {aqaa.__version__}")
        raise typer.Exit


@app.command()
def ask(
    question: Annotated[Path, typer.Argument(help="A recording: WAV or FLAC, 8 to 48 kHz, mono or stereo.")],
    out: Out,
    as_json: AsJson = False,
    seed: Seed = 0,
    bundle: BundleDir = None,
    picture: Picture = None,
    address: Annotated[
        str | None,
        typer.Option(envvar="AQAA_ADDRESS", help="A stack that must answer; else that of aqaa up may."),
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Answer in this process, without services.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of a pass, with --local; 1 by default.")
    ] = None,
) -> None:
    """Answer a spoken question with speech: ask a running stack, else start one and end it again."""
    if threads is not None and not local:
        raise BadArgument("--threads is for --local; a stack's are AQAA_LLM_THREADS and its like")
    check_outputs(out, picture)
    needs_bundle = local or bundle is not None or picture is not None or CHECKOUT_BUNDLE.is_dir()
    root = bundle_dir(bundle) if needs_bundle else None
    manifest = None if root is None else read_manifest(root)
    audio = read_question(question, manifest)
    if local and root is not None:
        pipeline = loaded(root, threads or 1)
        with progress_bar(Console(stderr=True), "listening and answering"):
            answer: Answer = pipeline.ask(audio, seed=seed)
    else:
        answer = served(Wish(audio, seed, address, usual_address(os.environ), bundle, root))
    deliver(answer, manifest, out, picture, as_json)


@app.command()
def say(
    text: Annotated[str, typer.Argument(help="What is to be said.")],
    out: Out,
    style: Annotated[str | None, typer.Option(help="A voice style of the bundle, for example slow.")] = None,
    as_json: AsJson = False,
    seed: Seed = 0,
    bundle: BundleDir = None,
    picture: Picture = None,
    threads: Threads = 1,
) -> None:
    """Say a text in the bundle's voice."""
    root = bundle_dir(bundle)
    styles = read_manifest(root).pieces.styles
    check_outputs(out, picture)
    if not text.strip():
        raise BadArgument("the text is empty, expected at least one word")
    if style is not None and style not in styles:
        raise BadArgument(f"style {style!r}, this bundle has {', '.join(styles) or 'none'}")
    pipeline = loaded(root, threads)
    with progress_bar(Console(stderr=True), "speaking"):
        answer = pipeline.say(text, seed=seed, style=style)
    deliver(answer, pipeline.manifest, out, picture, as_json)


@app.command()
def tokens(
    recording: Annotated[Path, typer.Argument(help="A recording: WAV or FLAC, 8 to 48 kHz, mono or stereo.")],
    as_json: AsJson = False,
    bundle: BundleDir = None,
    threads: Threads = 1,
) -> None:
    """Print the audio tokens of a recording, a group a line."""
    root = bundle_dir(bundle)
    audio = read_question(recording, read_manifest(root))
    pipeline = loaded(root, threads)
    with progress_bar(Console(stderr=True), "listening"):
        ids = [int(token) for token in pipeline.tokenize(audio)]
    manifest = pipeline.manifest
    ratios = manifest.layout.ratios
    linguistic, semantic = (codes.tolist() for codes in split(ids, manifest.layout.ids, ratios))
    if as_json:
        print_json(
            {"seconds": round(audio.seconds, 3), "ids": ids, "linguistic": linguistic, "semantic": semantic}
        )
        return
    group_seconds = manifest.tokenizer.group_samples / manifest.tokenizer.sample_rate
    for group in range(len(ids) // ratios.group_size):
        low = " ".join(f"{code:4d}" for code in linguistic[group * ratios.linguistic :][: ratios.linguistic])
        high = " ".join(f"{code:4d}" for code in semantic[group * ratios.semantic :][: ratios.semantic])
        print(f"{group * group_seconds:7.2f} s | {low} | {high}")


@app.command()
def up(
    bundle: BundleDir = None,
    port: Annotated[
        int,
        typer.Option(
            envvar=PORT_VARIABLE,
            min=0,
            max=65535,
            help="Where callers connect; 0 is any free port, as for all other ports.",
        ),
    ] = DEFAULT_PORT,
    redis_url: Annotated[
        str | None,
        typer.Option(
            envvar="AQAA_ORCHESTRATOR_REDIS_URL",
            help="A Redis or Valkey that runs already; by default one is started.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Keep the turn log in this folder; by default it goes at the end.")
    ] = None,
    ready_seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="Time to get ready before all is given up.")
    ] = 120.0,
    drain_seconds: Annotated[
        float, typer.Option(min=0, max=3600, help="Time for live turns to end after Ctrl-C.")
    ] = 10.0,
    json_logs: Annotated[
        bool, typer.Option("--json-logs", help="Print logs and the ready line as JSON, one object a line.")
    ] = False,
) -> None:
    """Run the four services and their turn log on this machine, until Ctrl-C."""
    if data is not None and redis_url is not None:
        raise BadArgument("--data keeps the data of our own turn log, and --redis-url names another one")
    root = bundle_dir(bundle)
    read_manifest(root)
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read as grpc loads: no note for each connection
    from aqaa.stack import up as stack

    plan = Plan(
        bundle=root.resolve(),
        environ=dict(os.environ),
        redis_url=redis_url,
        data=data,
        port=port,
        ready_seconds=ready_seconds,
        drain_seconds=drain_seconds,
    )
    raise typer.Exit(stack.run(plan, json_logs=json_logs))


@app.command()
def talk(
    questions: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[WAV …]", help="Recordings, a turn each; else a microphone."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(envvar="AQAA_ADDRESS", help="Of a stack; that of aqaa up by default.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The folder for answer-1.wav and so on.")] = Path("."),
) -> None:
    """Hold a conversation with a running stack. Ctrl-C silences an answer, a second one ends."""
    from aqaa.client.terminal import hold_talk

    if not out.is_dir():
        raise BadArgument(f"{out}: answers cannot be written, there is no such folder")
    recordings = [(path.name, read_audio(path)) for path in questions or ()]
    if hold_talk(address or usual_address(os.environ), recordings, out):
        raise typer.Exit(130)


@bundle_app.command()
def check(
    directory: Annotated[Path | None, typer.Argument(envvar="AQAA_BUNDLE", help="nano by default.")] = None,
) -> None:
    """Verify a bundle: manifest, presence, size and SHA-256 of every file."""
    with progress_bar(Console(stderr=True), "verifying") as progress:
        report = check_bundle(bundle_dir(directory), progress=progress)
    show_report(Console(), report)
    if not report.sound:
        faults = "; ".join(str(verdict) for verdict in report.verdicts if verdict.refused)
        raise BundleCorrupt(f"bundle {report.root}: {faults}")


def bundle_dir(given: Path | None) -> Path:
    """The folder that was asked for, else nano of this checkout.

    Raises:
        BundleError: neither is there; the message says what was looked for.
    """
    if given is None and not CHECKOUT_BUNDLE.is_dir():
        raise BundleError(f"no bundle: looked for {CHECKOUT_BUNDLE}; name one with --bundle or AQAA_BUNDLE")
    return given or CHECKOUT_BUNDLE


def read_question(path: Path, manifest: Manifest | None) -> Audio:
    """A recording no longer than the bundle takes; raises InvalidAudio with what was given and expected."""
    return read_audio(
        path, AudioLimits(max_seconds=manifest.max_question_seconds) if manifest else AudioLimits()
    )


def check_outputs(out: Path, picture: Path | None) -> None:
    """Refuses what could not be written before anything is computed."""
    for path, suffix in ((out, ".wav"), (picture, ".png")):
        if path is None:
            continue
        if path.suffix.lower() != suffix:
            raise BadArgument(f"{path}: cannot be written as {path.suffix or 'no type'}, expected {suffix}")
        if not path.absolute().parent.is_dir():
            raise BadArgument(f"{path}: cannot be written, its folder does not exist")


def loaded(root: Path, threads: int) -> Pipeline:
    """The pipeline of a bundle. torch is imported here, and nowhere before."""
    with progress_bar(Console(stderr=True), "loading the models") as progress:
        return pipeline_class().load(root, threads=threads, progress=progress)


def pipeline_class() -> type[Pipeline]:
    """The engine behind the commands; a test puts its own in place."""
    from aqaa.engine.pipeline import Pipeline as TorchPipeline

    return TorchPipeline


def served(wish: Wish) -> Answer:
    """The services' answer. gRPC is imported here, and nowhere before."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read as grpc loads: no note for each connection
    from aqaa.commands import asking

    try:
        with progress_bar(Console(stderr=True), "looking for a stack") as progress:
            return asking.ask(wish, progress)
    except asking.Stopped as stopped:
        raise typer.Exit(stopped.status) from None
    except asking.StackFailed as failed:
        tail = ["its last lines:", *(f"    {line}" for line in failed.tail)] if failed.tail else []
        print(*tail, f"error: {failed}", sep="\n", file=sys.stderr)
        raise typer.Exit(1) from None


def deliver(
    answer: Answer, manifest: Manifest | None, out: Path, picture: Path | None, as_json: bool
) -> None:
    """Writes sound and picture, then tells about them."""
    write_wav(out, answer.pcm, answer.sample_rate)
    if picture is not None and manifest is not None:
        with progress_bar(Console(stderr=True), "drawing"):
            from aqaa.present.picture import draw

            draw(answer, manifest, picture)
    if as_json:
        print_json(answer_record(answer))
        return
    console = Console()
    show_answer(console, answer)
    written = " and ".join(str(path) for path in (out, picture) if path is not None)
    console.print(f"wrote {written}", markup=False, highlight=False)


def print_json(record: dict[str, Any]) -> None:
    """One object on one line."""
    print(json.dumps(record, ensure_ascii=False, allow_nan=False))
