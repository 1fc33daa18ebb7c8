"""search(): ties a sampler, a reward, an algorithm and a budget together."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evosearch import disk, rewards
from evosearch.asked import Asked, asked_of, loaded, look_at, prompts_of
from evosearch.budget import Budget
from evosearch.checks import whole_number
from evosearch.declaration import Search
from evosearch.executors.hiring import Workers, hired
from evosearch.interrupts import Stop
from evosearch.manifest import check_same, holds_run, read_manifest
from evosearch.progress import Bars
from evosearch.prompts import Prompt
from evosearch.resolve import batch_of, budget_of, sampler_of
from evosearch.result import Result
from evosearch.resuming import comparable, spelled, write_plan
from evosearch.rewards.cache import ScoreCache
from evosearch.session import Session
from evosearch.stepper import Stepper
from evosearch.store import RunFolder, check_free
from evosearch.together import each

_SCORE_CACHE = "EVOSEARCH_SCORE_CACHE"


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
    run_dir: str | Path | Sequence[Path] | None = None,
    progress: bool = True,
    held_out: Any = (),
    score_cache: str | Path | None = None,
    pipeline_kwargs: Mapping[str, Any] | None = None,
    load_kwargs: Mapping[str, Any] | None = None,
    stop_at: float | None = None,
    warm_start: str | Path | None = None,
    resume: bool = False,
    strict: bool = False,
    workers: int | Workers | None = None,
    **knobs: Any,
) -> Any:
    """Search for the best sample of a prompt.

    Args:
        pipe: A diffusers pipeline, a `Sampler`, a bundled model's name, a folder or a hub id; or one that `hire` has
            given workers.
        prompt: What to generate; a list of prompts gives a list of results. Those of `evosearch.prompts.read` leave
            in the manifest what their file says of them.
        reward: What to maximise: a name, a callable, ``{name: weight}``, a combination of `evosearch.rewards.combined`,
            or a list of rewards of which none weighs more, for which there is no best but a `Result.front`.
        algorithm: A name in `evosearch.searches`, or a generator function.
        budget: A `Budget`, NFE as a number, ``"20x"`` (times one sample's NFE) or ``"60s"``. Without one, what the
            knobs ask for, or else ``"20x"``.
        steps: Denoising steps; what suits the model by default.
        eta: 0 = ODE, 1 = ancestral SDE; the algorithm's own by default.
        seed: All noise and all choices follow from it.
        batch_size: Particles in one pass of the model, at most: fewer where small generations would waste the rest,
            one where the pipeline decodes one at a time.
        run_dir: New folder for the manifest, the journal, the media and the report; nothing is written without. Of
            several prompts, one that has a folder for each, or a list of folders.
        progress: Show a progress bar.
        held_out: Reward or list of rewards that judge what is kept and never steer.
        score_cache: Folder of scores that later runs need not ask for again, such as a judge's, which cost money; what
            EVOSEARCH_SCORE_CACHE names by default. In a run, no sample is scored twice anyway. See
            `evosearch.rewards.cache`.
        pipeline_kwargs: What else the pipeline's ``__call__`` takes.
        load_kwargs: For `evosearch.load`, where ``pipe`` is a name: ``dtype``, ``offload``, ``quantize``, ...
        stop_at: End as soon as this reward is reached.
        warm_start: An earlier run's folder; its best noises begin the first population. The plain sample to compare
            with is drawn beside the budget then.
        resume: Where ``run_dir`` holds this run, begun by the same arguments, go on where it stopped: what model and
            reward gave is not asked for again, and what comes out is the same to the bit.
        strict: Never go on in smaller micro-batches where memory does not suffice: particles' bits go by their shape.
        workers: Processes that compute, on this machine or elsewhere: their number, or `Workers`. One for each GPU by
            default, where there are several and ``pipe`` is a name; else this process computes by itself. The bits are
            the same. Several prompts are searched at a time then.
        **knobs: The algorithm's own. Those not given are fitted to the budget.

    Returns:
        A `Result`, or a list of them where ``prompt`` is a list.

    Raises:
        ValueError: An argument is wrong, or ``run_dir`` holds another run; nothing has been written then.
        OSError: The disk has no room; if it had none to begin with, nothing has been written.
        InvalidReward: No particle got a finite reward, or more have none than the reward allows (``allow_missing``).

    >>> import evosearch as es
    >>> result = es.search("shapes-diffusion", "two red circles", "shapes", budget="5x", steps=4, progress=False)
    >>> result.cost.nfe
    20
    """
    prompts = prompts_of(prompt)
    folders = _folders(run_dir, len(prompts), one=isinstance(prompt, str), resume=resume)
    arguments = spelled(
        pipe=getattr(pipe, "given", pipe), reward=reward, algorithm=algorithm, budget=budget, steps=steps, eta=eta,
        seed=seed, batch_size=batch_size, held_out=held_out, score_cache=score_cache, pipeline_kwargs=pipeline_kwargs,
        load_kwargs=load_kwargs, stop_at=stop_at, warm_start=warm_start, **knobs,
    )  # fmt: skip
    cache = ScoreCache(score_cache or os.environ.get(_SCORE_CACHE) or None)
    with ExitStack() as stack:
        stack.enter_context(closing(cache))
        asked = asked_of(prompts, reward, algorithm, budget, knobs, eta, held_out, stop_at, warm_start)
        look_at(pipe, load_kwargs or {}, prompts, asked)
        there = stack.enter_context(hired(workers, pipe, load_kwargs or {}, asked.algorithm))
        if there is not None:
            pipe, asked = there, asked.moved_to(there.pool, reward, held_out)
        else:
            pipe = loaded(pipe, load_kwargs or {})
        if isinstance(run_dir, str | Path) and not isinstance(prompt, str):
            write_plan(Path(run_dir), prompts, arguments, resume)
        bars = stack.enter_context(Bars(progress))

        def one(entry: tuple[str, Path | None], stop: Stop | None) -> Result:
            text, path = entry
            told: dict[str, Any] = {"arguments": {"prompt": str(text), **arguments}}
            session = _session(
                pipe, str(text), asked, budget, knobs, steps=steps, eta=eta, seed=seed, batch_size=batch_size,
                pipeline_kwargs=pipeline_kwargs, cache=cache, thumbnails=path is not None,
                fitted=_fitted_before(path, told["arguments"]) if resume and path is not None else None, strict=strict,
            )  # fmt: skip
            asked.prepare()
            session.settings |= {
                "reward": rewards.name_of(reward),
                "held_out": list(asked.judges),
                "stop_at": stop_at,
                "warm_start": None if warm_start is None else Path(warm_start).name,
            }
            if isinstance(text, Prompt):
                session.settings["prompt_set"] = text.origin
            folder = None
            if path is not None:
                if not (resume and holds_run(path)):  # what is left to write of one that goes on nobody knows
                    disk.check_room(path, _likely_on_disk(session))
                folder = RunFolder(path, session.settings, told | {"fitted": session.fitted}, resume=resume)
            return session.run(asked.judges, folder, stop_at=stop_at, bars=bars, stop=stop)

        results = each(one, list(zip(prompts, folders, strict=True)), 1 if there is None else there.pool.width)
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
    run_dir: str | Path | None = None,
    held_out: Any = (),
    pipeline_kwargs: Mapping[str, Any] | None = None,
    load_kwargs: Mapping[str, Any] | None = None,
    stop_at: float | None = None,
    warm_start: str | Path | None = None,
    **knobs: Any,
) -> Estimate:
    """What `search` would take with these arguments, judged by one micro-batch. Nothing is written.

    Raises:
        ValueError: As `search` would.
    """
    _folders(run_dir, 1, one=True)
    asked = asked_of(prompts_of(prompt), reward, algorithm, budget, knobs, eta, held_out, stop_at, warm_start)
    look_at(pipe, load_kwargs or {}, [prompt], asked)
    pipe = loaded(pipe, load_kwargs or {})
    session = _session(
        pipe, prompt, asked, budget, knobs, steps=steps, eta=eta, seed=seed, batch_size=batch_size,
        pipeline_kwargs=pipeline_kwargs,
    )  # fmt: skip
    sampler, pace = session.own, session.pace()
    limit = min(session.meter.budget.time, default=float("inf"))
    planned, nfe = float("inf"), session.total or 0
    if session.waves is not None:
        planned = pace.seconds(session.waves)
    seconds = min(planned, limit)
    if planned > limit:  # the clock ends it
        nfe = round(nfe * limit / planned) if session.waves else round(limit / pace.row)
    states = _states(session, nfe, sampler.prior(1).x.nbytes)
    session.close()
    return Estimate(
        nfe=nfe,
        seconds=seconds,
        memory=states + 2 * sampler.batch_size * pace.sample,  # a micro-batch of samples in float32, twice
        disk=states + _shown(session, nfe, pace.sample // 4),
    )


def _states(session: Session, nfe: int, state: int) -> int:
    """Bytes of particles with their x0 at every level that is kept; a journal has as many."""
    schedule = session.knobs.get("schedule")
    levels = len({*schedule}) if isinstance(schedule, list | tuple) else 0
    return -(-nfe // session.own.steps) * 2 * state * (2 + levels)


def _shown(session: Session, nfe: int, sample: int) -> int:
    """Bytes of the samples that are kept and of small pictures of all."""
    return session.gallery.size * sample + 8192 * -(-nfe // session.own.steps)


def _likely_on_disk(session: Session) -> int:
    """Bytes that a run may write, as far as its NFE are known beforehand and its model is one of ours."""
    if not isinstance(session.own, Stepper) or session.total is None:
        return 0
    state = 4 * math.prod(session.own.shape)
    # Autoencoders of 4 to 16 channels make of a state a sample of 3 to 12 times its bytes.
    return round(1.2 * (_states(session, session.total, state) + _shown(session, session.total, 12 * state)))


def _fitted_before(path: Path, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the run in a folder was fitted to its budget, if there is one; ValueError where it is another run."""
    if not holds_run(path):
        return None
    manifest = read_manifest(path)
    if "arguments" in manifest:
        check_same(path, *comparable(manifest["arguments"], arguments))
    return manifest.get("fitted")


def _folders(run_dir: Any, prompts: int, one: bool, resume: bool = False) -> list[Path | None]:
    """A folder for each prompt, none of them taken, unless by the run that is to go on."""
    if run_dir is None:
        return [None] * prompts
    if not isinstance(run_dir, str | Path):
        folders = list(map(Path, run_dir))
        if len(folders) != prompts:
            raise ValueError(f"run_dir must be a folder for each of {prompts:,} prompts, got {len(folders):,}")
    else:
        folders = [Path(run_dir)] if one else [Path(run_dir) / f"{k:04d}" for k in range(prompts)]
    for folder in folders:
        if not (resume and holds_run(folder)):
            check_free(folder)
    return list(folders)


def _session(
    pipe: Any,
    prompt: str,
    asked: Asked,
    budget: Any,
    knobs: Mapping[str, Any],
    *,
    steps: int | None,
    eta: float | None,
    seed: int,
    batch_size: int,
    pipeline_kwargs: Mapping[str, Any] | None,
    cache: ScoreCache | None = None,
    thumbnails: bool = False,
    fitted: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> Session:
    """The search of one prompt, in micro-batches of the size that suits it."""
    most = whole_number("batch_size", batch_size, 1)
    size = batch_of(pipe, asked.algorithm, knobs, budget, steps, most)
    sampler = sampler_of(
        pipe, prompt, steps=steps, eta=eta, seed=seed, batch_size=size, pipeline_kwargs=pipeline_kwargs, strict=strict
    )
    knobs = _with_eta(asked.algorithm, knobs, eta)
    limits = budget_of(budget, asked.algorithm, knobs, sampler.steps)
    if limits.seconds is not None or limits.usd is not None:
        rewards.prepare(asked.guidance)  # the plan goes by how fast it scores
    session = Session(
        sampler, asked.algorithm, asked.guidance, prompt, budget, knobs, seed=seed,
        genomes=asked.genomes, cache=cache, thumbnails=thumbnails, fitted=fitted,
    )  # fmt: skip
    rewards.prepare(asked.guidance)
    return session


def _with_eta(algorithm: Search, knobs: Mapping[str, Any], eta: float | None) -> dict[str, Any]:
    """Eta is the sampler's, but a search may have a default of its own, which the user's word overrides."""
    takes = eta is not None and "eta" in inspect.signature(algorithm).parameters
    return {**knobs, "eta": eta} if takes else dict(knobs)
