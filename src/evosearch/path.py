"""The noise path: where each level lies between noise and data, and the one step that all models share.

A state at level i is x = alpha_i x0 + sigma_i eps. Diffusion and flow differ in the numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# Their output is not a velocity, a noise or a clean state at one level, so no (x0, eps) follows from it.
_UNSEARCHABLE = ("FlowMap", "KDPM2", "DPMSolverSDE", "SCM", "IPNDM", "Inverse", "RePaint", "UnCLIP", "Wuerstchen")


@dataclass(frozen=True)
class NoisePath:
    """A grid of noise levels, from pure noise (level 0) to finished (level ``steps``).

    Attributes:
        alpha: Share of the clean state, (steps+1,) float64, not falling.
        sigma: Share of noise, (steps+1,) float64, falling.
        prediction: What the model predicts: ``epsilon``, ``v``, ``sample``, ``flow`` or ``edm``.
        timesteps: What the model is told at each level, (steps,).
        scale: The scheduler's own state is scale_i times x, (steps+1,); 1 but for variance-exploding ones.
        order: 1, or 2 for DPM-Solver++ 2M.
        first_order_last: With order 2, whether the last step is of first order nevertheless.
        sigma_data: For ``edm``, the spread of the data.
        clip: Bound on abs(x0), where the scheduler clips.
        dynamic_ratio: Quantile of abs(x0) for dynamic thresholding, where the scheduler does that.
    """

    alpha: Tensor
    sigma: Tensor
    prediction: str
    timesteps: Tensor
    scale: Tensor
    order: int = 1
    first_order_last: bool = True
    sigma_data: float = 1.0
    clip: float | None = None
    dynamic_ratio: float | None = None

    @property
    def steps(self) -> int:
        """Number of intervals."""
        return len(self.alpha) - 1

    @classmethod
    def flow(cls, steps: int, shift: float = 1.0) -> NoisePath:
        """Straight path of rectified flow, alpha = 1 - sigma, with the usual time shift.

        >>> NoisePath.flow(4).sigma.tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
        """
        sigma = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        sigma = shift * sigma / (1 + (shift - 1) * sigma)
        return cls(1 - sigma, sigma, "flow", sigma[:-1] * 1000, torch.ones_like(sigma))

    @classmethod
    def cosine(cls, steps: int) -> NoisePath:
        """Variance-preserving path on a quarter circle, alpha² + sigma² = 1."""
        angle = torch.linspace(math.pi / 2, 0, steps + 1, dtype=torch.float64)
        alpha, sigma = angle.cos(), angle.sin()
        alpha[0], sigma[-1] = 0, 0
        return cls(alpha, sigma, "v", angle[:-1] / (math.pi / 2) * 1000, torch.ones_like(sigma))

    @classmethod
    def from_scheduler(cls, scheduler: Any, order: int | None = None) -> NoisePath:
        """Read the grid from a diffusers scheduler on which ``set_timesteps`` has been called.

        Args:
            scheduler: The scheduler.
            order: 1 or 2; by default 2 for DPMSolverMultistep of second order or higher, whose own step it is, else 1.

        Raises:
            ValueError: The scheduler's model output gives no (x0, eps).
        """
        name, config = type(scheduler).__name__, scheduler.config
        if any(word in name for word in _UNSEARCHABLE):
            raise ValueError(
                f"scheduler must predict noise, velocity or the clean state on a fixed grid, got {name}, which does "
                "not; give the pipeline another, for instance "
                "pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)"
            )
        alpha, sigma, scale, prediction = _grid(scheduler)
        timesteps = torch.as_tensor(scheduler.timesteps).cpu()
        # Heun and PNDM name a level twice, some end on it twice; an interval of no length is no step.
        moves = (alpha.diff() != 0) | (sigma.diff() != 0)
        new = torch.cat([torch.ones(1, dtype=torch.bool), moves])
        steps = int(moves.sum())
        if not ((alpha[new].diff() >= 0) & (sigma[new].diff() < 0)).all():
            raise ValueError(
                f"scheduler must lead from noise to data, sigma falling at every step, but {name} has sigma = "
                f"{[round(s, 4) for s in sigma[new].tolist()]} in {steps} steps; ask for more, or change its config"
            )
        multistep = name.startswith("DPMSolverMultistep") and getattr(config, "solver_order", 1) > 1
        # Some take the options over from DDIM and heed neither.
        heeds = hasattr(scheduler, "_threshold_sample")
        clips, thresholds = (heeds and bool(getattr(config, k, False)) for k in ("clip_sample", "thresholding"))
        if order not in (None, 1, 2):
            raise ValueError(f"order must be 1 or 2, got {order}")
        return cls(
            alpha=alpha[new],
            sigma=sigma[new],
            scale=scale[new],
            prediction=prediction,
            timesteps=timesteps[moves],
            order=order or (2 if multistep else 1),
            first_order_last=not multistep
            or config.final_sigmas_type == "zero"
            or config.euler_at_final
            or (config.lower_order_final and steps < 15),
            sigma_data=float(getattr(config, "sigma_data", None) or 1.0),
            clip=float(getattr(config, "sample_max_value" if thresholds else "clip_sample_range", 1.0))
            if clips or thresholds
            else None,
            dynamic_ratio=float(config.dynamic_thresholding_ratio) if thresholds else None,
        )

    def cut(self, start: int, until: int) -> NoisePath:
        """The stretch from one level to another, as a path of its own."""
        return self.at(range(start, until + 1))

    def at(self, levels: Sequence[int]) -> NoisePath:
        """Some of the levels, increasing, as a path of their own."""
        where = list(levels)
        return replace(
            self,
            alpha=self.alpha[where],
            sigma=self.sigma[where],
            scale=self.scale[where],
            timesteps=self.timesteps[where[:-1]],
        )

    def split(self, x: Tensor, output: Tensor, i: int) -> tuple[Tensor, Tensor | None]:
        """What the model's output at level i says of x: (x0, eps).

        eps is None where it follows from x and x0: unless the scheduler clips x0, and in DPM-Solver++ (order 2) even
        then.

        Args:
            x: States at level i, (N, *D).
            output: The model's output, (N, *D), or (N, 2C, ...) where the model learns variances, too.
            i: Level.
        """
        a, s = float(self.alpha[i]), float(self.sigma[i])
        output = output.float()
        if output.ndim > 1 and output.shape[1] == 2 * x.shape[1]:
            output = output.chunk(2, dim=1)[0]
        match self.prediction:
            case "epsilon":
                if a == 0:
                    raise ValueError(
                        "the model predicts epsilon and level 0 is pure noise (alpha = 0), which says nothing of x0; "
                        "use a scheduler without rescale_betas_zero_snr"
                    )
                x0 = (x - s * output) / a
            case "v":
                x0 = a * x - s * output
            case "sample":
                x0 = output
            case "flow":
                x0 = x - s * output
            case "flow to data":
                x0 = x + s * output
            case "edm":
                x0 = self._edm_x0(x, output, i)
            case "edm v":
                x0 = self._edm_x0(x, -output, i)
            case _:
                raise ValueError(f"prediction must be epsilon, v, sample, flow or edm, got {self.prediction!r}")
        if self.clip is None:
            return x0, None
        return self._clipped(x0), None if self.order == 2 else (x - a * x0) / s

    def eps(self, x: Tensor, x0: Tensor, i: int) -> Tensor:
        """The noise in x, given x0, (N, *D)."""
        return (x - float(self.alpha[i]) * x0) / float(self.sigma[i])

    def step(
        self,
        x: Tensor,
        x0: Tensor,
        i: int,
        *,
        to: int | None = None,
        eta: float = 0.0,
        noise: Tensor | None = None,
        eps: Tensor | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        """One step, from level i to i+1 or further, of any model.

        With t the level now and s the next, tau = eta sigma_s sqrt(1 - (alpha_t sigma_s / (alpha_s sigma_t))²) and
        x_s = alpha_s x0 + sqrt(sigma_s² - tau²) eps + tau z. That is DDIM for diffusion and Euler for flow at eta 0,
        ancestral sampling at eta 1; with ``memory`` and order 2, DPM-Solver++ 2M (Lu et al., 2022) and its SDE form.

        Args:
            x: States at level i, (N, *D).
            x0: Predicted clean states, (N, *D).
            i: Level, below ``steps``.
            to: Level to reach; i+1 by default.
            eta: 0 = ODE, 1 = ancestral SDE.
            noise: Unit Gaussian z, (N, *D); needed where ``tau`` is above 0.
            eps: Predicted noise where it does not follow from x and x0.
            memory: x0 one level before.

        Returns:
            States at the level reached, (N, *D).
        """
        to = i + 1 if to is None else to
        if self.order == 2 and memory is not None and to == i + 1:
            x0, eps = x0 + self._extrapolation(i) * (x0 - memory), None
        a, s, tau = float(self.alpha[to]), float(self.sigma[to]), self.tau(i, eta, to)
        kept = math.sqrt(max(s * s - tau * tau, 0.0))
        if eps is not None:
            mean = a * x0 + kept * eps
        else:  # the same with eps = (x - alpha x0) / sigma written out, which rounds less
            share = kept / float(self.sigma[i])
            mean = share * x + (a - share * float(self.alpha[i])) * x0
        if tau == 0:
            return mean
        if noise is None:
            raise ValueError(f"noise must be given where eta is above 0 (eta = {eta}, level {i})")
        return mean + tau * noise

    def tau(self, i: int, eta: float, to: int | None = None) -> float:
        """Spread of the fresh noise in the step from level i to i+1, or further."""
        to = i + 1 if to is None else to
        a, t, b, s = (float(v) for v in (self.alpha[i], self.sigma[i], self.alpha[to], self.sigma[to]))
        return eta * s * math.sqrt(max(1 - (a * s / (b * t)) ** 2, 0.0))

    def renoise(self, x: Tensor, i: int, level: int, noise: Tensor) -> Tensor:
        """Take states from level i back to a noisier one by the forward process.

        Args:
            x: States at level i, (N, *D).
            i: Level now.
            level: Level wanted, at most i.
            noise: Unit Gaussian, (N, *D).
        """
        if not 0 <= level <= i:
            raise ValueError(f"level must be from 0 to the population's own {i}, got {level}")
        ratio = float(self.alpha[level] / self.alpha[i]) if level < i else 1.0
        spread = math.sqrt(max(float(self.sigma[level] ** 2) - (ratio * float(self.sigma[i])) ** 2, 0.0))
        return ratio * x + spread * noise

    def _edm_x0(self, x: Tensor, output: Tensor, i: int) -> Tensor:
        # Karras et al. (2022), table 1, with x in our units: the scheduler's own state is scale * x.
        s, d = float(self.sigma[i] * self.scale[i]), self.sigma_data
        total = s * s + d * d
        return d * d / total * float(self.scale[i]) * x + s * d / math.sqrt(total) * output

    def _clipped(self, x0: Tensor) -> Tensor:
        assert self.clip is not None
        if self.dynamic_ratio is None:
            return x0.clamp(-self.clip, self.clip)
        # Saharia et al. (2022), section 2.3
        bound = torch.quantile(x0.flatten(1).abs(), self.dynamic_ratio, dim=1).clamp(1, self.clip)
        bound = bound.view(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-bound, bound) / bound

    def _extrapolation(self, i: int) -> float:
        # Lu et al. (2022), equation 12: half the ratio of this step to the last, in log-SNR.
        if self.sigma[i + 1] == 0 or (i + 1 == self.steps and self.first_order_last):
            return 0.0
        now, here, before = (float(torch.log(self.alpha[k] / self.sigma[k])) for k in (i + 1, i, i - 1))
        return (now - here) / (2 * (here - before))


def _grid(scheduler: Any) -> tuple[Tensor, Tensor, Tensor, str]:
    """alpha, sigma and scale, (steps+1,), and the kind of prediction."""
    name, config = type(scheduler).__name__, scheduler.config
    flows = "FlowMatch" in name or "EulerAncestralRF" in name or getattr(config, "use_flow_sigmas", False)
    kinds = {
        "epsilon": "epsilon", "v_prediction": "v", "sample": "sample", "original_sample": "sample",
        "flow_prediction": "flow",
    }  # fmt: skip
    given = getattr(config, "prediction_type", "flow_prediction" if flows else None)
    if given not in kinds:
        raise ValueError(f"scheduler.config.prediction_type must be one of {', '.join(kinds)}; {name} has {given!r}")
    prediction = kinds[given]
    if getattr(scheduler, "sigmas", None) is None:
        return *_variance_preserving(scheduler), prediction
    sigma = torch.as_tensor(scheduler.sigmas).double().cpu()
    one = torch.ones_like(sigma)
    if hasattr(scheduler, "precondition_outputs"):
        exploding = (1 + sigma**2).sqrt()
        return 1 / exploding, sigma / exploding, exploding, "edm" if prediction == "epsilon" else "edm v"
    if flows:
        if getattr(config, "invert_sigmas", False):
            return sigma, 1 - sigma, one, "flow to data"
        return 1 - sigma, sigma, one, "flow" if prediction == "flow" else prediction
    exploding = (1 + sigma**2).sqrt()
    native = one if hasattr(scheduler, "_sigma_to_alpha_sigma_t") else exploding
    return 1 / exploding, sigma / exploding, native, prediction


def _variance_preserving(scheduler: Any) -> tuple[Tensor, Tensor, Tensor]:
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"scheduler must have sigmas or alphas_cumprod to read a noise path from, got {type(scheduler).__name__}; "
            "this pipeline cannot be searched with it"
        )
    cumprod = scheduler.alphas_cumprod.double().cpu()
    timesteps = torch.as_tensor(scheduler.timesteps).cpu().long()
    after = int(timesteps[-1]) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    if after >= 0 and not hasattr(scheduler, "previous_timestep"):  # who has that goes from timestep to timestep
        last = cumprod[after]
    else:
        last = torch.as_tensor(getattr(scheduler, "final_alpha_cumprod", 1.0)).double().cpu()
    squares = torch.cat([cumprod[timesteps], last.reshape(1)])
    return squares.sqrt(), (1 - squares).sqrt(), torch.ones_like(squares)
