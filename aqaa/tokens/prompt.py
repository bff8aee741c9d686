"""The chat template of a bundle, and the prompts it makes of history, questions and tasks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from aqaa.tokens.ids import IdLayout
from aqaa.tokens.table import TASKS, Task
from aqaa.tokens.text import TextVocabulary

Role = Literal["system", "human", "assistant"]


@dataclass(frozen=True)
class PromptTemplate:
    """How messages become tokens: ``bos``, then for each message ``bot`` header content ``eot``.

    ``bos``, ``bot`` and ``eot`` are piece names (``bos`` may be None); ``header`` holds ``{role}``. ``roles``
    renames what opens a task or a message: unless it says otherwise, answers are by ``assistant``, and every
    other task has a role of its own name. The prefix flags say whether SentencePiece's dummy prefix stands
    before header and content. ``system`` is the system message of a prompt that brings none.
    """

    bos: str | None
    bot: str
    eot: str
    header: str = "{role}\n"
    roles: Mapping[str, str] = field(default_factory=dict)
    header_prefix: bool = False
    content_prefix: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        if "{role}" not in self.header:
            raise ValueError(f"template header is {self.header!r}, expected a text with {{role}}")
        known = {"system", "human", "assistant", *TASKS}
        for key in self.roles:
            if key not in known:
                raise ValueError(f"template role {key!r}, expected one of {', '.join(sorted(known))}")

    @property
    def controls(self) -> tuple[str, ...]:
        """The pieces that no text may produce: for TextVocabulary."""
        return tuple(piece for piece in (self.bos, self.bot, self.eot) if piece is not None)

    def header_of(self, role: Role | Task) -> str:
        """The header of a message by this role, or of the answer to this task."""
        usual = "assistant" if role in ("answer", "free") else role
        return self.header.format(role=self.roles.get(role, usual))


STEP_AUDIO_CHAT = PromptTemplate("<s>", "<|BOT|>", "<|EOT|>")
"""Step-Audio-Chat as ``stepaudio.py`` builds it; its Hugging Face template adds a system message."""

STEP_AUDIO_TTS = PromptTemplate("<s>", "<|BOT|>", "<|EOT|>", header_prefix=True)
"""Step-Audio-TTS-3B (``tts.py``)."""


@dataclass(frozen=True)
class Message:
    """An earlier message: ``content`` is a caller's text, or the audio ids of whole groups."""

    role: Role
    content: str | tuple[int, ...]


class PromptBuilder:
    """Prompts as lists of ids.

    A spoken question streams: ``opening``, then groups as they are heard, then ``closing``. The marker of a
    task comes after it, so the prefix and its KV serve the answer and the transcript alike.

    >>> prefix = builder.question(ids, history=[Message("human", "hello"), Message("assistant", "hi")])
    >>> answer, transcript = prefix + builder.marker("answer"), prefix + builder.marker("transcript")
    """

    def __init__(self, template: PromptTemplate, vocabulary: TextVocabulary, layout: IdLayout) -> None:
        self.template = template
        self._vocabulary = vocabulary
        self._layout = layout
        self._bos = [] if template.bos is None else [vocabulary.piece_id(template.bos)]
        self._bot = vocabulary.piece_id(template.bot)
        self._eot = vocabulary.piece_id(template.eot)

    @cached_property
    def closing(self) -> list[int]:
        """What ends a message."""
        return [self._eot]

    def opening(self, history: Sequence[Message] = (), system: str | None = None) -> list[int]:
        """All that stands before the question's first id.

        ``system`` replaces the template's own system message; a system message in ``history`` replaces both.
        """
        ids = list(self._bos)
        if system is None:
            system = self.template.system
        if system is not None and not any(message.role == "system" for message in history):
            ids += self._message(Message("system", system))
        for message in history:
            ids += self._message(message)
        return ids + self._header("human")

    def question(
        self, content: str | Iterable[int], history: Sequence[Message] = (), system: str | None = None
    ) -> list[int]:
        """A whole prefix: history and one question, spoken (ids of whole groups) or written.

        Raises InvalidToken for an id that is not audio.
        """
        content = content if isinstance(content, str) else tuple(content)
        return self.opening(history, system) + self.content(content) + self.closing

    def marker(self, task: Task) -> list[int]:
        """What stands after the question and asks for a task."""
        return self._header(task)

    def content(self, content: str | Sequence[int]) -> list[int]:
        """A message's content as ids: a caller's text, or audio ids that are checked. Raises InvalidToken."""
        if isinstance(content, str):
            return self._vocabulary.encode(content, prefix=self.template.content_prefix)
        ids: list[int] = (self._layout.audio_codes(content) + self._layout.audio_base).tolist()
        return ids

    def _message(self, message: Message) -> list[int]:
        return self._header(message.role) + self.content(message.content) + self.closing

    def _header(self, role: Role | Task) -> list[int]:
        header = self.template.header_of(role)
        return [self._bot, *self._vocabulary.encode(header, prefix=self.template.header_prefix)]
