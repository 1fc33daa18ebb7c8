"""One prompt's search: set up, run to its end, its budget or its interruption, and turned into a Result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from evosearch import hacking
from evosearch.budget import Budget, BudgetExhausted, Meter, Pace, describe
from evosearch.declaration import Search, nfe_of, rewards_of, takes
from evosearch.decoding import eight_bit
from evosearch.drafts import levels_of
from evosearch.executors.remote import stays
from evosearch.genome import replay
from evosearch.hacking import Stage, Watch
from evosearch.held_out import HeldOut
from evosearch.interrupts import Stop, stopping
from evosearch.judging import is_priced, judged
from evosearch.metered import MeteredSampler
from evosearch.metered_reward import MeteredReward
from evosearch.negatives import Negative, Undeveloped, develop
from evosearch.noise import seed_of
from evosearch.progress import Bar, Bars
from evosearch.resolve import budget_of, defaults_of, knobs_of
from evosearch.result import Gallery, Generation, Result, Scored
from evosearch.rewards import TensorReward, allowed_missing, at_frame_rate, fresh
from evosearch.rewards.cache import ScoreCache
from evosearch.scoring import score
from evosearch.searches.schedules import drafts_and_finals
from evosearch.selection import leading, top
from evosearch.settings import rate_of, settings_of
from evosearch.stepper import Stepper
from evosearch.store import RunFolder
from evosearch.types import Genome, Population, Sampler, concat, pictures

_HOPELESS = 64  # samples without one finite reward, after which there will be none
_TELLING = 200  # samples at the least, before the share of missing rewards ends a search on its way


class InvalidReward(ValueError):
    """The reward gave nothing finite for any particle, or for fewer than it promises (``allow_missing``).

    Attributes:
        result: What was found all the same; None where nothing was.
    """

    result: Result | None = None


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
        thumbnails: Whether to keep small pictures of all that is scored.
        fitted: What `fitted` was when this run began, where it goes on; measured and reckoned by default.

    Attributes:
        fitted: What follows from the budget, and on some from how fast it went here: ``knobs``, and which were
            ``given``.
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
        thumbnails: bool = False,
        fitted: Mapping[str, Any] | None = None,
    ) -> None:
        self.own, self.algorithm, self.prompt, self.seed = sampler, algorithm, prompt, seed
        self.generations: list[Generation] = []
        self.plain: Scored | None = None
        self._known = set[int]()  # a search may yield at the end again what it has found
        self._shown: Population | None = None  # the last one on its way
        self._bar: Bar | None = None
        self._stop = Stop()
        limits = budget_of(budget, algorithm, knobs, sampler.steps)
        price = float(getattr(reward, "usd_per_call", 0.0))
        self._rate = rate_of(sampler)
        self._reward_of = reward = at_frame_rate(fresh(reward), self._rate)
        self.meter, self.gallery = Meter(limits, price, priced=is_priced(reward)), Gallery()
        # Relatives may share their initial noise.
        noises = {int(p.id): p for p in (replay(genome, sampler, until=0) for genome in genomes)}
        self.sampler = MeteredSampler(sampler, self.meter, concat(*noises.values()) if noises else None, self._tick)
        self._cache = ScoreCache() if cache is None else cache
        self.reward = MeteredReward(
            reward, prompt, self.meter, self.sampler, self.gallery, self._cache, getattr(sampler, "device", None),
            thumbnails,
        )  # fmt: skip
        if fitted is None:
            fitted = self._fitted(knobs, limits, price)
        self.fitted, self.knobs = fitted, {**knobs, **fitted["knobs"]}
        self.waves = algorithm.waves(sampler.steps, **self.knobs) if hasattr(algorithm, "waves") else None
        self.total = limits.nfe if self.waves is None else nfe_of(self.waves)
        self.eta = (defaults_of(algorithm) | self.knobs).get("eta")
        self.settings = settings_of(self, budget, fitted["given"])

    def pace(self) -> Pace:
        """How fast it goes here, measured on particles of its own; no budget is charged."""
        size = self.own.batch_size
        keys = torch.tensor([seed_of(self.seed, "pace", k) for k in range(size)])
        p = Population(self.own.start(self.own.noise(keys, 0, "prior")), 0, keys)
        self.own.predict(p)  # the first pass is slower than the rest
        workers = int(getattr(self.own, "workers", 0))
        tries = 1 if stays(self._reward_of) else 1 + workers  # so it is with each worker
        step, score, nbytes = map(min, zip(*(self._timed(p) for _ in range(tries)), strict=True))
        return Pace(size, step, score, int(nbytes), max(1, workers))

    def _timed(self, p: Population) -> tuple[float, float, float]:
        """Seconds of a step and of decoding and scoring, and bytes of a sample."""
        start = time.perf_counter()
        predicted = self.own.predict(p)
        denoised = time.perf_counter()
        samples = self.own.decode(predicted)
        judged(self._reward_of, samples, [self.prompt] * len(p), learn=False)
        return denoised - start, time.perf_counter() - denoised, samples[0].nbytes

    def _fitted(self, given: Mapping[str, Any], limits: Budget, price: float) -> dict[str, Any]:
        knobs = self._with_prices(given)
        if getattr(self._reward_of, "apart", False) and "steered" in takes(self.algorithm):
            knobs = {"steered": 0, **knobs}  # a front has no one way to go
        found = knobs_of(self.algorithm, knobs, limits, self.own.steps, self.pace, price)
        return {"knobs": {name: value for name, value in found.items() if name not in given}, "given": list(knobs)}

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
        bars: Bars | None = None,
        stop: Stop | None = None,
    ) -> Result:
        """Search, and write the run folder; a folder that holds a part of this run goes on from there.

        Args:
            judges: Held-out rewards by name; they see what is kept and what was the best on the way, at the end.
            folder: Where to write; nowhere if None.
            stop_at: End as soon as this reward is reached.
            bars: Where to show how far it is.
            stop: Says when to end before the end; signals by default.

        Raises:
            InvalidReward: No particle got a finite reward, or more have none than the reward allows.
        """
        status, stock, failure, result, deaf = "failed", None, None, None, lambda: None
        self.reward.watch = Watch(self.own.steps) if judges else None
        own = {name: at_frame_rate(fresh(judge), self._rate) for name, judge in judges.items()}
        self.held_out = HeldOut(own, self.prompt, self.meter, self._cache, self.own.batch_size)
        if folder is not None:
            self.sampler.journal = self.held_out.journal = folder.journal
            if hasattr(self.own, "listen"):
                deaf = cast(Any, self.own).listen(folder.journal.event)
        # What says nothing of itself may look at samples.
        needs = "samples" in getattr(self.algorithm, "needs", ("samples",))
        self.sampler.shows = needs or (hasattr(self.own, "decoding") and stays(self._reward_of))
        try:
            with self._cache.used():
                with nullcontext(stop) if stop is not None else stopping() as self._stop:
                    self._search(folder, stop_at, bars or Bars(shown=False))
                self._develop()
                self._draw_plain()
                self.held_out.judge(self._judgeable())
                stock = self._stock(folder) if folder is not None else None
            status = "done"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except InvalidReward as error:
            status, failure = "invalid", error
            raise
        except Undeveloped:
            status = "failed"
            raise
        except (ValueError, TypeError):
            status = "failed" if self.gallery.best else "refused"
            raise
        finally:
            with suppress(Undeveloped):  # of which there is no result to show
                result = self._found(stock) if self.gallery.best else None
            self.close()
            deaf()
            if failure is not None:
                failure.result = result
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

    def _search(self, folder: RunFolder | None, stop_at: float | None, bars: Bars) -> None:
        rng = torch.Generator().manual_seed(self.seed)
        bar = bars.bar(self.prompt, self.total)
        with bar as self._bar, suppress(BudgetExhausted), self.reward.working():
            for p in self.algorithm(self.sampler, self.reward, rng, **self.knobs):
                self._record(p, folder)
                self._attempt()
                best = self.gallery.best
                if self.reward.invalid == self.meter.cost.scored >= _HOPELESS:
                    break
                if self._missed(max(self.meter.cost.scored, rewards_of(self.waves or ()), _TELLING)):
                    break
                if stop_at is not None and best is not None and best.reward >= stop_at:
                    break
        self._bar = None
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

    def _attempt(self) -> None:
        """Let held-out rewards judge the first sample, so that what cannot be judged ends the search at once."""
        first = self.gallery.first
        if first is not None and not self.held_out.verdicts:
            # Whoever judges: a decoder that is another now is found out before it adds to the journal.
            develop([first.negative], self.own.decode)
            self.held_out.attempt(first.negative)

    def _missed(self, samples: int) -> bool:
        """Whether more rewards are missing than may be of so many."""
        return self.reward.invalid > allowed_missing(self._reward_of) * samples

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
        self._stop.check()
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

    def _develop(self) -> None:
        """Decode what the journal alone knows of, where it is kept."""
        develop(self._judgeable(), self.own.decode)
        first = self.gallery.first
        if first is not None and self.plain is None:
            develop([first.negative], self.own.decode)
            self.plain = first.scored

    def _judgeable(self) -> list[Negative]:
        """What held-out rewards are to see: what is kept, best first, and what was the best on the way."""
        watched = [] if self.reward.watch is None else self.reward.watch.stages
        return [entry.negative for entry in self.gallery.kept] + [seen.negative for _, best in watched for seen in best]

    def _draw_plain(self) -> None:
        """The plain sample of this seed, unless the search began with it; costs one sample beyond the budget."""
        if not isinstance(self.own, Stepper):
            return
        fresh = self.own.rewound().prior(1)
        if self.plain is None or self.plain.genome != fresh.genomes[0]:
            finished, _ = self.own.run(fresh, self.own.steps, eta=self.eta)
            self.plain = self._scored(self.own.decode(finished), int(finished.id), finished.genomes[0])

    def _finish(self) -> None:
        """Finish the best particle shown so far, or else the plain one: beside the budget, but counted."""
        self.meter.lift()
        if self._shown is not None:
            best = self._shown[:1] if self._shown.reward is None else self._shown[top(self._shown.reward, 1)]
            p = best.given(best.x, torch.Generator().manual_seed(self.seed))  # a search may note its ways at the end
        else:
            p = (self.own.rewound() if isinstance(self.own, Stepper) else self.own).prior(1)
        finished, _ = self.sampler.run(p, self.own.steps, eta=self.eta)
        score(finished, self.sampler, self.reward)
        if self.gallery.best is None:
            raise self._nothing()

    def _stock(self, folder: RunFolder) -> Scored | None:
        """The plain sample as the pipeline's own solver draws it; costs one sample beyond the budget."""
        plain = self.plain
        if plain is None or not getattr(self.own, "own_solver", None):
            return None
        try:
            sample = cast(Any, self.own).stock(replay(plain.genome, self.own, until=0))
        except Exception as error:  # a row to compare with is not worth the search that is done
            folder.log("no stock sample", reason=str(error))
            return None
        return None if sample is None else self._scored(sample, plain.id, plain.genome)

    def _scored(self, sample: Tensor, id: int, genome: Genome) -> Scored:
        samples = eight_bit(sample)
        reward, parts = judged(self._reward_of, samples.float() / 255, [self.prompt], learn=False)
        return Scored(pictures(samples[0]), float(leading(reward)), id, genome, parts=parts[0] if parts else {})

    def _found(self, stock: Scored | None) -> Result:
        """The result, as far as the search came."""
        self._develop()  # if it did not come to that
        verdicts = self.held_out.verdicts
        kept, stages = [entry.scored for entry in self.gallery.kept], list[Stage]()
        plain = self.plain
        assert plain is not None
        if self.reward.watch is not None:
            kept = [self._with_verdicts(scored) for scored in kept]
            plain = self._with_verdicts(plain)
            stages = hacking.judged(self.reward.watch.stages, verdicts) if verdicts else []
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
            faults=self.held_out.faults,
        )

    def _with_verdicts(self, scored: Scored) -> Scored:
        said = {name: values[scored.id] for name, values in self.held_out.verdicts.items() if scored.id in values}
        return replace(scored, held_out=said)
