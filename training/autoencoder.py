"""The autoencoder: 64x64 pictures to 8x8 latents of 8 channels."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from loop import Plan, ahead, averaged_weights, half, train
from shapes_data import pictures
from torch import Tensor, nn

KL_WEIGHT = 3e-4


def build() -> AutoencoderKL:
    """An untrained autoencoder; most channels sit at the coarse levels, where they cost little."""
    channels = (16, 32, 64, 96)
    model = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
        scaling_factor=1.0,
    )
    # Quiet latents to begin with: at the default log-variance of 0 the decoder learns to ignore them.
    nn.init.constant_(model.quant_conv.bias[8:], -5.0)
    return model


def fit(model: nn.Module, plan: Plan, checkpoint: Path, draw: Callable[[int], Tensor], bfloat16: bool = False) -> None:
    """Train on fresh samples: pixel and edge errors, and a light pull of the latents to a normal.

    Args:
        model: An autoencoder of pictures or of clips, on its device.
        plan: When to stop and how fast to learn.
        checkpoint: Where the stage keeps its weights.
        draw: Step number to samples, (N, 3, ..., 64, 64) in [-1, 1].
        bfloat16: Whether to compute in bfloat16.
    """
    device = next(model.parameters()).device

    def loss(samples: Tensor) -> dict[str, Tensor]:
        samples = samples.to(device)
        with half(device, bfloat16):
            posterior = model.encode(samples).latent_dist
            decoded = model.decode(posterior.sample()).sample
        pixels, edges = errors(decoded.float(), samples)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": pixels + edges + KL_WEIGHT * kl, "pixels": pixels, "edges": edges, "kl": kl}

    train(model, loss, draw, plan, checkpoint)


def draw(seed: int, step: int, batch: int = 16) -> Tensor:
    """Fresh pictures, (batch, 3, 64, 64), their channels last in memory."""
    return pictures(seed, step * batch, batch)[0]


def errors(decoded: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Errors of pixels and of edges, of pictures or clips, (N, 3, ..., H, W)."""
    error = decoded - images
    # Without more weight on coloured pixels, and squares to pull from afar, L1 settles on empty pictures.
    weight = 1 + 4 * (images.amax(dim=1, keepdim=True) - images.amin(dim=1, keepdim=True))
    pixels = (weight * (error.abs() + 4 * error.square())).mean()
    return pixels, error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def restore(model: AutoencoderKL, folder: Path) -> None:
    """Take over the weights of a finished pipeline."""
    model.load_state_dict(AutoencoderKL.from_pretrained(folder / "vae").state_dict())


def load(checkpoint: Path, device: torch.device, folder: Path) -> AutoencoderKL:
    """The trained autoencoder, its latents normalised to mean 0 and deviation 1 in each channel.

    Without a checkpoint it is that of the finished pipeline in the folder.
    """
    if not checkpoint.exists():
        return AutoencoderKL.from_pretrained(folder / "vae").eval().requires_grad_(False).to(device)
    model = build()
    model.load_state_dict(averaged_weights(checkpoint))
    model.eval().requires_grad_(False).to(device)
    means = torch.cat([encode(model, images) for images in _sample(count=32)])
    _normalise(model, means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3)))
    return model


def encode(model: AutoencoderKL, images: Tensor) -> Tensor:
    """Mean latents of pictures in [-1, 1], (N, 8, 8, 8)."""
    with torch.inference_mode():
        return model.encode(images.to(model.device)).latent_dist.mean


def _sample(count: int) -> list[Tensor]:
    """Batches of pictures for the latents' statistics, the same ones always."""
    batches = ahead(lambda step: pictures(seed=1, start=step * 64, count=64)[0], 0)
    return [next(batches) for _ in range(count)]


@torch.no_grad()
def _normalise(model: AutoencoderKL, mean: Tensor, deviation: Tensor) -> None:
    """Fold (z - mean) / deviation into the 1x1 convolutions around the latents.

    Stable Diffusion's pipeline knows one scaling factor for all channels, and no shift.
    """
    into, out_of = model.quant_conv, model.post_quant_conv
    into.bias[: len(mean)] -= mean
    into.bias[len(mean) :] -= 2 * deviation.log()  # the posterior's log-variance
    into.weight[: len(mean)] /= deviation[:, None, None, None]
    into.bias[: len(mean)] /= deviation
    out_of.bias += (out_of.weight[:, :, 0, 0] @ mean[:, None]).squeeze(1)
    out_of.weight *= deviation[None, :, None, None]
