"""The journal: what model and reward gave, call by call, so that a run that was cut off goes on where it stopped.

A search asks for the same things in the same order whenever it is run, so that what it was given is all that there is
to keep: a search that is run again is told it, and comes to where it was without the model.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evosearch.types import Population


class Answer(NamedTuple):
    """What a call gave.

    Attributes:
        seconds: What the run's clock read then.
        facts: Plain data.
        tensors: By name.
    """

    seconds: float
    facts: dict[str, Any]
    tensors: dict[str, Tensor]


class Call(NamedTuple):
    """A call of the model or of the reward.

    Attributes:
        kind: ``run``, ``score`` or ``held out``.
        number: How many of its kind came before.
        asks: What it is asked, as `asks` makes it.
        told: What it gave when the run came here before; None where it has yet to be made.
    """

    kind: str
    number: int
    asks: str
    told: Answer | None = None


class Diverged(ValueError):
    """A search asks for something else than it did when its journal was written."""


class Journal:
    """Keeps nothing: of a run without a folder. See `evosearch.ledger.RunJournal` for one that does."""

    def __init__(self) -> None:
        self._calls = Counter[str]()

    def call(self, kind: str, asks: str) -> Call:
        """The next call of a kind.

        Raises:
            Diverged: It asks for something else than it did before.
        """
        number = self._calls[kind]
        self._calls[kind] += 1
        told = self.told(kind, number)
        if told is None:
            return Call(kind, number, asks)
        asked, answer = told
        if asked != asks:
            raise Diverged(
                f"the run goes another way than its journal, from call {number:,} of kind {kind!r} on: its search, its "
                "model or the machine's arithmetic is another; resume it where it began, or begin a new run"
            )
        return Call(kind, number, asks, answer)

    def expects(self, kind: str, asks: str) -> bool:
        """Whether the next call of a kind was made before, and asked for the same."""
        del kind, asks
        return False

    def told(self, kind: str, number: int) -> tuple[str, Answer] | None:
        """What was asked by an earlier call and what it gave; None where there was none."""
        del kind, number
        return None

    def keep(self, call: Call, answer: Answer) -> None:
        """Take note of what a call gave."""
        del call, answer

    def event(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Take note of something that those who run it should know."""
        del kind, facts


def asks(p: Population, *more: Any) -> str:
    """What is asked of particles, in a few characters: who they are, where they stand, and what is to be done."""
    whole = zlib.crc32(repr((p.i, p.x0 is not None, p.memory is not None, *more)).encode())
    for rows in (p.id, p.key, p.x):
        whole = zlib.crc32(rows.detach().contiguous().numpy().data, whole)
    return f"{whole:08x}"


_STATE = ("x", "x0", "eps", "memory")


def packed(p: Population, end: Population, kept: dict[int, Population]) -> dict[str, Tensor]:
    """What is new in the states that a run came to and passed, by name: ``20.x``, ``8.x0``, ..."""
    found = dict[str, Tensor]()
    for q in (*kept.values(), end):
        if q is p:
            continue
        for name in _STATE:
            value, before = getattr(q, name), getattr(p, name)
            same = q.i == p.i and before is not None and value is not None and torch.equal(value, before)
            if value is not None and not same:
                found[f"{q.i}.{name}"] = value
    return found


def unpacked(
    p: Population, until: int, keep: Collection[int], tensors: dict[str, Tensor]
) -> tuple[Population, dict[int, Population]]:
    """The inverse of `packed`.

    Args:
        p: The particles that were run.
        until: Level that they came to.
        keep: Levels that were to be kept.
        tensors: States.
    """
    found = {until: dict[str, Tensor](), **{level: dict[str, Tensor]() for level in keep}}
    for name, value in tensors.items():
        level, _, field = name.partition(".")
        found[int(level)][field] = value
    here = {"x": p.x, "memory": p.memory}
    states = {
        level: p if level == p.i and p.x0 is not None else _moved(p, level, (here if level == p.i else {}) | fields)
        for level, fields in found.items()
    }
    return states[until], {level: states[level] for level in keep}


def _moved(p: Population, level: int, fields: dict[str, Any]) -> Population:
    return p.moved(fields.pop("x"), level, **fields)
