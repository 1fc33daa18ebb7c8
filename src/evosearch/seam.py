"""The seam: a scheduler of the pipeline's own class that hands each step to a search.

For the length of one call it takes the place of the pipeline's scheduler. It keeps that one's timesteps, shows only
those of the levels wanted, and instead of stepping turns the model's output into (x0, eps) for OUR step.
"""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any

import torch
from torch import Tensor

from evosearch.path import NoisePath
from evosearch.stepper import Trajectory


class Reached(Exception):
    """The pipeline has come as far as it was wanted to; ends the call in the middle."""


class StepOutput(tuple[Tensor, Tensor]):
    """What pipelines read of a step: indexed, unpacked or by attribute."""

    prev_sample = property(lambda self: self[0])
    pred_original_sample = property(lambda self: self[1])
    denoised = pred_original_sample


class Leg:
    """One stretch of a trajectory inside one call of a pipeline: from the state it starts at, to a level.

    Args:
        path: The noise path.
        x: States to start from, (N, *D) float32.
        start: Their level.
        trajectory: Takes the steps; None for a decode, which takes none.
        until: Level to stop at.
    """

    def __init__(self, path: NoisePath, x: Tensor, start: int, trajectory: Trajectory | None, until: int) -> None:
        self.path, self.x, self.start, self.trajectory, self.until = path, x, start, trajectory, until
        self.handed: Tensor | None = None  # what the pipeline was given, in its own dtype
        self.edited = False

    def hand(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Give the pipeline a cast of our float32 state."""
        self.handed = x.to(dtype)
        return self.handed

    def take_back(self, latents: Tensor) -> None:
        """Go on with our own state where the pipeline left it alone, with its edit where it did not."""
        assert self.trajectory is not None and self.handed is not None
        if latents is not self.handed and not torch.equal(latents, self.handed):
            self.edited = True
            self.handed, self.trajectory.x = latents, latents.float()

    def step(self, output: Tensor, timestep: Any, sample: Tensor) -> StepOutput:
        """OUR step from the level at hand, in exchange for the scheduler's."""
        trajectory = self.trajectory
        if trajectory is None or trajectory.i >= self.path.steps:
            raise ValueError("the pipeline takes more steps than its scheduler has timesteps, so it cannot be searched")
        if isinstance(timestep, Tensor) and timestep.numel() > 1 and bool((timestep != timestep.flatten()[0]).any()):
            raise ValueError(
                "the pipeline gives rows or frames timesteps of their own (diffusion forcing, image conditioning), so "
                "a population has no one level; this pipeline cannot be searched"
            )
        if sample.shape != trajectory.x.shape:
            raise ValueError(
                f"the pipeline steps a state of shape {tuple(sample.shape)}, but its latents are "
                f"{tuple(trajectory.x.shape)}: packed conditioning or several latents cannot be searched"
            )
        self.take_back(sample)
        x0, eps = self.path.split(trajectory.x, output.to(trajectory.x.device), trajectory.i)
        x = trajectory.advance(x0, eps)
        return StepOutput((self.hand(x, sample.dtype), x0))

    def after_step(self, pipe: Any, index: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The pipeline's callback: sees its edits, and ends the call at a level before the last."""
        del pipe, index, timestep
        trajectory = self.trajectory
        assert trajectory is not None
        self.take_back(tensors["latents"])
        if trajectory.i == self.until < self.path.steps:
            raise Reached
        return tensors


class Probe:
    """A call that only looks: what grid, what latents, what image the pipeline starts from."""

    def __init__(self) -> None:
        self.path: NoisePath | None = None
        self.latents: Tensor | None = None
        self.noised = False  # an image, so that without noise the latents are the image's
        self.packing: tuple[Any, ...] | None = None


def seam(scheduler: Any, leg: Leg | Probe, order: int | None = None) -> Any:
    """A copy of a scheduler, of a class made from its own, that serves one leg of a trajectory.

    Args:
        scheduler: The pipeline's scheduler; left as it is.
        leg: Where the steps go. A `Probe` learns the path instead, and ends the call before the first step.
        order: Order of our steps; see `NoisePath.from_scheduler`.
    """
    own: Any = type(scheduler)

    @functools.wraps(own.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        own.set_timesteps(self, *args, **kwargs)
        if isinstance(leg, Probe):
            leg.path = NoisePath.from_scheduler(self, order)
        path = leg.path
        assert path is not None
        shown = path.timesteps if isinstance(leg, Probe) else visible(leg)
        self.timesteps = shown.to(self.timesteps.device)
        self.num_inference_steps = path.steps
        self.order = 1

    @functools.wraps(own.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> StepOutput:
        if isinstance(leg, Probe):
            leg.latents = _argument(own.step, self, args, kwargs, "sample") if leg.latents is None else leg.latents
            raise Reached
        given = [_argument(own.step, self, args, kwargs, name) for name in ("model_output", "timestep", "sample")]
        return leg.step(*given)

    def scale_model_input(self: Any, sample: Tensor, timestep: Any = None) -> Tensor:
        del timestep
        if isinstance(leg, Probe) or not hasattr(self, "precondition_inputs"):
            return sample
        i = leg.start if leg.trajectory is None else leg.trajectory.i
        scale, sigma = float(leg.path.scale[i]), float(leg.path.sigma[i] * leg.path.scale[i])
        return sample * (scale / (sigma**2 + leg.path.sigma_data**2) ** 0.5)

    def add_noise(self: Any, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        del self
        if isinstance(leg, Probe):
            leg.noised = True
            return original_samples.expand_as(noise)
        if len(timesteps.flatten()) == 0:  # a decode shows none
            return original_samples
        path = leg.path
        at = (path.timesteps.double() - float(timesteps.flatten()[0])).abs().argmin()
        return float(path.alpha[at]) * original_samples + float(path.sigma[at]) * noise

    def scale_noise(self: Any, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        return add_noise(self, sample, noise, timestep)

    namespace: dict[str, Any] = {
        "__module__": own.__module__,
        "__doc__": own.__doc__,
        "set_timesteps": set_timesteps,
        "step": step,
        "init_noise_sigma": 1.0,
    }
    ours: dict[str, Any] = {
        "scale_model_input": scale_model_input,
        "add_noise": add_noise,
        "scale_noise": scale_noise,
    }
    for name, method in ours.items():
        if hasattr(own, name):
            namespace[name] = functools.wraps(getattr(own, name))(method)
    clone = copy.copy(scheduler)
    clone.__dict__.pop("init_noise_sigma", None)
    clone.__class__ = type(own.__name__, (own,), namespace)
    return clone


def visible(leg: Leg) -> Tensor:
    """The timesteps that the pipeline gets to see: one past the level wanted, if there is, where it is stopped.

    An inpainting pipeline noises its edit to the timestep after the one at hand, so that has to be there.
    """
    if leg.trajectory is None:
        return leg.path.timesteps[:0]
    levels = [leg.start, *leg.trajectory.levels]
    return leg.path.timesteps[levels if leg.until < leg.path.steps else levels[:-1]]


def _argument(function: Any, self: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    bound = inspect.signature(function).bind_partial(self, *args, **kwargs).arguments
    if name not in bound:
        raise ValueError(
            f"the pipeline calls its scheduler's step without {name}; it keeps more than one state or has a step of "
            "its own, so it cannot be searched"
        )
    return bound[name]
