"""What a user asks for, by name or as an object: found, and looked at before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evosearch import models, rewards
from evosearch.budget import Budget
from evosearch.checks import differentiable, is_number
from evosearch.declaration import Search, check_names
from evosearch.executors.pool import Pool
from evosearch.executors.remote import RemotePipe, remote
from evosearch.refusals import check_class
from evosearch.resolve import algorithm_of, is_sampler
from evosearch.rewards import TensorReward
from evosearch.rewards.combined import Combined
from evosearch.store import read_genomes
from evosearch.types import Genome


@dataclass(frozen=True)
class Asked:
    """What a user named, found and looked at."""

    algorithm: Search
    guidance: TensorReward
    judges: dict[str, TensorReward]
    genomes: list[Genome]

    def check(self, prompts: Sequence[str], video: bool | None = None) -> None:
        """ValueError where a reward cannot judge one of the prompts."""
        for text in prompts:
            for judge in (self.guidance, *self.judges.values()):
                rewards.check(judge, text, video)

    def moved_to(self, pool: Pool, reward: Any, held_out: Any) -> Asked:
        """The same, with the rewards where workers are.

        Args:
            pool: The workers.
            reward: As the user gave it.
            held_out: As the user gave it.
        """
        each = zip(self.judges.items(), several(held_out), strict=True)
        return replace(
            self,
            guidance=remote(pool, reward, self.guidance),
            judges={name: remote(pool, given, judge) for (name, judge), given in each},
        )

    def prepare(self) -> None:
        """Have all rewards load the weights that they have put off."""
        for judge in (self.guidance, *self.judges.values()):
            rewards.prepare(judge)


def asked_of(
    prompts: Sequence[str],
    reward: Any,
    algorithm: Any,
    budget: Any,
    knobs: Mapping[str, Any],
    eta: float | None,
    held_out: Any,
    stop_at: float | None,
    warm_start: str | Path | None,
) -> Asked:
    """All that can be looked at before a model is loaded; names and spellings before a reward is made."""
    if stop_at is not None and not is_number(stop_at):
        raise ValueError(f"stop_at must be a number, got {stop_at!r}")
    search = algorithm_of(algorithm)
    check_names(search, knobs)
    if budget is not None:
        Budget.of(budget, steps=1000)  # its spelling; how much it is shows once the steps are known
    judged = several(held_out)
    genomes = [] if warm_start is None else read_genomes(Path(warm_start))
    rewards.check_names([reward, *judged])
    guidance = rewards.resolve(reward)
    judges = rewards.named(judged)
    for name, judge in judges.items():
        if isinstance(judge, Combined) and judge.apart:
            raise ValueError(f"held_out takes rewards one by one, got {name}; name them as a list")
    asked = Asked(search, guidance, judges, genomes)
    name, needs = asked.algorithm.__name__, getattr(asked.algorithm, "needs", ())
    if isinstance(guidance, Combined) and guidance.apart and not getattr(asked.algorithm, "pareto", False):
        raise ValueError(
            f"reward must be one number for {name}, got {guidance.__name__}; give weights, combine them (z_scored, "
            "minimum, ...), or take evosearch or best_of_n, which keep a front"
        )
    if "gradient" in needs:
        differentiable(name, guidance)
    if "SDE" in needs and eta == 0:
        raise ValueError(f"eta must be above 0 for {name}, whose particles part by the noise of steps; got {eta}")
    asked.check(prompts)
    return asked


def look_at(pipe: Any, load_kwargs: Mapping[str, Any], prompts: Sequence[str], asked: Asked) -> None:
    """ValueError where such a pipeline cannot be searched, or a reward cannot judge a prompt; nothing is loaded."""
    if isinstance(pipe, RemotePipe):
        return asked.check(prompts, pipe.about.traits.videos)
    if isinstance(pipe, str | Path):
        check_class(models.class_of(pipe, **load_kwargs))
    if not is_sampler(pipe):  # now that pictures and videos are told apart
        asked.check(prompts, models.makes_videos(pipe, **load_kwargs))


def loaded(pipe: Any, load_kwargs: Mapping[str, Any]) -> Any:
    """The pipeline or sampler, loaded where it is a name."""
    return models.load(pipe, **load_kwargs) if isinstance(pipe, str | Path) else pipe


def prompts_of(prompt: Any) -> list[str]:
    """A prompt or several, as a list; ValueError where that is no text."""
    prompts = list(prompt) if isinstance(prompt, Iterable) and not isinstance(prompt, str) else [prompt]
    if not prompts or not all(isinstance(text, str) and text.strip() for text in prompts):
        raise ValueError(f"prompt must be text, or a list of texts, none of them empty; got {prompt!r}")
    return prompts


def several(held_out: Any) -> list[Any]:
    """Held-out rewards as a user gives them, one or more."""
    if isinstance(held_out, str | Mapping) or callable(held_out):
        return [held_out]
    return list(held_out)
