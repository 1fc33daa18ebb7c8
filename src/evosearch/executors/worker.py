"""What a worker does: it has the pipeline and the rewards, and computes one micro-batch after the other."""

from __future__ import annotations

import pickle
import platform
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import cloudpickle
import diffusers
import torch
from torch import Tensor

from evosearch import models, rewards
from evosearch.checks import is_refusal
from evosearch.decoding import Decoded, exactly, told_apart
from evosearch.journal import packed
from evosearch.memory import exhausted
from evosearch.path import NoisePath
from evosearch.progress import hush
from evosearch.resolve import Traits, sampler_of, traits_of
from evosearch.result import thumbnail
from evosearch.rewards import TensorReward
from evosearch.rewards.cache import leaves
from evosearch.settings import facts_of_pipe, fingerprint, networks, rate_of
from evosearch.types import Population, pictures

_OPEN = 8  # samplers, each with its prompt encoded
_CUDNN = ("allow_tf32", "benchmark")
_HELD = 2**30  # bytes of samples that wait to be scored
_BROKEN = (  # what a process does not recover from
    "CUDA error", "CUBLAS_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_INTERNAL_ERROR", "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR", "HIP error", "unspecified launch failure",
)  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """What all workers have in common.

    Attributes:
        pipe: The pipeline's name, or itself, or a sampler.
        load_kwargs: For `evosearch.load`, where it is a name.
        threads: Of torch; bits go by their number.
        backends: Switches of torch that bits go by.
    """

    pipe: Any
    load_kwargs: Mapping[str, Any]
    threads: int
    backends: Mapping[str, Any]


class About(NamedTuple):
    """What a worker says of itself.

    Attributes:
        traits: Of its pipeline.
        device: Where it computes.
        same: What has to be the same in all workers.
    """

    traits: Traits
    device: str
    same: dict[str, Any]


class Opened(NamedTuple):
    """What a worker says of a sampler; see `evosearch.pipeline.PipelineSampler`.

    Attributes:
        path: The noise path.
        shape: Of one particle.
        eta: Default.
        seed: Run seed.
        batch_size: Particles in a micro-batch.
        device: Type of the device.
        start: What level 0 begins with, beside noise; None where with noise alone.
        own_solver: Of the pipeline, if not ours.
        facts: What a manifest says of the pipeline.
        frame_rate: At which its videos are judged.
    """

    path: NoisePath
    shape: tuple[int, ...]
    eta: float
    seed: int
    batch_size: int
    device: str
    start: Tensor | None
    own_solver: str | None
    facts: dict[str, Any]
    frame_rate: float


class Spec(NamedTuple):
    """A sampler that is asked for: what `evosearch.resolve.sampler_of` takes.

    Or the same as another one (``of``), whose network takes features over from the step before.
    """

    arguments: dict[str, Any]
    of: str | None = None
    cache: Any = None
    prices: tuple[float, ...] = ()


class Worker:
    """A pipeline and rewards, and what is asked of them.

    Args:
        setup: What it shares with the others.
        beat: Called whenever there is a sign of life to give.
    """

    def __init__(self, setup: Setup, beat: Callable[[], None] = lambda: None) -> None:
        hush()
        torch.set_num_threads(setup.threads)
        _switch(setup.backends)
        self._beat, pipe = beat, setup.pipe
        self.pipe = models.load(pipe, **setup.load_kwargs) if isinstance(pipe, str) else pipe
        self._defined: dict[str, Any] = {}
        self._samplers = OrderedDict[str, Any]()
        self._rewards: dict[tuple[str, int, float | None], TensorReward] = {}
        self._samples = OrderedDict[int, Tensor]()

    def define(self, name: str, value: bytes) -> None:
        """Take note of what a name stands for."""
        self._defined[name] = cloudpickle.loads(value)

    def about(self) -> About:
        """What there is to say of it."""
        traits = traits_of(self.pipe)
        device = torch.device(getattr(self.pipe, "device", None) or "cpu")
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "python": platform.python_version()}
        weights = {} if traits.sampler else {n: fingerprint(m) for n, m in networks(self.pipe).items()}
        return About(
            traits=traits,
            device=kind,
            same=versions | {"threads": torch.get_num_threads(), "weights": weights},
        )

    def open(self, name: str) -> Opened:
        """Make a sampler ready."""
        own = self._sampler(name)
        return Opened(
            path=own.path,
            shape=tuple(own.shape),
            eta=own.eta,
            seed=own.seed,
            batch_size=own.batch_size,
            device=own.device.type,
            start=getattr(own, "clean", None),
            own_solver=getattr(own, "own_solver", None),
            facts={"sampler": type(own).__name__} | facts_of_pipe(own),
            frame_rate=rate_of(own),
        )

    def run(
        self,
        name: str,
        p: Population,
        until: int,
        keep: Sequence[int] = (),
        eta: float | None = None,
        through: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Denoise a micro-batch, or predict where it stands; returns facts, and what is new in its states."""
        own = self._sampler(name, batch_size)
        nfe, passes = own.computed, getattr(own, "model_passes", 0)
        end, kept = (own.predict(p), {}) if until == p.i else own.run(p, until, keep, eta, through)
        nfe = own.computed - nfe
        facts = {"nfe": nfe, "passes": own.model_passes - passes if hasattr(own, "model_passes") else nfe}
        return facts | {"edits": own.edits, "batch_size": own.batch_size}, packed(p, end, kept)

    def decode(self, name: str, p: Population, tickets: Sequence[int], batch_size: int | None = None) -> Decoded:
        """Decode, and keep the samples for a while under these numbers; with none, return them."""
        made = self._decoded(name, p, batch_size)
        assert made.samples is not None
        if not tickets:
            return made
        small = [thumbnail(pictures(sample)) for sample in made.samples]
        self._samples |= zip(tickets, made.samples, strict=True)
        while sum(sample.nbytes for sample in self._samples.values()) > _HELD and len(self._samples) > len(tickets):
            self._samples.popitem(last=False)
        return made._replace(samples=None, thumbnails=small)

    def score(
        self,
        name: str,
        reward: tuple[str, int, float | None],
        p: Population,
        tickets: Sequence[int],
        prompts: list[str],
        batch_size: int | None = None,
    ) -> Tensor:
        """What a reward says of what particles are decoded to, once again where another worker did so."""
        if any(ticket not in self._samples for ticket in tickets):
            made = self._decoded(name, p, batch_size)
            assert made.samples is not None
            samples = made.samples
        else:
            samples = torch.stack([self._samples[ticket] for ticket in tickets])
        return self.judge(reward, samples, prompts)

    def judge(self, reward: tuple[str, int, float | None], samples: Tensor, prompts: list[str]) -> Tensor:
        """What a reward says of samples, uint8."""
        given = self._reward(*reward)(samples.float() / 255, prompts)
        return torch.as_tensor(given).detach().float().cpu()

    def ready(self, *asked: Any) -> None:
        """Load what a question will need, by the names in it."""
        for each in asked:
            if isinstance(each, str):
                self._sampler(each)
            elif isinstance(each, tuple) and each and each[0] in self._defined:
                self.prepare(cast(tuple[str, int, float | None], each))

    def prepare(self, reward: tuple[str, int, float | None]) -> None:
        """Have a reward load its weights."""
        rewards.prepare(self._reward(*reward))

    def identity(self, reward: tuple[str, int, float | None]) -> str | None:
        """See ``cache_key`` in `evosearch.rewards.cache`."""
        return getattr(self._reward(*reward), "cache_key", None)

    def call(self, name: str, method: str, *args: Any) -> Any:
        """Any other method of a sampler."""
        return getattr(self._sampler(name), method)(*args)

    def _decoded(self, name: str, p: Population, batch_size: int | None) -> Decoded:
        own = self._sampler(name, batch_size)
        made = told_apart(*exactly(own, p))
        self._beat()
        return made

    def _sampler(self, name: str, batch_size: int | None = None) -> Any:
        if name not in self._samplers:
            asked = cast(Spec, self._defined[name])
            if asked.of is None:
                made = cast(Any, sampler_of(self.pipe, **asked.arguments))
            else:
                made = self._sampler(asked.of).cached(asked.cache, asked.prices)
            made.beat = self._beat
            self._samplers[name] = made
            while len(self._samplers) > _OPEN:
                self._samplers.popitem(last=False)
        self._samplers.move_to_end(name)
        own = self._samplers[name]
        if batch_size is not None:
            own.batch_size = batch_size
        return own

    def _reward(self, name: str, leaf: int, rate: float | None) -> TensorReward:
        key = name, leaf, rate
        if key not in self._rewards:
            made = leaves(rewards.resolve(self._defined[name]))[leaf]
            self._rewards[key] = made if rate is None else rewards.at_frame_rate(made, rate)
        return self._rewards[key]


class Desk:
    """Where questions come in and answers go out; the worker behind it begins with the first.

    Args:
        setup: Of the worker, pickled.
        beat: See `Worker`.
    """

    def __init__(self, setup: bytes, beat: Callable[[], None]) -> None:
        self._setup, self._beat = setup, beat
        self._worker: Worker | None = None

    def __call__(self, question: bytes) -> bytes:
        """Have the worker do what it is asked, and say what came of it."""
        if self._worker is None:
            try:
                self._worker = Worker(cloudpickle.loads(self._setup), self._beat)
            except Exception as error:
                return _raised(error, str(error))
        definitions, method, args = pickle.loads(question)
        try:
            for name, value in definitions:
                self._worker.define(name, value)
            return pickle.dumps(("done", getattr(self._worker, method)(*args)))
        except Exception as error:
            told = "".join(traceback.format_exception(error))
            if isinstance(error, RuntimeError) and not exhausted(error) and any(text in str(error) for text in _BROKEN):
                return pickle.dumps(("broken", told))
            # What Python itself objects to is a defect, of which all is to be told.
            expected = not isinstance(error, ValueError | TypeError) or is_refusal(error)
            return _raised(error if expected else None, told)


def _raised(error: Exception | None, told: str) -> bytes:
    try:
        return pickle.dumps(("raised", error, told))
    except Exception:  # it cannot be sent
        return pickle.dumps(("raised", None, told))


def backends() -> dict[str, Any]:
    """The switches of torch that bits go by, as they are here."""
    return {
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        **{name: getattr(torch.backends.cudnn, name) for name in _CUDNN},
    }


def _switch(wanted: Mapping[str, Any]) -> None:
    torch.set_float32_matmul_precision(wanted["matmul"])
    torch.use_deterministic_algorithms(wanted["deterministic"], warn_only=wanted["warn_only"])
    for name in _CUDNN:
        setattr(torch.backends.cudnn, name, wanted[name])
