"""A vision-language model as the reward, behind any endpoint that speaks OpenAI's chat completions with images.

A judge can be fooled by its pictures, and a search finds out how: hold out another reward (``held_out=``), to see it.
Nothing that fails becomes a score: a sample without a certain answer is NaN, and counted as missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evosearch.checks import is_number, one_of, samples_and_prompts, share, whole_number
from evosearch.rewards.cache import identity
from evosearch.rewards.facts import Facts
from evosearch.rewards.judge_bill import Bill
from evosearch.rewards.judge_breaker import JudgeError, Stopped
from evosearch.rewards.judge_client import Client, Failure, Patience
from evosearch.rewards.judge_http import endpoint, private
from evosearch.rewards.judge_modes import QUESTION, RUBRIC, Rubric, YesNo, messages
from evosearch.rewards.judge_pictures import check_size, data_urls, read_picture, spread

__all__ = ["Judge", "JudgeError", "Patience", "Stats", "read_picture"]

_URL, _MODEL, _KEY, _OPENAI = "EVOSEARCH_JUDGE_URL", "EVOSEARCH_JUDGE_MODEL", "EVOSEARCH_JUDGE_KEY", "OPENAI_API_KEY"
FACTS = Facts(
    "0 to 10 by rubric, 0 to 1 by yes_no",
    "the model's own",
    "a prompt, and an endpoint of chat completions that takes images",
    variables=(_URL, _MODEL),
)
_OURS = {"model", "messages", "stream", "n"}  # fields of a request on which the reading of the answer rests


@dataclass(frozen=True)
class Stats:
    """What a judge has done so far.

    Attributes:
        scored: Samples with a score, those from the cache included.
        missing: Samples without.
        cached: Samples that needed no call, since the same one was judged before.
        calls: Requests sent.
        retried: Requests sent again.
        prompt_tokens: Tokens sent, where the endpoint reports them.
        completion_tokens: Tokens of the answers.
        usd: Money spent, as far as it is known.
        unpriced: Calls whose price is not known.
        failures: Requests that failed, by reason.
        reasons: Samples that are missing, by reason.
    """

    scored: int
    missing: int
    cached: int
    calls: int
    retried: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    unpriced: int
    failures: dict[str, int]
    reasons: dict[str, int]


class Judge:
    """Score by a vision-language model, asked over HTTP by a rubric or a question.

    Args:
        url: Base address of the API, such as ``https://api.openai.com/v1`` or ``http://localhost:8000/v1``; what
            EVOSEARCH_JUDGE_URL holds by default.
        model: Its model; what EVOSEARCH_JUDGE_MODEL holds by default.
        key: Name of the environment variable that holds the key. By default EVOSEARCH_JUDGE_KEY, or OPENAI_API_KEY
            where nobody on the way can read it, or none.
        mode: ``rubric``, a score within `scale`; ``yes_no``, P(yes) / (P(yes) + P(no)) in [0, 1], or 1 and 0 where the
            endpoint gives no log-probabilities.
        rubric: What to go by; the question in ``yes_no``.
        scale: Least and greatest score of a rubric.
        frames: Of a video, at most, evenly spread.
        picture: ``png`` or ``jpeg``, as which pictures are sent.
        schema: Hold the answer to a JSON schema; False for endpoints that know no ``response_format``.
        timeout: Seconds of one request, whole.
        deadline: Seconds of one sample with all its retries.
        retries: Of one sample.
        concurrency: Requests on their way at once, at most; fewer where the endpoint says that they are too many.
        usd_per_call: Price of a call, which also counts in a `Budget` in money.
        usd_per_million_tokens: Prices of a million tokens of prompt and of answer.
        usd_cap: Most that may be spent over this object's life.
        allow_missing: Share of samples that may go unscored in a search; with more it ends, its best kept.
        extra: Further fields of the request; None takes one out, as in ``{"max_tokens": None,
            "max_completion_tokens": 4000}``.
        patience: What is seldom changed; see `Patience`.

    Raises:
        ValueError: An argument is wrong, or neither given nor in the environment.
    """

    remote = True  # so that the model works while it is asked

    def __init__(
        self,
        url: str | None = None,
        model: str | None = None,
        *,
        key: str | None = None,
        mode: str = "rubric",
        rubric: str | None = None,
        scale: tuple[float, float] = (0.0, 10.0),
        frames: int = 4,
        picture: str = "png",
        schema: bool = True,
        timeout: float = 60.0,
        deadline: float = 120.0,
        retries: int = 4,
        concurrency: int = 8,
        usd_per_call: float | None = None,
        usd_per_million_tokens: tuple[float, float] | None = None,
        usd_cap: float | None = None,
        allow_missing: float = 0.01,
        extra: Mapping[str, Any] | None = None,
        patience: Patience | None = None,
    ) -> None:
        url, self.model = _given("url", url, _URL), _given("model", model, _MODEL)
        self._mode = _mode(mode, rubric, scale, schema)
        self.mode, self.frames = mode, whole_number("frames", frames, 1)
        self._picture = one_of("picture", picture, ("png", "jpeg"))
        self.allow_missing = share("allow_missing", allow_missing)
        self._extra = dict(extra or {})
        if taken := sorted(_OURS & self._extra.keys()):
            raise ValueError(f"extra must not have {', '.join(taken)}, which the judge sets itself")
        self._bill = Bill(usd_per_call, usd_per_million_tokens, usd_cap)
        self._client = Client(
            url, self._bill, key=_key_of(url) if key is None else key, timeout=timeout, deadline=deadline,
            retries=retries, concurrency=concurrency, patience=patience,
        )  # fmt: skip
        self.usd_per_call = usd_per_call or 0.0
        self.__name__ = f"judge {self.model}"
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._scores: dict[tuple[Any, ...], float] = {}
        self._scored = self._missing = self._cached = 0
        self._reasons = Counter[str]()

    def __repr__(self) -> str:
        return f"Judge({self._client.url!r}, {self.model!r}, mode={self.mode!r})"

    def __call__(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """Score each sample against its prompt.

        Args:
            samples: (N, 3, H, W) or (N, F, 3, H, W) floats in [0, 1], rounded to 8 bits; 50 megapixels a picture at
                most.
            prompts: N of them.

        Returns:
            (N,) float32; NaN for a sample that is not finite or could not be judged.

        Raises:
            ValueError: `samples` is not of that shape, or has another number of prompts.
            JudgeError: No sample can be judged: the key is wrong, the endpoint is down, the money is spent. What was
                scored is kept, so that another try does not pay for it again.
        """
        samples_and_prompts(samples, prompts)
        check_size(samples.shape[-2], samples.shape[-1], "samples")
        keys: list[tuple[Any, ...] | None] = []
        jobs: dict[tuple[Any, ...], tuple[Tensor, str]] = {}
        known = 0
        for sample, prompt in zip(samples.detach(), prompts, strict=True):
            if not sample.isfinite().all():
                keys.append(None)
                continue
            frames = self._eight_bit(sample)
            key = self._key(frames, prompt)
            keys.append(key)
            if key in self._scores or key in jobs:
                known += 1
            else:
                jobs[key] = frames, prompt
        self._judge(jobs)
        values = [float("nan") if key is None else self._scores.get(key, float("nan")) for key in keys]
        missing = sum(value != value for value in values)
        with self._lock:
            self._missing += missing
            self._scored += len(values) - missing
            self._cached += known
            self._reasons["not finite"] += keys.count(None)
        return torch.tensor(values, dtype=torch.float32, device=samples.device)

    def known(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """Scores that it has of such samples already, (N,) float32, NaN for the others; asks for nothing."""
        keys = [
            self._key(self._eight_bit(sample), prompt) if sample.isfinite().all() else None
            for sample, prompt in zip(samples.detach(), prompts, strict=True)
        ]
        return torch.tensor([self._scores.get(key, float("nan")) if key else float("nan") for key in keys])

    def cancel(self) -> None:
        """End the call that another thread waits for: samples that have no answer yet come out as missing."""
        self._stop.set()

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`. All that is sent but pictures and prompt, so not where to.

        Answers are paid for, so that they outlive versions of this package.
        """
        sent = json.loads(self.request(torch.zeros(0, 3, 1, 1, dtype=torch.uint8), ""))
        return identity("judge", version=1, sent=sent, picture=self._picture, frames=self.frames)

    @property
    def missing(self) -> int:
        """Samples that could not be judged so far."""
        return self._missing

    @property
    def usd_spent(self) -> float | None:
        """Money spent so far, for a budget in money; None where there is no price."""
        return self._bill.usd if self._bill.priced else None

    @property
    def stats(self) -> Stats:
        """What it has done so far."""
        bill = self._bill
        return Stats(
            scored=self._scored,
            missing=self._missing,
            cached=self._cached,
            calls=bill.calls,
            retried=self._client.retried,
            prompt_tokens=bill.prompt_tokens,
            completion_tokens=bill.completion_tokens,
            usd=bill.usd,
            unpriced=bill.unpriced,
            failures=dict(self._client.failures),
            reasons=dict(+self._reasons),
        )

    def request(self, frames: Tensor, prompt: str) -> bytes:
        """What is sent for frames (F, 3, H, W) uint8: JSON in ASCII."""
        body = {
            "model": self.model,
            "messages": messages(self._mode, prompt, data_urls(frames, self._picture)),
            "temperature": 0,
            **self._mode.settings,
            **self._extra,
        }
        return json.dumps({name: value for name, value in body.items() if value is not None}).encode("ascii")

    def _judge(self, jobs: Mapping[tuple[Any, ...], tuple[Tensor, str]]) -> None:
        """Fill the cache, many at once."""
        if not jobs:
            return
        stop = self._stop = threading.Event()

        def one(key: tuple[Any, ...], frames: Tensor, prompt: str) -> None:
            try:
                if not stop.is_set():
                    self._scores[key] = self._client.ask(self.request(frames, prompt), self._mode.read, stop)
            except Failure as failure:
                with self._lock:
                    self._reasons[str(failure)] += 1
            except Stopped:
                pass
            except BaseException:
                stop.set()  # before this thread takes the next one
                raise

        with ThreadPoolExecutor(min(len(jobs), self._client.concurrency), "judge") as pool:
            try:
                for done in as_completed([pool.submit(one, key, frames, text) for key, (frames, text) in jobs.items()]):
                    done.result()
            finally:
                stop.set()  # after an error or a key press, the others end at their next step

    def _key(self, frames: Tensor, prompt: str) -> tuple[Any, ...]:
        return _hash(frames), prompt, self.model, self._mode

    def _eight_bit(self, sample: Tensor) -> Tensor:
        """The frames that are sent of a finite sample ([F,] 3, H, W): (F, 3, H, W) uint8 on the CPU."""
        frames = sample[None] if sample.ndim == 3 else sample[spread(len(sample), self.frames)]
        return frames.float().clamp(0, 1).mul(255).round().byte().cpu()


def _given(name: str, value: Any, variable: str) -> str:
    """An argument or what the environment holds for it."""
    if value is None:
        value = os.environ.get(variable, "").strip()
        if not value:
            raise ValueError(f"{name} must be given to a judge, or stand in the environment as {variable}")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be text, got {value!r}")
    return value


def _key_of(url: str) -> str | None:
    """Which variable holds the key. That of OpenAI goes to no address where it could be read on the way."""
    if os.environ.get(_KEY, "").strip():
        return _KEY
    return _OPENAI if os.environ.get(_OPENAI, "").strip() and private(endpoint(url)) else None


def _mode(mode: str, rubric: Any, scale: Any, schema: bool) -> Rubric | YesNo:
    one_of("mode", mode, ("rubric", "yes_no"))
    text = {"rubric": RUBRIC, "yes_no": QUESTION}[mode] if rubric is None else rubric
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"rubric must be text, got {rubric!r}")
    if mode == "yes_no":
        return YesNo(text)
    if not isinstance(scale, Sequence) or len(scale) != 2 or not all(map(is_number, scale)) or scale[0] >= scale[1]:
        raise ValueError(f"scale must be two numbers, the least score and the greatest, got {scale!r}")
    return Rubric(text, float(scale[0]), float(scale[1]), schema)


def _hash(frames: Tensor) -> bytes:
    return hashlib.sha256(repr(tuple(frames.shape)).encode() + frames.numpy().tobytes()).digest()
