"""Held-out rewards: they judge what a search keeps, at its end, and never steer it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch

from evosearch.budget import Meter
from evosearch.journal import Answer, Journal
from evosearch.judging import judged, spent
from evosearch.negatives import Negative
from evosearch.rewards import TensorReward, allowed_missing
from evosearch.rewards.cache import ScoreCache


@dataclass
class HeldOut:
    """What held-out rewards say of samples.

    They are asked beside the budget, but for its money; what they take is counted.

    Args:
        judges: By name.
        prompt: The prompt.
        meter: What to charge.
        cache: Scores that are known.
        batch_size: Samples in one call.

    Attributes:
        journal: What they said before.
        verdicts: Scores by name and id, NaN where one has nothing to say.
        faults: Why that is so, a sentence each.
    """

    judges: Mapping[str, TensorReward]
    prompt: str
    meter: Meter
    cache: ScoreCache
    batch_size: int
    journal: Journal = field(default_factory=Journal)
    verdicts: dict[str, dict[int, float]] = field(default_factory=dict[str, dict[int, float]])
    faults: list[str] = field(default_factory=list[str])

    def attempt(self, negative: Negative) -> None:
        """Ask all of them about one sample, so that one that cannot judge is told of before hours are spent.

        Raises:
            Exception: What a reward raises.
        """
        for name, judge in self.judges.items():
            self._ask(name, judge, [negative])

    def judge(self, negatives: Iterable[Negative]) -> None:
        """Ask about samples, the most important first; what a reward raises by now is a fault, not an end."""
        by_id = {negative.id: negative for negative in negatives}
        for name, judge in self.judges.items():
            known = self.verdicts.setdefault(name, {})
            new = [negative for id, negative in by_id.items() if id not in known]
            known |= {negative.id: float("nan") for negative in new}
            try:
                for start in range(0, len(new), self.batch_size):
                    if not self._ask(name, judge, new[start : start + self.batch_size]):
                        self.faults.append(
                            f"held-out {name} was not asked about all, since the budget's money is spent"
                        )
                        break
            except Exception as error:
                self.faults.append(f"held-out {name} failed: {error}")
                continue
            missing = sum(not isfinite(value) for value in known.values())
            if missing > allowed_missing(judge) * len(known):
                self.faults.append(f"held-out {name} gave nothing finite for {missing:,} of {len(known):,} samples")

    def _ask(self, name: str, judge: TensorReward, some: Sequence[Negative]) -> bool:
        """Whether there was money for it."""
        samples = torch.stack([negative.sample for negative in some]).float() / 255
        prompts = [self.prompt] * len(some)
        call = self.journal.call("held out", f"{name} {' '.join(f'{negative.id:x}' for negative in some)}")
        if call.told is None:
            new = self.cache.unknown(judge, samples, prompts)
            if not self.meter.pays(new.usd):
                return False
            before, start = spent(judge), time.perf_counter()
            values = judged(judge, samples, prompts, name=name)[0].tolist()
            took = time.perf_counter() - start, max(new.usd, spent(judge) - before)
            facts: dict[str, Any] = {"values": values, "calls": new.samples, "took": took}
            self.journal.keep(call, Answer(self.meter.seconds, facts, {}))
        else:
            facts = call.told.facts
        seconds, usd = facts["took"]
        self.meter.held_out_calls += facts["calls"]
        self.meter.reward_seconds += seconds
        self.meter.reward_usd += usd
        self.verdicts.setdefault(name, {}).update(zip([n.id for n in some], facts["values"], strict=True))
        return True
