"""PipelineSampler: any stock diffusers pipeline, unmodified, as a sampler."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Self

import torch
from torch import Tensor, nn

from evosearch import features
from evosearch.hooks import (
    cut_by_strength,
    denoisers,
    forget_features,
    frozen,
    halted,
    memoised,
    noted_packing,
    rows_of,
)
from evosearch.refusals import check_arguments, one_at_a_time
from evosearch.sampler import BaseSampler
from evosearch.seam import Leg, Probe, Reached, seam
from evosearch.stepper import Trajectory
from evosearch.types import Population

_FIRST_ORDER = (
    "DDIMScheduler",
    "CogVideoXDDIMScheduler",
    "EulerDiscreteScheduler",
    "EDMEulerScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
_MANY = ("num_images_per_prompt", "num_videos_per_prompt")
# They name such an argument and do not heed it.
_ONE_PER_PROMPT = ("AnimateDiff", "CogVideoX")


class PipelineSampler(BaseSampler):
    """A stock pipeline with its prompt, as a sampler. The pipeline is left as it was after every call.

    States stay in float32; the pipeline gets a cast to its own dtype. The prompt is encoded once. Higher-order
    schedulers keep their grid, while the steps are ours: first order, or DPM-Solver++ 2M.

    Args:
        pipe: A diffusers pipeline.
        prompt: What to generate.
        steps: Denoising steps; the pipeline's own default if None.
        eta: 0 = ODE, 1 = ancestral SDE.
        seed: Run seed.
        batch_size: Particles in one pass of the model. Every pass has this many rows, the last one is padded.
        order: 1 or 2 (DPM-Solver++ 2M); by default 2 where the pipeline's scheduler is a second-order
            DPMSolverMultistep, else 1.
        **pipeline_kwargs: What else the pipeline's own ``__call__`` takes.

    Raises:
        ValueError: The pipeline cannot be searched, or an argument is one that the search sets itself.

    >>> import evosearch as es
    >>> sampler = PipelineSampler(es.load("shapes-diffusion"), "a red circle", steps=4, batch_size=2)
    >>> finished, _ = sampler.run(sampler.prior(2), 4)
    >>> sampler.decode(finished).shape
    torch.Size([2, 3, 64, 64])
    """

    _cache: Any = None  # config of a feature cache

    def __init__(
        self,
        pipe: Any,
        prompt: str | None,
        *,
        steps: int | None = None,
        eta: float = 0.0,
        seed: int = 0,
        batch_size: int = 8,
        order: int | None = None,
        **pipeline_kwargs: Any,
    ) -> None:
        self.pipe, self.prompt, self.kwargs, self.order = pipe, prompt, pipeline_kwargs, order
        self._accepts = check_arguments(pipe, pipeline_kwargs)
        if steps is None:
            given = pipeline_kwargs.get("sigmas") or pipeline_kwargs.get("timesteps")
            steps = len(given) if given else self._accepts["num_inference_steps"].default
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if batch_size > 1 and one_at_a_time(pipe):
            raise ValueError(f"batch_size must be 1 for {type(pipe).__name__}, which decodes one at a time")
        self.batch_size, self.seed = batch_size, seed
        self._asked = steps
        self.model_passes = 0
        self._encoded: dict[Any, Any] = {}
        probe, self._batch = self._look()
        path, latents = probe.path, probe.latents
        assert path is not None and latents is not None
        self._dtype, self._packing = latents.dtype, probe.packing
        self.clean = latents[:1].float().cpu() if probe.noised else None
        super().__init__(path, latents.shape[1:], eta=eta, seed=seed, batch_size=batch_size, device=latents.device)

    def close(self) -> None:
        """Let an offloaded pipeline free its models; put off until here, so that a search does not reload them."""
        with suppress(AttributeError):
            self.pipe.maybe_free_model_hooks()

    @property
    def own_solver(self) -> str | None:
        """Name of the pipeline's own solver where our steps are not its steps, else None."""
        scheduler = self.pipe.scheduler
        name, config = type(scheduler).__name__, scheduler.config
        if name == "DPMSolverMultistepScheduler":
            ours = config.algorithm_type == "dpmsolver++" and config.solver_order == self.path.order
        else:
            ours = name in _FIRST_ORDER and self.path.order == 1
        return None if ours else name

    def cached(self, cache: Any, prices: Sequence[float] = ()) -> Self:
        """See `BaseSampler.cached`."""
        features.check(self.pipe)
        other = copy.copy(self)
        other._cache, other.step_prices = features.config_of(cache), tuple(prices)
        return other

    def prices(self, levels: Sequence[int]) -> list[float]:
        """NFE of each step of a run through these levels, measured on a micro-batch of its own."""
        p = Population(
            self.start(self.noise(torch.arange(self.batch_size), 0, "prior")), 0, torch.arange(self.batch_size)
        )
        trajectory = Trajectory(self, p, levels[1:], (), 0.0)
        return self._shares(trajectory, levels[-1])

    def stock(self, p: Population) -> Tensor | None:
        """What the pipeline itself, with its own solver, makes of one particle's initial noise.

        Args:
            p: A population of one at level 0.

        Returns:
            (1, [F,] 3, H, W) float32 in [0, 1]; None where the pipeline takes no latents.
        """
        if "latents" not in self._accepts:
            return None
        x = self.to_grid(p.x) if type(self.pipe).__name__.startswith("Flux2") else p.x
        own: dict[str, Any] = {}
        if "generator" in self._accepts:
            own["generator"] = torch.Generator().manual_seed(self.seed)
        if "prompt_embeds" not in self.kwargs:
            own["prompt"] = self.prompt
        before = dict(vars(self.pipe))
        self.pipe.set_progress_bar_config(disable=True)
        try:
            samples = self.pipe(
                num_inference_steps=self._asked,
                latents=x.to(self.device, self._dtype),
                output_type="pt",
                return_dict=False,
                **own,
                **self.kwargs,
            )[0]
        finally:
            vars(self.pipe).clear()
            vars(self.pipe).update(before)
        return _stacked(samples)

    def to_grid(self, x: Tensor) -> Tensor:
        """States as (N, C, [F,] H, W), undoing the pipeline's own packing.

        Raises:
            ValueError: The latents have no such form.
        """
        if self._packing is not None:
            pack, shape = self._packing
            where = pack(torch.arange(math.prod(shape), dtype=torch.float64).view(1, *shape)).long().flatten()
            grid = torch.empty(len(x), len(where), dtype=x.dtype)
            grid[:, where] = x.flatten(1)
            x = grid.view(len(x), *shape)
        elif x.ndim not in (4, 5):
            raise ValueError(f"latents of shape (N, {', '.join(map(str, self.shape))}) have no (C, [F,] H, W) grid")
        return x.transpose(1, 2) if self._frames_first else x

    def from_grid(self, x: Tensor) -> Tensor:
        """The inverse of `to_grid`."""
        x = x.transpose(1, 2) if self._frames_first else x
        return x if self._packing is None else self._packing[0](x)

    @property
    def _frames_first(self) -> bool:
        config = getattr(getattr(self.pipe, "vae", None), "config", None)
        channels = getattr(config, "latent_channels", None) or getattr(config, "z_dim", None)
        shape = self.shape if self._packing is None else self._packing[1]
        return len(shape) == 4 and shape[0] != channels and shape[1] == channels

    def _denoise(self, trajectory: Trajectory, until: int) -> float:
        return sum(self._shares(trajectory, until))

    def _shares(self, trajectory: Trajectory, until: int) -> list[float]:
        """Advance, and say of each step how much of the network it computed."""
        leg = Leg(self.path, trajectory.x, trajectory.i, trajectory, until)
        extra: dict[str, Any] = {}
        if self._listens:
            extra = {"callback_on_step_end": leg.after_step, "callback_on_step_end_tensor_inputs": ["latents"]}
        else:
            leg.path = self.path.cut(0, until)
        if "mask_image" in self._accepts and "latents" in self._accepts:
            # Blends the image in, noised by what it takes for the initial noise: that has to be the same in every leg.
            extra["latents"] = self.noise(trajectory.particles.key, 0, "prior").to(self.device, self._dtype)
        passes, visited = self.model_passes, [trajectory.i, *trajectory.levels[:-1]]
        forget_features(self.pipe)
        reused = nullcontext() if self._cache is None else features.reused(self.pipe, self._cache, self.steps, visited)
        with self._installed(leg), self._counted(trajectory.rows), reused as shares, suppress(Reached):
            self._call("latent", **extra)
        if self.model_passes == passes:  # no hooks in a compiled network
            self.model_passes += trajectory.rows * len(visited)
        if trajectory.i != until:
            raise ValueError(
                f"{type(self.pipe).__name__} stopped at level {trajectory.i} of {until}: it skips steps of its "
                "schedule, so it cannot be searched"
            )
        self.edits = self.edits or leg.edited
        if shares is None:
            return [1.0] * len(visited)
        each = shares.of(len(visited))
        self.model_passes = passes + round((self.model_passes - passes) * sum(each) / len(each))
        return each

    def _decode(self, x: Tensor) -> Tensor:
        leg = Leg(self.path, x.to(self.device), self.steps, None, self.steps)
        with self._installed(leg):
            samples = self._call("pt")[0]
        return _stacked(samples)

    def _spare(self) -> bool:
        vae: Any = getattr(self.pipe, "vae", None)
        if getattr(vae, "use_tiling", True) or not hasattr(vae, "enable_tiling"):
            return False
        vae.enable_tiling()
        return True

    def decode_precisely(self, p: Population) -> Tensor:
        """As `decode`, with the decoder in float32 for that long: half precision overflows in some."""
        vae: Any = getattr(self.pipe, "vae", None)
        if vae is None or vae.dtype == torch.float32:
            return self.decode(p)
        before = vae.dtype
        try:
            vae.to(torch.float32)
            return self.decode(p)
        finally:
            vae.to(before)

    def _opened(self) -> AbstractContextManager[None]:
        return frozen(self.pipe)

    @property
    def _listens(self) -> bool:
        return "callback_on_step_end" in self._accepts and "latents" in getattr(
            self.pipe, "_callback_tensor_inputs", ["latents"]
        )

    def _look(self) -> tuple[Probe, str]:
        """Call the pipeline up to its denoiser, once, to learn its grid and its latents."""
        heeds = not type(self.pipe).__name__.startswith(_ONE_PER_PROMPT)
        ways = [name for name in _MANY if name in self._accepts and heeds] + ["prompt"]
        for way in ways:
            self._batch, probe = way, Probe()
            try:
                with self._installed(probe), halted(self.pipe), suppress(Reached):
                    self._call("latent")
            except Exception:
                if way == ways[-1]:
                    raise
                continue  # some name the argument and cannot do it; a list of prompts is the other way
            if probe.path is None or probe.latents is None:
                break
            if len(probe.latents) == self.batch_size:
                return probe, way
        raise ValueError(
            f"{type(self.pipe).__name__} cannot be searched: it does not denoise {self.batch_size} latents of one "
            "prompt by scheduler.set_timesteps and scheduler.step"
        )

    def _call(self, output_type: str, **extra: Any) -> Any:
        many = self._batch != "prompt"
        own: dict[str, Any] = {"num_inference_steps": self._asked, "output_type": output_type, "return_dict": False}
        if "prompt" in self._accepts and "prompt_embeds" not in self.kwargs:
            own["prompt"] = self.prompt if many else [self.prompt] * self.batch_size
        if many:
            own[self._batch] = self.batch_size
        if "generator" in self._accepts:
            # One generator a row, all alike: whatever the pipeline draws is the same in every row and every call.
            own["generator"] = [torch.Generator().manual_seed(self.seed) for _ in range(self.batch_size)]
        if self._graph:  # the pipeline's call is closed to gradients; what it wraps is not
            return inspect.unwrap(type(self.pipe).__call__)(self.pipe, **self.kwargs, **own, **extra)
        return self.pipe(**self.kwargs, **own, **extra)

    @contextmanager
    def _installed(self, leg: Leg | Probe) -> Generator[None]:
        """The seam in place, for one call."""
        pipe = self.pipe
        ours: dict[str, Any] = {
            "scheduler": seam(pipe.scheduler, leg, self.order),
            "maybe_free_model_hooks": lambda: None,
            "_progress_bar_config": {**getattr(pipe, "_progress_bar_config", {}), "disable": True},
        }
        for name in ("encode_prompt", "_encode_prompt"):
            if hasattr(pipe, name):
                ours[name] = memoised(getattr(pipe, name), self._encoded)
        if hasattr(pipe, "prepare_latents"):
            ours["prepare_latents"] = self._prepare_latents(pipe.prepare_latents, leg)
        if hasattr(pipe, "get_timesteps"):
            ours["get_timesteps"] = cut_by_strength(pipe.get_timesteps, leg, self._asked)
        if isinstance(leg, Probe) and hasattr(pipe, "_pack_latents"):
            ours["_pack_latents"] = noted_packing(pipe._pack_latents, leg)
        before = dict(vars(pipe))
        vars(pipe).update(ours)  # not setattr, which would write the scheduler into the pipeline's config
        try:
            yield
        finally:
            vars(pipe).clear()  # of what the call itself notes there, too
            vars(pipe).update(before)

    def _prepare_latents(self, own: Any, leg: Leg | Probe) -> Any:
        """The pipeline's own, with our state in place of the one that it makes."""

        @functools.wraps(own)
        def prepare_latents(*args: Any, **kwargs: Any) -> Any:
            made = own(*args, **kwargs)
            rest = made[1:] if isinstance(made, tuple) else ()
            if isinstance(leg, Probe):
                leg.latents = made[0] if isinstance(made, tuple) else made
                return made
            latents = leg.hand(leg.x, self._dtype)
            return (latents, *rest) if isinstance(made, tuple) else latents

        return prepare_latents

    @contextmanager
    def _counted(self, rows: int) -> Generator[None]:
        """Count the denoiser's passes: its batch may hold each particle twice, or it may be called twice a step."""

        def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            del module
            self.model_passes += rows_of(args, kwargs) * rows // self.batch_size

        hooks = [m.register_forward_pre_hook(count, with_kwargs=True) for m in denoisers(self.pipe)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _stacked(samples: Any) -> Tensor:
    """Samples of a pipeline's output type ``pt`` as (N, [F,] 3, H, W) float32 on the CPU."""
    samples = torch.stack(list(samples)) if isinstance(samples, list) else samples
    return samples.float().cpu().clamp(0, 1)
