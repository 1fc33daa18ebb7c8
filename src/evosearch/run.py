"""search(): ties a sampler, a reward, an algorithm and a budget together."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evosearch import models, rewards
from evosearch.budget import Budget
from evosearch.resolve import algorithm_of, sampler_of
from evosearch.result import Result
from evosearch.session import Session
from evosearch.store import RunFolder, read_genomes
from evosearch.types import Search

_THUMBNAIL = 128  # pixels, in the report


def search(
    pipe: Any,
    prompt: str | Sequence[str],
    reward: Any,
    algorithm: Any = "evosearch",
    budget: Budget | int | str | None = None,
    *,
    steps: int | None = None,
    eta: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
    run_dir: str | Path | None = None,
    progress: bool = True,
    held_out: Iterable[Any] | str = (),
    pipeline_kwargs: Mapping[str, Any] | None = None,
    stop_at: float | None = None,
    warm_start: str | Path | None = None,
    **knobs: Any,
) -> Any:
    """Search for the best sample of a prompt.

    Args:
        pipe: A diffusers pipeline, a `Sampler`, a bundled model's name, a folder or a hub id.
        prompt: What to generate; a list of prompts gives a list of results.
        reward: What to maximise: a name, a callable, or ``{name: weight}``; see `evosearch.rewards`.
        algorithm: A name in `evosearch.searches`, or a generator function.
        budget: A `Budget`, NFE as a number, ``"20x"`` (times one sample's NFE) or ``"60s"``. Without one, what the
            knobs ask for, or else ``"20x"``.
        steps: Denoising steps; what suits the model by default.
        eta: 0 = ODE, 1 = ancestral SDE; the algorithm's own by default.
        seed: All noise and all choices follow from it.
        batch_size: Particles in one pass of the model.
        run_dir: New folder for the manifest, the media and the report; nothing is written without.
        progress: Show a progress bar.
        held_out: Rewards that judge what is kept and never steer.
        pipeline_kwargs: What else the pipeline's ``__call__`` takes.
        stop_at: End as soon as this reward is reached.
        warm_start: An earlier run's folder; its best noises begin the first population.
        **knobs: The algorithm's own. Those not given are fitted to the budget.

    Returns:
        A `Result`, or a list of them where ``prompt`` is a list.

    Raises:
        ValueError: An argument is wrong; nothing has been written then.
        InvalidReward: No particle got a finite reward.

    >>> import evosearch as es
    >>> result = es.search("shapes-diffusion", "two red circles", "shapes", budget="5x", steps=4, progress=False)
    >>> result.cost.nfe
    20
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or not all(isinstance(text, str) and text.strip() for text in prompts):
        raise ValueError(f"prompt must be text, or a list of texts, none of them empty; got {prompt!r}")
    algorithm, guidance = algorithm_of(algorithm), rewards.resolve(reward)
    judges = {rewards.name_of(r): rewards.resolve(r) for r in ([held_out] if isinstance(held_out, str) else held_out)}
    for text in prompts:
        for judge in (guidance, *judges.values()):
            rewards.check(judge, text)
    genomes = [] if warm_start is None else read_genomes(Path(warm_start))
    pipe = models.load(pipe) if isinstance(pipe, str) else pipe
    results: list[Result] = []
    for k, text in enumerate(prompts):
        sampler = sampler_of(
            pipe, text, steps=steps, eta=eta, seed=seed, batch_size=batch_size, pipeline_kwargs=pipeline_kwargs
        )
        session = Session(
            sampler, algorithm, guidance, text, budget, _with_eta(algorithm, knobs, eta), seed=seed, genomes=genomes,
            thumbnail=_THUMBNAIL if run_dir is not None else 0,
        )  # fmt: skip
        session.settings |= {"reward": rewards.name_of(reward), "held_out": list(judges)}
        folder = None
        if run_dir is not None:
            at = Path(run_dir) if isinstance(prompt, str) else Path(run_dir) / f"{k:04d}"
            folder = RunFolder(at, session.settings)
        results.append(session.run(judges, folder, stop_at=stop_at, progress=progress))
    return results[0] if isinstance(prompt, str) else results


@dataclass(frozen=True)
class Estimate:
    """What a search would take: NFE, seconds, bytes of memory beyond the model's, bytes on disk."""

    nfe: int
    seconds: float
    memory: int
    disk: int


def estimate(
    pipe: Any,
    prompt: str,
    reward: Any,
    algorithm: Any = "evosearch",
    budget: Budget | int | str | None = None,
    *,
    steps: int | None = None,
    eta: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
    pipeline_kwargs: Mapping[str, Any] | None = None,
    **knobs: Any,
) -> Estimate:
    """What `search` would take with these arguments, judged by one micro-batch. Nothing is written."""
    sampler = sampler_of(
        pipe, prompt, steps=steps, eta=eta, seed=seed, batch_size=batch_size, pipeline_kwargs=pipeline_kwargs
    )
    algorithm = algorithm_of(algorithm)
    session = Session(
        sampler, algorithm, rewards.resolve(reward), prompt, budget, _with_eta(algorithm, knobs, eta), seed=seed
    )
    pace = session.pace()
    assert session.sampler.decoded is not None
    p, samples = session.sampler.decoded
    state, sample = p.x[:1].nbytes, samples[:1].nbytes
    nfe = session.total or round((session.meter.budget.seconds or 0) / pace)
    particles = -(-nfe // sampler.steps)
    session.close()
    return Estimate(
        nfe=nfe,
        seconds=min(nfe * pace, session.meter.budget.seconds or float("inf")),
        # States with their x0 at every level that is kept; a micro-batch of samples in float32, twice.
        memory=particles * 2 * state * (2 + len(session.knobs.get("schedule", ()))) + 8 * sampler.batch_size * sample,
        disk=session.gallery.size * sample + 8192 * particles,
    )


def _with_eta(algorithm: Search, knobs: Mapping[str, Any], eta: float | None) -> dict[str, Any]:
    """Eta is the sampler's, but a search may have a default of its own, which the user's word overrides."""
    takes = eta is not None and "eta" in inspect.signature(algorithm).parameters
    return {**knobs, "eta": eta} if takes else dict(knobs)
