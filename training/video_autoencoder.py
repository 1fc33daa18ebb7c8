"""The video autoencoder: clips of 9 frames, 64x64, to 3 latent frames of 8x8 with 16 channels."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from loop import ahead, averaged_weights, half
from shapes_data import clips, pictures
from torch import Tensor, nn

CHANNELS = 16
PATCH = 2


def build(mean: list[float] | None = None, deviation: list[float] | None = None) -> AutoencoderKLWan:
    """An untrained autoencoder of the kind of Wan 2.2: patches of pixels, then two steps that halve space and time.

    Args:
        mean: Of each channel of its latents, which the pipeline subtracts.
        deviation: Of each channel, by which it divides.
    """
    model = AutoencoderKLWan(
        base_dim=24,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        patch_size=PATCH,
        scale_factor_spatial=8,
        latents_mean=mean or [0.0] * CHANNELS,
        latents_std=deviation or [1.0] * CHANNELS,
    )
    # Quiet latents to begin with, as in the autoencoder of pictures.
    nn.init.constant_(model.quant_conv.bias[CHANNELS:], -5.0)
    return model


def stills(seed: int, step: int, batch: int = 32) -> Tensor:
    """Clips of one frame: shapes are learnt from many of them at the cost of a few longer ones."""
    return pictures(seed, step * batch, batch)[0][:, :, None].contiguous()


def films(seed: int, step: int, batch: int = 8) -> Tensor:
    """Whole clips."""
    return clips(seed, step * batch, batch)[0].contiguous()


def restore(model: AutoencoderKLWan, folder: Path) -> None:
    """Take over the weights of a finished pipeline."""
    model.load_state_dict(AutoencoderKLWan.from_pretrained(folder / "vae").state_dict())


def load(checkpoint: Path, device: torch.device, folder: Path) -> AutoencoderKLWan:
    """The trained autoencoder, which knows the mean and deviation of its latents' channels.

    Without a checkpoint it is that of the finished pipeline in the folder.
    """
    if not checkpoint.exists():
        return AutoencoderKLWan.from_pretrained(folder / "vae").eval().requires_grad_(False).to(device)
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
    """Mean latents of clips in [-1, 1], normalised, (N, 16, 3, 8, 8)."""
    with torch.inference_mode(), half(model.device):
        latents = model.encode(videos.to(model.device)).latent_dist.mean.float()
    mean, deviation = (
        torch.tensor(model.config[name], device=latents.device)[:, None, None, None]
        for name in ("latents_mean", "latents_std")
    )
    return (latents - mean) / deviation
