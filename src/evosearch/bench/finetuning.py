"""What a search is set against: a small model of the toy mixture, trained on until the reward likes what it draws.

Both trainings go past their optimum: the reward rises while what is drawn leaves the target.

- `ddpo`: Black, Janner, Du, Kostrikov, Levine (2024), "Training Diffusion Models with Reinforcement Learning",
  arXiv:2305.13301, with its score-function estimator.
- `backpropagation`: Clark, Vicol, Swersky, Fleet (2024), "Directly Fine-Tuning Diffusion Models on Differentiable
  Rewards", arXiv:2309.17400, through all steps.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from evosearch.models.toy import GaussianMixture
from evosearch.path import NoisePath

Judge = Callable[[Tensor], Tensor]
"""A reward: (N, 2) to (N,)."""

BATCH = 256
_HARMONICS = 6  # of the noise level's angle, 0 to pi/2


class Denoiser(nn.Module):
    """A multilayer perceptron that predicts x0, (N, 2), from x = alpha x0 + sigma eps.

    Args:
        spread: Root mean square of the data, a coordinate.
        width: Of its hidden layers.
    """

    def __init__(self, spread: float, width: int = 128) -> None:
        super().__init__()
        sizes = (2 + 2 * _HARMONICS, width, width, width)
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 2))
        self.spread = spread

    def forward(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Predictions (N, 2) from states (N, 2); alpha and sigma are numbers or (N, 1)."""
        a, s = (torch.as_tensor(v, dtype=x.dtype).expand(len(x), 1) for v in (alpha, sigma))
        angle = torch.atan2(s, a) * torch.arange(1, _HARMONICS + 1)
        scaled = x / (a.square() * self.spread**2 + s.square()).sqrt()
        return self.spread * self.layers(torch.cat([scaled, angle.sin(), angle.cos()], 1))


@functools.cache
def pretrained(mixture: GaussianMixture, updates: int = 2000) -> Denoiser:
    """One that has learnt the mixture; the same at every call, so copy it before you change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Denoiser(float(mixture.sample(10_000).square().mean().sqrt()))
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
        for _ in range(updates):
            x0, angle = mixture.sample(2 * BATCH), torch.rand(2 * BATCH, 1) * torch.pi / 2
            x = angle.cos() * x0 + angle.sin() * torch.randn_like(x0)
            _descend(optimiser, (model(x, angle.cos(), angle.sin()) - x0).square().mean())
            schedule.step()
    return model


def trajectory(model: Denoiser, path: NoisePath, n: int, generator: torch.Generator) -> list[Tensor]:
    """States (n, 2) at all levels, by the ancestral SDE."""
    states = [torch.randn(n, 2, generator=generator)]
    for i in range(path.steps):
        x0 = model(states[-1], float(path.alpha[i]), float(path.sigma[i]))
        states.append(path.step(states[-1], x0, i, eta=1.0, noise=torch.randn(n, 2, generator=generator)))
    return states


def ddpo(model: Denoiser, path: NoisePath, reward: Judge, generator: torch.Generator) -> Tensor:
    """The policy-gradient loss of a batch: a step is an action, the likelier the better its sample turned out."""
    with torch.no_grad():
        states = trajectory(model, path, BATCH, generator)
        value = reward(states[-1])
    advantage, log_p = (value - value.mean()) / value.std(), torch.zeros(BATCH)
    for i, (x, after) in enumerate(pairwise(states)):
        if (tau := path.tau(i, 1.0)) > 0:
            x0 = model(x, float(path.alpha[i]), float(path.sigma[i]))
            mean = path.step(x, x0, i, eta=1.0, noise=torch.zeros_like(x))
            log_p = log_p - (after - mean).square().sum(1) / (2 * tau**2)
    return -(advantage * log_p).mean() / path.steps


def backpropagation(model: Denoiser, path: NoisePath, reward: Judge, generator: torch.Generator) -> Tensor:
    """Minus the mean reward of a batch, whose gradient goes through all steps."""
    return -reward(trajectory(model, path, BATCH, generator)[-1]).mean()


METHODS = {"DDPO": ddpo, "reward backpropagation": backpropagation}


def finetune(
    method: str, mixture: GaussianMixture, path: NoisePath, reward: Judge, updates: int, generator: torch.Generator
) -> Iterator[Denoiser]:
    """Train a copy of the pre-trained model for a reward; yields it before the first update and after each."""
    model = copy.deepcopy(pretrained(mixture))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.0)
    yield model
    for _ in range(updates):
        _descend(optimiser, METHODS[method](model, path, reward, generator))
        yield model


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
