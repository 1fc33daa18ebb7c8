"""Scores that are known already: no reward scores a sample twice for a prompt, in a run or, on disk, across runs.

What a reward's scores are kept under is its attribute ``cache_key``:

- text that names all that they depend on, as `identity` makes it: they are kept across runs, too;
- without the attribute, as with any plain function: the very object, so in this run alone;
- None: they are not kept, since another call may give another score.

A combination says by ``parts`` which rewards it is made of. They are kept each by itself, so that other weights ask
for nothing anew. Scores that are missing (NaN) are kept nowhere: they are asked for again.

A reward whose calls may end half-way, with an error, has a method ``known(samples, prompts)``, which gives the scores
that it has by then, NaN for the others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from inspect import getattr_static
from pathlib import Path
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

import evosearch
from evosearch.digests import digest
from evosearch.rewards.cache_file import CacheFile, Key

_WEIGHTS = WeakKeyDictionary[nn.Module, tuple[Any, bytes]]()
"""Of models, what tells whether a weight has changed since, and the digest of all."""

_CURRENT = ContextVar["ScoreCache | None"]("the cache in use", default=None)
_SCRIPT = ContextVar["_Script | None"]("what rewards are told, or heard to say", default=None)

Ask = Callable[[Any, Tensor, list[str]], Tensor]


class Unknown(NamedTuple):
    """What there is to do for samples: how many a part of a reward has yet to score, and for how much money."""

    samples: int
    usd: float


class _Script(NamedTuple):
    """What rewards said, call by call, (N,) each."""

    told: bool
    lines: list[list[float]]


class ScoreCache:
    """Scores by reward, prompt and sample.

    Args:
        folder: Where they are kept for later runs, and shared with others that go on meanwhile; nowhere by default.

    Raises:
        ValueError: The folder cannot be made, or holds something else.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._file = None if folder is None else CacheFile(Path(folder).expanduser())
        self._scores: dict[Key, float] = {}
        self._names: dict[int, tuple[Any, str]] = {}  # with the reward, whose id is not given to another then
        self._digests = WeakTensorKeyDictionary()

    @contextmanager
    def used(self) -> Generator[None]:
        """Within, `evosearch.rewards.scores` looks here first, for parts of combinations as for any reward."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def recognise(self, samples: Tensor, digests: list[bytes]) -> None:
        """Spare a look at samples (N, [F,] 3, H, W) in [0, 1], the digests of whose 8 bits are at hand."""
        self._digests[samples] = digests

    @contextmanager
    def told(self, heard: list[list[float]] | None) -> Generator[list[list[float]]]:
        """Within, rewards are not asked, but told what they said before, in turn; or else what they say is heard.

        Args:
            heard: What they said; None where they are to be asked. Then what is given out holds it at the end.
        """
        script = _Script(heard is not None, [] if heard is None else [*heard])
        token = _SCRIPT.set(script)
        try:
            yield script.lines
        finally:
            _SCRIPT.reset(token)

    def unknown(self, reward: Any, samples: Tensor, prompts: list[str]) -> Unknown:
        """What is left to do for these samples."""
        rows, usd = set[int](), 0.0
        for part in leaves(reward):
            keys = None if samples.requires_grad else self._keys(part, samples, prompts)
            new = range(len(samples)) if keys is None else self._new(keys, self._found(keys))
            rows.update(new)
            usd += len(new) * float(getattr(part, "usd_per_call", 0.0))
        return Unknown(len(rows), usd)

    def scores(self, reward: Any, samples: Tensor, prompts: list[str], ask: Ask) -> Tensor:
        """What a reward says of samples, (N,) float32, those that it has not said yet asked for in one batch.

        Args:
            reward: One whose scores may be kept, or not.
            samples: (N, [F,] 3, H, W) in [0, 1].
            prompts: N of them.
            ask: Has the reward score samples.
        """
        keys = None if samples.requires_grad else self._keys(reward, samples, prompts)
        script = _SCRIPT.get()
        if script is not None and script.told:
            values = torch.tensor(script.lines.pop(0), dtype=torch.float32)
            if keys is not None:
                self._scores |= _valid(keys, values)
            return values
        values = self._asked(reward, keys, samples, prompts, ask)
        if script is not None:
            script.lines.append(values.detach().tolist())
        return values

    def _asked(self, reward: Any, keys: list[Key] | None, samples: Tensor, prompts: list[str], ask: Ask) -> Tensor:
        if keys is None:
            return ask(reward, samples, prompts)
        found = self._found(keys)
        if rows := self._new(keys, found):
            whole = len(rows) == len(samples)
            some = samples if whole else samples[rows]
            texts = prompts if whole else [prompts[row] for row in rows]
            new = [keys[row] for row in rows]
            try:
                given = ask(reward, some, texts)
            except BaseException:
                if hasattr(reward, "known"):  # what gave up on the way may have answers that were paid for
                    self._keep(new, reward.known(some, texts))
                raise
            self._keep(new, given)
            found |= zip(new, given.tolist(), strict=True)
        return torch.tensor([found[key] for key in keys], dtype=torch.float32)

    def _keys(self, reward: Any, samples: Tensor, prompts: list[str]) -> list[Key] | None:
        """What scores are kept under; None where they are not."""
        if _parts(reward) is not None or not lasting(reward):
            return None
        if samples not in self._digests:
            self._digests[samples] = list(map(_seen, samples.detach()))
        name = self._name(reward)
        return [Key(name, text, seen) for text, seen in zip(prompts, self._digests[samples], strict=True)]

    def _name(self, reward: Any) -> str:
        if id(reward) not in self._names:
            declared = self._file is not None and getattr(reward, "cache_key", None)
            self._names[id(reward)] = reward, declared or f"#{len(self._names)}"
        return self._names[id(reward)][1]

    def _found(self, keys: Iterable[Key]) -> dict[Key, float]:
        """What is known of these."""
        keys = set(keys)
        if self._file is not None:
            self._scores |= self._file.read(key for key in keys - self._scores.keys() if _declared(key))
        return {key: self._scores[key] for key in keys & self._scores.keys()}

    def _new(self, keys: list[Key], found: dict[Key, float]) -> list[int]:
        """Where the first of each that is not known stands."""
        rows: dict[Key, int] = {}
        for row, key in enumerate(keys):
            if key not in found:
                rows.setdefault(key, row)
        return list(rows.values())

    def _keep(self, keys: list[Key], values: Tensor) -> None:
        valid = _valid(keys, values)
        self._scores |= valid
        if self._file is not None:
            self._file.write({key: value for key, value in valid.items() if _declared(key)})


def _valid(keys: list[Key], values: Tensor) -> dict[Key, float]:
    return {key: value for key, value in zip(keys, values.tolist(), strict=True) if math.isfinite(value)}


def leaves(reward: Any) -> list[Any]:
    """The rewards that one is made of, down to those that are made of none."""
    parts = _parts(reward)
    return [reward] if parts is None else [leaf for part in parts for leaf in leaves(part)]


def lasting(reward: Any) -> bool:
    """Whether another call gives the same scores: neither it nor what it is made of says otherwise."""
    # Seen, not computed: reading all weights takes seconds, and only a file needs that.
    return all(getattr_static(leaf, "cache_key", "") is not None for leaf in leaves(reward))


def in_use() -> ScoreCache | None:
    """The cache whose ``used`` we are within."""
    return _CURRENT.get()


def identity(name: str, *models: nn.Module, **settings: Any) -> str:
    """All that scores depend on, for ``cache_key``: name, settings, this package's version, models with their weights.

    Weights are read whole, a GB in about a second, once for each model; so it is asked for only where scores go to
    disk.

    Args:
        name: Of the reward; goes before the digest of the rest.
        *models: What it computes with.
        **settings: What changes its scores, as plain data; ``version`` takes the place of the package's.
    """
    whole = sha256(json.dumps({"version": evosearch.__version__, **settings}, sort_keys=True, default=str).encode())
    for model in models:
        for config in (getattr(model, "config", None), getattr(model, "generation_config", None)):
            whole.update(repr(None if config is None else _plain(config.to_dict())).encode())
        whole.update(_weights(model))
    return f"{name} {whole.hexdigest()[:32]}"


def _weights(model: nn.Module) -> bytes:
    """The digest of all weights by name; they are read again only where one has changed or moved."""
    tensors = model.state_dict()
    told = not any(tensor.is_inference() for tensor in tensors.values())  # those do not say that they have changed
    state = told and tuple((name, tensor.data_ptr(), tensor._version) for name, tensor in tensors.items())
    known = _WEIGHTS.get(model)
    if known is None or not told or known[0] != state:
        whole = sha256()
        for name, tensor in tensors.items():
            whole.update(name.encode() + digest(tensor))
        _WEIGHTS[model] = known = state, whole.digest()
    return known[1]


def _seen(sample: Tensor) -> bytes:
    """The digest of a sample's 8 bits, or of all that it holds where that is more."""
    eight_bit = (sample * 255).round().to(torch.uint8)
    return digest(eight_bit if torch.equal(eight_bit.to(sample.dtype) / 255, sample) else sample)


def _parts(reward: Any) -> Iterable[Any] | None:
    parts = getattr(reward, "parts", None)
    if isinstance(parts, Mapping):
        return cast(Mapping[str, Any], parts).values()
    return None if callable(parts) else parts  # a reward's method of this name says something else


def _declared(key: Key) -> bool:
    return not key.reward.startswith("#")


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """A config without where it lies and who wrote it."""
    return {name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")}
