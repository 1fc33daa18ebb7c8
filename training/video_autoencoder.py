"""The video autoencoder: clips of 9 frames, 64x64, to 3 latent frames of 4x4 with 48 channels."""

from pathlib import Path

import torch
from autoencoder import KL_WEIGHT, errors
from diffusers import AutoencoderKLWan
from loop import Plan, ahead, averaged_weights, train
from shapes_data import clips
from torch import Tensor, nn

BATCH = 8
CHANNELS = 48
PATCH = 4


def build(mean: list[float] | None = None, deviation: list[float] | None = None) -> AutoencoderKLWan:
    """An untrained autoencoder of the kind of Wan 2.2: patches of pixels, then two levels that halve space and time.

    Args:
        mean: Of each channel of its latents, which the pipeline subtracts.
        deviation: Of each channel, by which it divides.
    """
    model = AutoencoderKLWan(
        base_dim=32,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        patch_size=PATCH,
        scale_factor_spatial=16,
        latents_mean=mean or [0.0] * CHANNELS,
        latents_std=deviation or [1.0] * CHANNELS,
    )
    # Quiet latents to begin with, as in the autoencoder of pictures.
    nn.init.constant_(model.quant_conv.bias[CHANNELS:], -5.0)
    return model


def fit(model: AutoencoderKLWan, plan: Plan, checkpoint: Path) -> None:
    """Train on fresh clips, as the autoencoder of pictures is trained."""
    device = model.device

    def loss(videos: Tensor) -> dict[str, Tensor]:
        videos = videos.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = model.encode(videos).latent_dist
            decoded = model.decode(posterior.sample()).sample
        pixels, edges = errors(decoded.float(), videos)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": pixels + edges + KL_WEIGHT * kl, "pixels": pixels, "edges": edges, "kl": kl}

    train(model, loss, lambda step: clips(plan.seed, step * BATCH, BATCH)[0].contiguous(), plan, checkpoint)


def restore(model: AutoencoderKLWan, folder: Path) -> None:
    """Take over the weights of a finished pipeline."""
    model.load_state_dict(AutoencoderKLWan.from_pretrained(folder / "vae").state_dict())


def load(checkpoint: Path, device: torch.device) -> AutoencoderKLWan:
    """The trained autoencoder, which knows the mean and deviation of its latents' channels."""
    weights = averaged_weights(checkpoint)
    model = build()
    model.load_state_dict(weights)
    model.eval().requires_grad_(False).to(device)
    batches = ahead(lambda step: clips(seed=1, start=step * 32, count=32)[0], 0)
    latents = torch.cat([encode(model, next(batches)) for _ in range(16)])
    mean, deviation = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    model = build(mean.tolist(), deviation.tolist())
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False).to(device)


def encode(model: AutoencoderKLWan, videos: Tensor) -> Tensor:
    """Mean latents of clips in [-1, 1], normalised, (N, 48, 3, 4, 4)."""
    with torch.inference_mode():
        latents = model.encode(videos.to(model.device)).latent_dist.mean
    mean, deviation = (
        torch.tensor(model.config[name], device=latents.device)[:, None, None, None]
        for name in ("latents_mean", "latents_std")
    )
    return (latents - mean) / deviation
