"""Flow matching: straight paths from data to noise, and a model that predicts the velocity along them."""

from pathlib import Path

import numpy as np
import torch
from loop import Plan, half, train
from torch import Tensor, nn

BATCH = 64
EMPTY_CAPTIONS = 0.12


def fit(
    model: nn.Module,
    plan: Plan,
    checkpoint: Path,
    latents: Tensor,
    captions: dict[str, Tensor],
    empty: dict[str, Tensor],
    compiled: bool = False,
) -> None:
    """Train on latents encoded once; some captions are emptied, for classifier-free guidance.

    Args:
        model: Noisy latents, times (N,) in [0, 1] and tokens to the velocity from data to noise.
        plan: When to stop and how fast to learn.
        checkpoint: Where the stage keeps its weights.
        latents: As the model reads them, (examples, ...).
        captions: Tokens of each example, (examples, length), by tokenizer.
        empty: Tokens of the empty caption, (1, length), by tokenizer.
        compiled: Whether to compile the model.
    """
    device = next(model.parameters()).device
    predict = torch.compile(model) if compiled else model

    def batch(step: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        rng = np.random.default_rng((plan.seed, step))
        rows = torch.from_numpy(rng.integers(len(latents), size=BATCH))
        dropped = torch.from_numpy(rng.random(BATCH) < EMPTY_CAPTIONS)[:, None]
        # Logit-normal times, one from each of BATCH equal parts: the loss varies less than with independent ones.
        parts = torch.from_numpy((np.arange(BATCH) + rng.random(BATCH)) / BATCH).float()
        times = torch.special.ndtri(parts.clamp(1e-4, 1 - 1e-4)).sigmoid()
        prompts = {name: torch.where(dropped, empty[name], all[rows].long()) for name, all in captions.items()}
        return latents[rows].float(), times, prompts

    def loss(data: tuple[Tensor, Tensor, dict[str, Tensor]]) -> dict[str, Tensor]:
        x0, times = data[0].to(device), data[1].to(device)
        prompts = {name: rows.to(device) for name, rows in data[2].items()}
        eps, t = torch.randn_like(x0), times.view(-1, *(1,) * (x0.ndim - 1))
        with half(device):
            velocity = predict((1 - t) * x0 + t * eps, times, prompts)
        return {"loss": (velocity.float() - (eps - x0)).square().mean()}

    train(model, loss, batch, plan, checkpoint)
