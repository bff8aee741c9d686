"""What callers ask, checked field by field and turned into ids and settings: the door of the service."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from aqaa.errors import BundleChanged, BundleUnsupported, GrammarError, Unsupported
from aqaa.tokens.prompt import Message, Role
from aqaa.tokens.sampling import Rule, SamplingSettings
from aqaa.tokens.table import StartMode, Task
from aqaa.v1 import backbone_pb2, tokens_pb2
from services.llm.faults import fault
from services.llm.groups import read_groups
from services.llm.language import Language
from services.llm.pieces import style_id

_TASKS: Final[dict[int, Task]] = {
    tokens_pb2.TASK_ANSWER: "answer",
    tokens_pb2.TASK_TRANSCRIPT: "transcript",
    tokens_pb2.TASK_SPEAK: "speak",
    tokens_pb2.TASK_CONTINUE: "continue",
}
_START_MODES: Final[dict[int, StartMode]] = {
    tokens_pb2.START_MODE_UNSPECIFIED: "speech",
    tokens_pb2.START_MODE_AUTO: "auto",
    tokens_pb2.START_MODE_SPEECH: "speech",
    tokens_pb2.START_MODE_TEXT: "text",
}
_ROLES: Final[dict[int, Role]] = {
    tokens_pb2.ROLE_SYSTEM: "system",
    tokens_pb2.ROLE_HUMAN: "human",
    tokens_pb2.ROLE_ASSISTANT: "assistant",
}
_TEMPERATURES: Final = {
    "text_temperature": "text",
    "linguistic_temperature": "linguistic",
    "semantic_temperature": "semantic",
}
_HOTTEST = 2.0
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Opening:
    """A prompt's beginning.

    Attributes:
        ids: all that stands before the question's next group, a written question included.
        written: text tokens of a written question; None where it is spoken.
    """

    ids: tuple[int, ...]
    written: int | None
    seed: int


@dataclass(frozen=True)
class Door:
    """Reads requests for one bundle; holds nothing of any of them.

    ``positions``: of a slot. ``text_bytes``: the most that the texts of a call may have together.
    """

    language: Language
    positions: int
    text_bytes: int

    def opening(self, request: backbone_pb2.OpenPrompt) -> Opening:
        """Raises BundleChanged, InvalidRequest."""
        self._check_digest(request.bundle_digest)
        messages = [self._message(number, message) for number, message in enumerate(request.history)]
        size = sum(len(text.encode()) for text in (request.text, *(m.text for m in request.history)))
        if size > self.text_bytes:
            raise fault("open", f"its texts have {size} bytes, expected at most {self.text_bytes}")
        prompts = self.language.prompts
        ids = prompts.opening(messages)
        written = prompts.content(request.text) if request.text else None
        if written is not None:
            ids += written
        self._check_room(ids, 0, "open")
        return Opening(tuple(ids), None if written is None else len(written), request.seed)

    def groups(self, groups: tokens_pb2.AudioGroups, *, before: int, positions: int) -> list[int]:
        """More of the question.

        Args:
            before: groups that came earlier. positions: that the prompt has already.

        Raises:
            InvalidRequest, InvalidToken.
        """
        size = max(len(groups.linguistic), len(groups.semantic))
        self._check_room(range(size), positions, "prompt")  # before any of it is looked at
        ids = read_groups(self.language, groups, "prompt", first=before)
        self._check_room(ids, positions, "prompt")
        return ids

    def task(self, request: backbone_pb2.CommitPrompt) -> Task:
        """Raises InvalidRequest."""
        if request.task not in _TASKS:
            names = ", ".join(tokens_pb2.Task.keys()[1:])
            raise fault("commit.task", f"is {request.task}, expected one of {names}")
        return _TASKS[request.task]

    def start_mode(self, request: backbone_pb2.CommitPrompt, task: Task) -> StartMode:
        """Raises InvalidRequest."""
        if request.start_mode not in _START_MODES:
            names = ", ".join(tokens_pb2.StartMode.keys())
            raise fault("commit.start_mode", f"is {request.start_mode}, expected one of {names}")
        if task == "answer":
            return _START_MODES[request.start_mode]
        if request.start_mode not in (tokens_pb2.START_MODE_UNSPECIFIED, tokens_pb2.START_MODE_AUTO):
            raise fault("commit.start_mode", "is for TASK_ANSWER alone, expected none")
        return "auto"

    def check_prompt(
        self, request: backbone_pb2.CommitPrompt, task: Task, *, groups: int, written: int | None
    ) -> None:
        """Whether the prompt that has come is whole, and fit for the task. Raises InvalidRequest."""
        if request.prompt_groups != groups:
            raise fault(
                "commit.prompt_groups", f"is {request.prompt_groups}, expected {groups}: so many came"
            )
        if written is None and not groups:
            raise fault("prompt", "the prompt has neither sound nor text, expected one of them")
        if task == "speak" and written is None:
            raise fault("open.text", "is empty, expected the text to speak")
        if task in ("transcript", "continue") and written is not None:
            raise fault("open.text", f"is not empty, expected a spoken prompt for {task}")
        if request.transcript and (written is not None or task not in ("answer", "continue")):
            raise fault("commit.transcript", "is set, expected it for the answer to a spoken prompt alone")
        if len(request.answered) > 2 * self.positions:
            raise fault("commit.answered", f"has {len(request.answered)} pieces, more than an answer can")

    def forced(self, request: backbone_pb2.CommitPrompt, task: Task) -> list[int]:
        """How an answer begins by the caller's wish. Raises InvalidRequest."""
        if task != "speak":
            if request.style:
                raise fault("commit.style", "is for TASK_SPEAK alone, expected none")
            return []
        marker = [self.language.grammar.ranges.audio_start]
        if request.style:
            marker.append(style_id(self.language, request.style, "commit.style"))
        return marker

    def check_forced(self, given: Sequence[int], forced: Sequence[int]) -> None:
        """Whether pieces written elsewhere begin as the caller wishes. Raises InvalidRequest."""
        if list(given[: len(forced)]) != list(forced):
            raise fault("commit.answered[0]", "does not begin as commit.style says")

    def check_answer_fits(self, task: Task, start_mode: StartMode, *, prompt: int, given: int) -> None:
        """Whether a slot has room for an answer to so many positions of prompt. Raises InvalidRequest."""
        room = self.positions - prompt + 1
        try:
            self.language.grammar.start(task=task, start_mode=start_mode, max_tokens=max(room, 0))
        except GrammarError as error:
            left = f"{max(room, 0)} of {self.positions} positions"
            raise fault("prompt", f"leaves {left} to the answer: {error}") from error
        if given >= room:
            raise fault("commit.answered", f"has {given} tokens, expected fewer than {room}")

    def sampling(self, request: backbone_pb2.CommitPrompt, task: Task, seed: int) -> SamplingSettings:
        """The bundle's sampling of a task with the caller's deviations.

        Raises:
            Unsupported: the bundle was not trained for the task.
            InvalidRequest: a value out of range, or a bundle that takes no deviations.
        """
        settings = self.defaults(task, seed)
        changes = {field.name: value for field, value in request.sampling.ListFields()}
        if not changes:
            return settings
        if settings.mode == "union":
            raise fault("commit.sampling", "this bundle draws from all classes at once, expected none")
        rules: dict[str, Rule] = {kind: getattr(settings, kind) for kind in _TEMPERATURES.values()}
        for name, value in changes.items():
            field = f"commit.sampling.{name}"
            if name in _TEMPERATURES:
                if not 0 <= value <= _HOTTEST:  # not a number is refused too
                    raise fault(field, f"is {value:g}, expected 0 to {_HOTTEST:g}")
                kind = _TEMPERATURES[name]
                rules[kind] = replace(rules[kind], temperature=value)
            else:
                if not 0 < value <= 1:
                    raise fault(field, f"is {value:g}, expected more than 0 and at most 1")
                for kind in ("linguistic", "semantic"):
                    rules[kind] = replace(rules[kind], top_p=value)
        return replace(
            settings, text=rules["text"], linguistic=rules["linguistic"], semantic=rules["semantic"]
        )

    def defaults(self, task: Task, seed: int) -> SamplingSettings:
        """The bundle's sampling of a task. Raises Unsupported where it was not trained for it."""
        try:
            return self.language.manifest.settings(task, seed=seed)
        except BundleUnsupported as error:
            raise Unsupported(str(error)) from error

    def _check_digest(self, digest: str) -> None:
        if digest and not _DIGEST.fullmatch(digest):
            raise fault("open.bundle_digest", "expected 64 hexadecimal digits in lower case, or none")
        if digest and digest != self.language.digest:
            raise BundleChanged(
                f"open.bundle_digest is {digest[:12]}…, this replica holds {self.language.digest[:12]}…"
            )

    def _message(self, number: int, message: tokens_pb2.Message) -> Message:
        field = f"open.history[{number}].role"
        if message.role not in _ROLES:
            raise fault(field, f"is {message.role}, expected one of {', '.join(tokens_pb2.Role.keys()[1:])}")
        if message.role == tokens_pb2.ROLE_SYSTEM and number:
            raise fault(field, "ROLE_SYSTEM stands before the conversation, expected it first or not at all")
        return Message(_ROLES[message.role], message.text)

    def _check_room(self, ids: Sequence[int], before: int, field: str) -> None:
        if before + len(ids) >= self.positions:
            size = before + len(ids)
            raise fault(field, f"the prompt has {size} positions, expected fewer than {self.positions}")
