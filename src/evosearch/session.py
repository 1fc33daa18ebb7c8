"""One prompt's search: set up, run to its end, its budget or its interruption, and turned into a Result."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import diffusers
import torch
from torch import Tensor, nn

from evosearch import hacking, models
from evosearch.budget import Budget, BudgetExhausted, Meter, Pace, describe
from evosearch.declaration import Search, nfe_of, rewards_of, takes
from evosearch.drafts import levels_of
from evosearch.features import plain
from evosearch.genome import replay
from evosearch.hacking import Stage, Watch
from evosearch.media import frame_rate
from evosearch.metered import MeteredReward, MeteredSampler, judged
from evosearch.noise import seed_of
from evosearch.progress import Bar
from evosearch.resolve import budget_of, defaults_of, knobs_of
from evosearch.result import Gallery, Generation, Result, Scored
from evosearch.rewards import TensorReward, allowed_missing, at_frame_rate, fresh
from evosearch.rewards.cache import ScoreCache
from evosearch.sampler import BaseSampler
from evosearch.scoring import score
from evosearch.searches.schedules import drafts_and_finals
from evosearch.selection import leading, top
from evosearch.store import RunFolder
from evosearch.types import Genome, Population, Sampler, concat, pictures

_HOPELESS = 64  # samples without one finite reward, after which there will be none
_TELLING = 200  # samples at the least, before the share of missing rewards ends a search on its way


class InvalidReward(ValueError):
    """The reward gave nothing finite for any particle, or for fewer than it promises (``allow_missing``)."""


class Session:
    """A search of one prompt, its knobs fitted to its budget.

    Args:
        sampler: The model with its prompt.
        algorithm: The search.
        reward: ``(samples, prompts) -> (N,)``, or (N, R) of several unweighted. What it has seen before is forgotten.
        prompt: The prompt.
        budget: As the user gave it.
        knobs: As the user gave them.
        seed: Run seed.
        genomes: Particles of an earlier run whose initial noises come first.
        cache: Scores that are known.
        thumbnail: Side of the thumbnails to keep, in pixels; none at 0.
    """

    def __init__(
        self,
        sampler: Sampler,
        algorithm: Search,
        reward: TensorReward,
        prompt: str,
        budget: Budget | int | str | None,
        knobs: Mapping[str, Any],
        *,
        seed: int,
        genomes: Sequence[Genome] = (),
        cache: ScoreCache | None = None,
        thumbnail: int = 0,
    ) -> None:
        self.own, self.algorithm, self.prompt, self.seed = sampler, algorithm, prompt, seed
        self.generations: list[Generation] = []
        self._known = set[int]()  # a search may yield at the end again what it has found
        self._shown: Population | None = None  # the last one on its way
        self._bar: Bar | None = None
        limits = budget_of(budget, algorithm, knobs, sampler.steps)
        price = float(getattr(reward, "usd_per_call", 0.0))
        self._rate = _frame_rate(sampler)
        self._reward_of = reward = at_frame_rate(fresh(reward), self._rate)
        self.meter, self.gallery = Meter(limits, price), Gallery(thumbnails=thumbnail)
        # Relatives may share their initial noise.
        noises = {int(p.id): p for p in (replay(genome, sampler, until=0) for genome in genomes)}
        self.sampler = MeteredSampler(sampler, self.meter, concat(*noises.values()) if noises else None, self._tick)
        self._cache = ScoreCache() if cache is None else cache
        self.reward = MeteredReward(
            reward, prompt, self.meter, self.sampler, self.gallery, self._cache, getattr(sampler, "device", None)
        )
        knobs = self._with_prices(knobs)
        if getattr(reward, "apart", False) and "steered" in takes(algorithm):
            knobs = {"steered": 0, **knobs}  # a front has no one way to go
        self.knobs = knobs_of(algorithm, knobs, limits, sampler.steps, self.pace, price)
        self.waves = algorithm.waves(sampler.steps, **self.knobs) if hasattr(algorithm, "waves") else None
        self.total = limits.nfe if self.waves is None else nfe_of(self.waves)
        self.eta = (defaults_of(algorithm) | self.knobs).get("eta")
        self.settings = _settings(self, budget, knobs)

    def pace(self) -> Pace:
        """How fast it goes here, measured on particles of its own; no budget is charged."""
        size = self.own.batch_size
        keys = torch.tensor([seed_of(self.seed, "pace", k) for k in range(size)])
        p = Population(self.own.start(self.own.noise(keys, 0, "prior")), 0, keys)
        self.own.predict(p)  # the first pass is slower than the rest
        start = time.perf_counter()
        predicted = self.own.predict(p)
        denoised = time.perf_counter()
        samples = self.own.decode(predicted)
        judged(self._reward_of, samples, [self.prompt] * size, learn=False)
        return Pace(size, denoised - start, time.perf_counter() - denoised, samples[0].nbytes)

    def _with_prices(self, knobs: Mapping[str, Any]) -> Mapping[str, Any]:
        """With what a step of a cached draft computes here, measured where drafts have a cache; not charged either."""
        cache = knobs.get("draft_cache")
        if cache is None or "draft_prices" in knobs or "draft_prices" not in takes(self.algorithm):
            return knobs
        drafts, _ = drafts_and_finals(self.own.steps, self.own.steps, knobs)
        if drafts is None:  # what is wrong with that is said where knobs are checked
            return knobs
        levels = levels_of(self.own.steps, drafts)
        return {**knobs, "draft_steps": drafts, "draft_prices": self.own.cached(cache).prices(levels)}

    def run(
        self,
        judges: Mapping[str, TensorReward],
        folder: RunFolder | None = None,
        *,
        stop_at: float | None = None,
        progress: bool = False,
    ) -> Result:
        """Search, and write the run folder.

        Args:
            judges: Held-out rewards by name; they see what is kept and what was the best on the way, at the end.
            folder: Where to write; nowhere if None.
            stop_at: End as soon as this reward is reached.
            progress: Show a progress bar.

        Raises:
            InvalidReward: No particle got a finite reward, or more have none than the reward allows.
        """
        status, verdicts, stock = "failed", dict[str, dict[int, float]](), None
        self.reward.watch = Watch(self.own.steps) if judges else None
        judges = {name: fresh(judge) for name, judge in judges.items()}
        try:
            with self._cache.used():
                self._search(folder, stop_at, progress)
                self._draw_plain()
                verdicts = self._judged(judges)
                stock = self._stock(folder) if folder is not None else None
            status = "done"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except InvalidReward:
            status = "invalid"
            raise
        except (ValueError, TypeError):
            status = "failed" if self.gallery.best else "refused"
            raise
        finally:
            self.close()
            result = self._result(verdicts, stock) if self.gallery.best else None
            if folder is not None:
                if status == "refused":
                    folder.discard()
                else:
                    folder.finish(result, status)
        assert result is not None
        return result

    def close(self) -> None:
        """Let an offloaded pipeline free its models."""
        getattr(self.own, "close", lambda: None)()

    def _search(self, folder: RunFolder | None, stop_at: float | None, progress: bool) -> None:
        rng = torch.Generator().manual_seed(self.seed)
        bar = Bar(self.prompt, self.total, progress)
        with bar as self._bar, suppress(BudgetExhausted), self.reward.working():
            for p in self.algorithm(self.sampler, self.reward, rng, **self.knobs):
                self._record(p, folder)
                best = self.gallery.best
                if self.reward.invalid == self.meter.cost.scored >= _HOPELESS:
                    break
                if self._missed(max(self.meter.cost.scored, rewards_of(self.waves or ()), _TELLING)):
                    break
                if stop_at is not None and best is not None and best.reward >= stop_at:
                    break
        if self.gallery.best is None:
            if self.reward.invalid or not self.meter.budget.time:
                raise self._nothing()
            self._finish()  # the clock ended the search before its first sample
        if self._missed(self.meter.cost.scored):
            raise InvalidReward(
                f"the reward gave nothing finite for {self.reward.invalid} of {self.meter.cost.scored} samples of "
                f"{self.prompt!r}, and allow_missing={allowed_missing(self._reward_of):g} is its limit; look into what "
                "fails, or allow more"
            )

    def _missed(self, samples: int) -> bool:
        """Whether more rewards are missing than may be of so many; a single one may always be."""
        return self.reward.invalid > max(1, allowed_missing(self._reward_of) * samples)

    def _record(self, p: Population, folder: RunFolder | None) -> None:
        if p.i < self.own.steps:
            self._shown = p
        if p.i != self.own.steps or p.reward is None or self._known.issuperset(p.id.tolist()):
            return
        self._known.update(p.id.tolist())
        cost, rewards = self.meter.cost, leading(p.reward).tolist()
        generation = Generation(p.id.tolist(), p.parent.tolist(), rewards, cost.nfe, cost.seconds)
        self.generations.append(generation)
        if folder is not None:
            best = self.gallery.best
            folder.log("generation", nfe=cost.nfe, seconds=cost.seconds, particles=len(p), best=best and best.reward)

    def _tick(self) -> None:
        if self._bar is not None:
            best = self.gallery.best
            self._bar.update(self.meter.nfe, None if best is None else best.reward)

    def _nothing(self) -> Exception:
        if self.reward.invalid:
            return InvalidReward(
                f"the reward gave nothing finite for any of {self.meter.cost.scored} samples of {self.prompt!r}; "
                "check it on a single sample"
            )
        return ValueError(f"budget of {describe(self.meter.budget)} ended before one sample was finished; give more")

    def _judged(self, judges: Mapping[str, TensorReward]) -> dict[str, dict[int, float]]:
        """Held-out rewards of what is kept and of what was the best on the way, by name and id."""
        if self.reward.watch is None:
            return {}
        seen = {seen.id: seen.sample for _, best in self.reward.watch.stages for seen in best}
        seen |= {scored.id: sample for scored, sample in self.gallery.kept}
        judges = {name: at_frame_rate(judge, self._rate) for name, judge in judges.items()}
        ids, verdicts = list(seen), {name: dict[int, float]() for name in judges}
        for start in range(0, len(ids), self.own.batch_size):
            some = ids[start : start + self.own.batch_size]
            samples = torch.stack([seen[id] for id in some]).float() / 255
            for name, judge in judges.items():
                values, _ = judged(judge, samples, [self.prompt] * len(some), name=name)
                verdicts[name] |= zip(some, values.tolist(), strict=True)
        return verdicts

    def _draw_plain(self) -> None:
        """The plain sample of this seed, unless the search began with it; costs one sample beyond the budget."""
        if not isinstance(self.own, BaseSampler):
            return
        fresh = self.own.rewound().prior(1)
        if self.gallery.first is None or self.gallery.first.genome != fresh.genomes[0]:
            finished, _ = self.own.run(fresh, self.own.steps, eta=self.eta)
            self.gallery.first = self._scored(self.own.decode(finished), int(finished.id), finished.genomes[0])

    def _finish(self) -> None:
        """Finish the best particle shown so far, or else the plain one: beside the budget, but counted."""
        self.meter.lift()
        if self._shown is not None:
            best = self._shown[:1] if self._shown.reward is None else self._shown[top(self._shown.reward, 1)]
            p = best.given(best.x, torch.Generator().manual_seed(self.seed))  # a search may note its ways at the end
        else:
            p = (self.own.rewound() if isinstance(self.own, BaseSampler) else self.own).prior(1)
        finished, _ = self.sampler.run(p, self.own.steps, eta=self.eta)
        score(finished, self.sampler, self.reward)
        if self.gallery.best is None:
            raise self._nothing()

    def _stock(self, folder: RunFolder) -> Scored | None:
        """The plain sample as the pipeline's own solver draws it; costs one sample beyond the budget."""
        plain = self.gallery.first
        if plain is None or not getattr(self.own, "own_solver", None):
            return None
        try:
            sample = cast(Any, self.own).stock(replay(plain.genome, self.own, until=0))
        except Exception as error:  # a row to compare with is not worth the search that is done
            folder.log("no stock sample", reason=str(error))
            return None
        return None if sample is None else self._scored(sample, plain.id, plain.genome)

    def _scored(self, sample: Tensor, id: int, genome: Genome) -> Scored:
        eight_bit = (sample * 255).round().to(torch.uint8)
        reward, parts = judged(self._reward_of, eight_bit.float() / 255, [self.prompt], learn=False)
        return Scored(pictures(eight_bit[0]), float(leading(reward)), id, genome, parts=parts[0] if parts else {})

    def _result(self, verdicts: Mapping[str, Mapping[int, float]], stock: Scored | None) -> Result:
        kept, plain = [entry for entry, _ in self.gallery.kept], self.gallery.first
        assert plain is not None
        stages = list[Stage]()
        if verdicts and self.reward.watch is not None:
            kept = [replace(e, held_out={name: values[e.id] for name, values in verdicts.items()}) for e in kept]
            stages = hacking.judged(self.reward.watch.stages, verdicts)
        return Result(
            kept=kept,
            plain=plain,
            generations=self.generations,
            curve=self.gallery.curve,
            cost=self.meter.cost,
            invalid=self.reward.invalid,
            settings=self.settings,
            stock=stock,
            thumbnails=self.gallery.thumbnails,
            glimpses=self.gallery.glimpses,
            front=kept[: self.gallery.front],
            stages=stages,
            alarms=hacking.alarms(stages),
        )


def _settings(session: Session, budget: Any, given: Collection[str]) -> dict[str, Any]:
    """All that the run depends on, as plain data."""
    from evosearch import __version__

    own, plan = cast(Any, session.own), getattr(session.algorithm, "plan", None)
    pipe = getattr(own, "pipe", None)
    settings: dict[str, Any] = {
        "prompt": session.prompt,
        "algorithm": session.algorithm.__name__,
        "knobs": {name: plain(value) for name, value in (defaults_of(session.algorithm) | session.knobs).items()},
        "budget": describe(session.meter.budget),
        "asked": None if budget is None else str(budget),
        "steps": own.steps,
        "eta": own.eta if session.eta is None and hasattr(own, "eta") else session.eta,
        "seed": session.seed,
        "batch_size": own.batch_size,
        "nfe": session.total,
        "plan": None if plan is None else plan(own.steps, given, **session.knobs),
        "sampler": type(own).__name__,
        "order": own.path.order,
    }
    if pipe is not None:
        settings |= {
            "model": models.name_of(pipe),
            "pipeline": type(pipe).__name__,
            "scheduler": type(pipe.scheduler).__name__,
            "scheduler_config": {k: _plain(v) for k, v in pipe.scheduler.config.items() if not k.startswith("_")},
            "dtype": _precisions(pipe),
            "frame_rate": models.frame_rate(pipe),
            "pipeline_kwargs": {name: _plain(value) for name, value in own.kwargs.items()},
        }
    versions = {"evosearch": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
    return settings | {
        "versions": versions | {"python": platform.python_version()},
        "threads": torch.get_num_threads(),
    }


def _frame_rate(sampler: Any) -> float:
    """At which a sampler's videos are saved, and judged, per second."""
    pipe = getattr(sampler, "pipe", None)
    own = None if pipe is None else models.frame_rate(pipe)
    return frame_rate({"pipeline_kwargs": getattr(sampler, "kwargs", {}), "frame_rate": own})


def _precisions(pipe: Any) -> dict[str, str]:
    """The type that most of the numbers of each part of a pipeline have: its precision, or that of its quantisation."""
    found: dict[str, str] = {}
    for name, part in pipe.components.items():
        sizes = Counter[str]()
        for weight in part.parameters() if isinstance(part, nn.Module) else ():
            sizes[str(weight.dtype).removeprefix("torch.")] += weight.numel()
        if sizes:
            found[name] = sizes.most_common(1)[0][0]
    return found


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in cast(list[Any], value)]
    return type(value).__name__
