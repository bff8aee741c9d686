"""What the facade asks of an engine: token ids in, token ids out. It knows no gRPC and no text."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aqaa.tokens.grammar import FinishReason
from aqaa.tokens.sampling import SamplingSettings
from aqaa.tokens.table import StartMode, Task


@dataclass(frozen=True)
class Room:
    """How much an engine can take: ``positions`` of a slot hold a prompt and its answer together.

    A slot counts as free when nobody whom `Engine.open` has let in holds it; what `Engine.open_beside` began
    yields to them.
    """

    slots: int
    free_slots: int
    waiting: int
    positions: int


@dataclass(frozen=True)
class Decoding:
    """How a complete prompt is answered; plain data, so that it can travel to another process.

    Attributes:
        sampling: holds the seed that keys every draw.
        given: the answer's first tokens, forced or written elsewhere; they are not written again.
        spoken_text: text tokens in the prompt of a ``speak`` task.
        until_group: whole groups of sound, those of ``given`` included, that may be written; 0 for all. Text
            and markers behind the last of them are not held back, nor is the end.
    """

    task: Task
    sampling: SamplingSettings
    start_mode: StartMode = "auto"
    given: tuple[int, ...] = ()
    spoken_text: int | None = None
    until_group: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """The request has a slot; its prompt is being computed."""


@dataclass(frozen=True, slots=True)
class Written:
    """The answer's next tokens."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is whole, and its slot is free."""

    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no more tokens, and the slot is free. ``error`` is Cancelled where it was taken back."""

    error: Exception


Happening = Placed | Written | Finished | Failed

Listener = Callable[[Happening], None]
"""Called on the event loop, in order, until ``Finished`` or ``Failed``; not after it. It must not block."""


class Generation(ABC):
    """One request of an engine. What goes wrong after a call has returned comes as ``Failed``."""

    @abstractmethod
    async def append(self, ids: Sequence[int]) -> None:
        """More of the prompt, computed as it comes."""

    @abstractmethod
    async def commit(self, decoding: Decoding) -> None:
        """The prompt is complete: answer it. Once."""

    @abstractmethod
    async def advance(self, until_group: int) -> None:
        """Move the frontier of a committed request; 0 for none."""

    @abstractmethod
    def cancel(self) -> None:
        """Take the request back. Its slot is free within two decode steps; harmless when it has ended."""


class Engine(ABC):
    """Computes answers. All methods belong to the event loop that `start` ran on.

    await engine.start()
    generation = await engine.open(prompt_ids, listener)
    await generation.append(more_ids)                 # while the user speaks
    await generation.commit(Decoding("answer", sampling))
    ...                                               # the listener hears Placed, Written …, Finished
    await engine.close()
    """

    @abstractmethod
    async def start(self) -> None:
        """Load and warm up; when it returns, the first request is as fast as any."""

    @abstractmethod
    async def close(self) -> None:
        """End what runs as ``Failed`` and let everything go."""

    @abstractmethod
    async def until_broken(self) -> Exception:
        """Returns when the engine can compute no more and must be started anew."""

    @property
    @abstractmethod
    def room(self) -> Room:
        """As of now."""

    @abstractmethod
    async def open(self, ids: Sequence[int], listener: Listener) -> Generation:
        """Begin a request with the prompt so far, at least one id. It may have to wait for a slot.

        Raises:
            CapacityError: every slot is taken and the waiting line is full.
            Unavailable: the engine cannot be reached or is broken.
        """

    @abstractmethod
    async def open_beside(
        self, answer: Generation, ids: Sequence[int], decoding: Decoding, listener: Listener
    ) -> Generation:
        """A second, complete request that goes with a first one and shares its prompt's beginning.

        It needs no admission, because it yields to every answer: it is computed when the answer is on its way
        and takes over its place at the latest. It is cancelled when the answer is or fails.
        """
