"""What the calls of a judge cost, and the cap that they keep to."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, cast

from evosearch.checks import above_zero, at_least_zero
from evosearch.rewards.judge_breaker import JudgeError


class Bill:
    """Counts calls, tokens and money.

    Args:
        usd_per_call: Price of a call; None where it goes by tokens alone.
        usd_per_million_tokens: Prices of a million tokens of prompt and of answer. Goes before the price of a call
            wherever the endpoint reports its tokens.
        usd_cap: Most that may be spent. Kept by the dearest call so far, for those on their way: before the first price
            is known, they may go beyond it.

    Raises:
        ValueError: A price is wrong, or there is a cap without one.
    """

    def __init__(
        self, usd_per_call: float | None, usd_per_million_tokens: tuple[float, float] | None, usd_cap: float | None
    ) -> None:
        if usd_per_call is not None:
            at_least_zero("usd_per_call", usd_per_call)
        if usd_per_million_tokens is not None:
            if not isinstance(usd_per_million_tokens, tuple | list) or len(usd_per_million_tokens) != 2:
                raise ValueError(
                    "usd_per_million_tokens must be two prices, of the prompt's tokens and of the answer's, "
                    f"got {usd_per_million_tokens!r}"
                )
            for price in usd_per_million_tokens:
                at_least_zero("usd_per_million_tokens", price)
        if usd_cap is not None:
            above_zero("usd_cap", usd_cap)
            if usd_per_call is None and usd_per_million_tokens is None:
                raise ValueError("usd_cap needs a price: give usd_per_call or usd_per_million_tokens, too")
        self._per_call, self._per_token, self._cap = usd_per_call, usd_per_million_tokens, usd_cap
        self.priced = usd_per_call is not None or usd_per_million_tokens is not None
        self._changed = threading.Condition()
        self._dearest = usd_per_call or 0.0
        self._open = 0
        self.calls = self.unpriced = self.prompt_tokens = self.completion_tokens = 0
        self.usd = 0.0

    def open(self) -> None:
        """Before a call; waits for those on their way where they may leave money for it.

        Raises:
            JudgeError: It could cost more than is left.
        """
        with self._changed:
            while self._cap is not None and self.usd + self._dearest * (self._open + 1) > self._cap * (1 + 1e-9):
                if self._open:
                    self._changed.wait()
                    continue
                raise JudgeError(
                    f"usd_cap of {self._cap:g} $ is reached: {self.calls:,} calls of the judge cost {self.usd:.6g} $; "
                    "what was scored is kept, raise usd_cap to go on"
                )
            self._open += 1
            self.calls += 1

    def close(self, answer: Any = None, free: bool = False) -> None:
        """After a call.

        Args:
            answer: As it was decoded; None where there was none, which may have been worked on all the same.
            free: Refused, and so not charged.

        Raises:
            JudgeError: Its price cannot be told, and there is a cap.
        """
        with self._changed:
            self._open -= 1
            self._changed.notify_all()
            if free:
                return
            tokens = _tokens(answer)
            if tokens is not None:
                self.prompt_tokens += tokens[0]
                self.completion_tokens += tokens[1]
            if tokens is not None and self._per_token is not None:
                price = (tokens[0] * self._per_token[0] + tokens[1] * self._per_token[1]) / 1e6
            elif self._per_call is not None:
                price = self._per_call
            else:
                self.unpriced += self._per_token is not None
                if answer is not None and self._cap is not None:
                    raise JudgeError(
                        "usd_cap cannot be kept by usd_per_million_tokens, since the endpoint does not report its "
                        "tokens; give usd_per_call, too"
                    )
                return
            self.usd += price
            self._dearest = max(self._dearest, price)


def _tokens(answer: Any) -> tuple[int, int] | None:
    """Tokens of the prompt and of the answer, where it reports them."""
    usage = cast(Mapping[str, Any], answer).get("usage") if isinstance(answer, Mapping) else None
    if not isinstance(usage, Mapping):
        return None
    counts = [cast(Mapping[str, Any], usage).get(name) for name in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 10**9 for n in counts):
        return None
    return cast(tuple[int, int], tuple(counts))
