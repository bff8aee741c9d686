"""One sequence that the engine computes: its ids, how far they are computed, how its next id is chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from torch import Tensor

from aqaa.engine.backbone.head import Scored
from aqaa.errors import AqaaError
from aqaa.tokens.classes import TokenClass
from aqaa.tokens.grammar import Automaton
from aqaa.tokens.sampling import Sampler

EndReason = Literal["stop", "length", "capacity", "cancelled", "failed"]

Observer = Callable[[int, Scored], None]


class Priority(IntEnum):
    """Background work waits while a foreground answer is on its way to first audio, and yields its slot."""

    FOREGROUND = 0
    BACKGROUND = 1


@dataclass(frozen=True, slots=True)
class Emitted:
    """A request's next token. `index` counts the answer's tokens, resumed ones included."""

    request: "Request"
    index: int
    token_id: int
    token_class: TokenClass


@dataclass(frozen=True, slots=True)
class Ended:
    """A request's last event.

    `stop` and `length` come from the grammar; `capacity` means that the slot is full, `failed` that no token
    could be drawn. All but the first two carry the error that a stream raises.
    """

    request: "Request"
    reason: EndReason
    error: AqaaError | None = None


Event = Emitted | Ended


@dataclass(eq=False)
class Request:
    """A prompt that may still grow and, once committed, the answer to it. Made by `BackboneEngine.open`.

    Attributes:
        ids: prompt, then answer.
        prompt_length: ids that are prompt; None until the request is committed.
        resumed: leading answer ids that were given, not chosen.
        computed: leading ids whose keys and values lie in `slot`.
        state: (1, D) hidden state after the last id, when that id is computed and the next is not chosen.
        held: no further id is chosen; what is pending is still computed.
        end: the last event, once there is one.
    """

    number: int
    priority: Priority
    ids: list[int]
    prompt_length: int | None = None
    automaton: Automaton | None = None
    sampler: Sampler | None = None
    observe: Observer | None = None
    slot: int | None = None
    computed: int = 0
    resumed: int = 0
    state: Tensor | None = field(default=None, repr=False)
    held: bool = False
    cancelled: bool = False
    end: Ended | None = None

    @property
    def committed(self) -> bool:
        return self.prompt_length is not None

    @property
    def tokens(self) -> Sequence[int]:
        """The answer so far."""
        return [] if self.prompt_length is None else self.ids[self.prompt_length :]

    @property
    def generated(self) -> int:
        """Tokens of the answer so far."""
        return 0 if self.prompt_length is None else len(self.ids) - self.prompt_length

    @property
    def pending(self) -> int:
        """Ids whose keys and values are still to be computed."""
        return len(self.ids) - self.computed

    @property
    def runnable(self) -> bool:
        """Whether a step has something to do for it, once it has a slot."""
        return self.pending > 0 or (self.committed and self.state is not None and not self.held)

    def extend(self, ids: Sequence[int]) -> None:
        """Add ids that are given, not chosen."""
        if ids:
            self.ids += ids
            self.state = None

    def choose(self, scored: Scored) -> Emitted:
        """Draw the next token and append it. Raises AqaaError where the scores are unusable."""
        assert self.automaton is not None
        assert self.sampler is not None
        index = self.generated
        if self.observe is not None:
            self.observe(index, scored)
        token_id = self.sampler.choose(index, scored, self.automaton.history)
        token_class = self.automaton.push(token_id)
        self.extend([token_id])
        return Emitted(self, index, token_id, token_class)
