"""Micro-batches in turn, of which later ones are under way before those ahead of them are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from evosearch.budget import BudgetExhausted
from evosearch.decoding import Decoded
from evosearch.types import Population


class Ran(NamedTuple):
    """What a micro-batch came to.

    Attributes:
        end: Where it stands.
        kept: The states that were to be kept, by level.
        nfe: Denoising steps that were computed.
        passes: The same, with those of guidance.
        edits: Whether the pipeline edits its states.
        batch_size: Particles that memory suffices for.
        decoding: What stands for its samples and what waits for them, where they are being decoded already.
    """

    end: Population
    kept: dict[int, Population]
    nfe: int
    passes: int
    edits: bool
    batch_size: int
    decoding: tuple[Tensor, Callable[[], Decoded]] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What a journal holds beside the states."""
        return {"nfe": self.nfe, "passes": self.passes, "edits": self.edits, "batch_size": self.batch_size}


class Pending(Protocol):
    """A micro-batch that has begun."""

    def __call__(self) -> Ran:
        """What it came to; waits for it."""
        ...

    def cancel(self) -> bool:
        """Leave it, unless somebody is at it; whether that could be done."""
        ...


class Done(NamedTuple):
    """A micro-batch that was computed when it began."""

    ran: Ran

    def __call__(self) -> Ran:
        """What it came to."""
        return self.ran

    def cancel(self) -> bool:
        """Too late."""
        return False


@dataclass
class Batch:
    """A micro-batch.

    Attributes:
        p: Its particles.
        words: What the journal knows it by.
        cost: NFE that it takes.
        scored: Rewards that it takes next.
        pending: Gives what it came to, once it has begun.
    """

    p: Population
    words: str
    cost: int
    scored: int = 0
    pending: Pending | None = None


class Turns:
    """Micro-batches that are run in turn, of which later ones are begun before their turn where that saves time.

    What comes of each is waited for, charged and journaled in its turn, as if it had begun only then. So one that the
    budget does not pay for by then has begun in vain, and a search goes as it would with one at a time.

    Args:
        batches: Drawn as there is room for them.
        begin: Begins one of which some are ahead, if the budget is likely to pay for all; whether it has begun.
        done: Waits for one, and takes note of it; `BudgetExhausted` where it is not paid for.
        ahead: How many may be under way.
        elsewhere: Whether they are computed elsewhere, so that nothing waits for one that begins.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        begin: Callable[[Batch, Sequence[Batch]], bool],
        done: Callable[[Batch], tuple[Population, dict[int, Population]]],
        *,
        ahead: int,
        elsewhere: bool,
    ) -> None:
        self._batches, self._waiting = iter(batches), deque[Batch]()
        self._begin, self._done, self._ahead, self._elsewhere = begin, done, ahead, elsewhere

    def __iter__(self) -> Turns:
        return self

    def __next__(self) -> tuple[Population, dict[int, Population]]:
        if self._elsewhere:
            self.begin()
        if not self._waiting:
            self._waiting.append(next(self._batches))
        return self._done(self._waiting.popleft())

    def begin(self) -> None:
        """Begin those that may be under way while something else is waited for; one, where they are computed here."""
        for k in range(self._ahead):
            if k == len(self._waiting):
                batch = next(self._batches, None)
                if batch is None:
                    return
                self._waiting.append(batch)
            batch = self._waiting[k]
            if batch.pending is None and not self._begin(batch, list(self._waiting)[:k]):
                return

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        waiting = self._waiting
        while waiting and (waiting[-1].pending is None or waiting[-1].pending.cancel()):
            waiting.pop()
        if kind is None or issubclass(kind, BudgetExhausted | GeneratorExit):
            return
        with suppress(Exception, KeyboardInterrupt):  # what went wrong first is what is told
            while waiting:  # much time went into them, and who resumes the run has use for them
                self._done(waiting.popleft())
