"""The denoiser: a UNet over the latents and the text encoder it reads, trained together."""

from pathlib import Path

import numpy as np
import tokens
import torch
from autoencoder import encode
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from latents import examples
from loop import Plan, averaged_weights, half, train
from shapes_data import pictures
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

BATCH = 64
EMPTY_CAPTIONS = 0.12
WIDTH = 96
TEXT_WIDTH = 128


def scheduler() -> DDIMScheduler:
    """The noise of training and sampling: cosine, down to no signal at all.

    Latents of 8x8 have little redundancy, so the linear schedule of larger models would drown them too early.
    """
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        set_alpha_to_one=True,
        clip_sample=False,
        steps_offset=1,  # no effect on trailing timesteps; the pipeline warns about any other value
    )


class Denoiser(nn.Module):
    """Noisy latents (N, 8, 8, 8), timesteps (N,) and caption tokens (N, 32) to the velocity (N, 8, 8, 8)."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=8,
            block_out_channels=(width,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            layers_per_block=1,
            norm_num_groups=16,
            attention_head_dim=4,
            cross_attention_dim=TEXT_WIDTH,
        )
        self.text_encoder = CLIPTextModel(CLIPTextConfig(**tokens.clip_text(TEXT_WIDTH, layers=2)))

    def forward(self, noisy: Tensor, timesteps: Tensor, prompts: Tensor) -> Tensor:
        """Predict the velocity."""
        text = self.text_encoder(prompts).last_hidden_state
        return self.unet(noisy, timesteps, text).sample


def fit(
    model: Denoiser,
    plan: Plan,
    checkpoint: Path,
    autoencoder: AutoencoderKL,
    vocabulary: CLIPTokenizer,
    compiled: bool = False,
) -> None:
    """Train on a set of latents encoded once; some captions are emptied, for classifier-free guidance."""
    latents, captions = examples(
        checkpoint.with_name("latents.safetensors"),
        plan.seed + 1000,  # others than those the autoencoder was trained on
        pictures,
        autoencoder,
        encode,
        lambda texts: {"clip": tokens.encode(vocabulary, texts)},
    )
    empty = torch.tensor(tokens.encode(vocabulary, [""]))
    noise = scheduler()
    device = next(model.parameters()).device
    predict = torch.compile(model) if compiled else model

    def batch(step: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng((plan.seed, step))
        rows = torch.from_numpy(rng.integers(len(latents), size=BATCH))
        dropped = torch.from_numpy(rng.random(BATCH) < EMPTY_CAPTIONS)
        # One timestep from each of BATCH equal bins: the loss varies less than with independent ones.
        levels = (np.arange(BATCH) + rng.random(BATCH)) * noise.config["num_train_timesteps"] / BATCH
        return (
            latents[rows].float(),
            torch.from_numpy(levels).long(),
            torch.where(dropped[:, None], empty, captions["clip"][rows].long()),
        )

    def loss(data: tuple[Tensor, ...]) -> dict[str, Tensor]:
        x0, timesteps, prompts = (part.to(device) for part in data)
        eps = torch.randn_like(x0)
        velocity = noise.get_velocity(x0, eps, timesteps)
        with half(device):
            predicted = predict(noise.add_noise(x0, eps, timesteps), timesteps, prompts)
        error = predicted.float() - velocity
        # In terms of x0, velocity weighs errors by 1 / sigma²; five is enough, or faint noise takes over.
        sigma_squared = 1 - noise.alphas_cumprod.to(device)[timesteps]
        squares = error.square().mean(dim=(1, 2, 3))
        return {"loss": (squares * (5 * sigma_squared).clamp(max=1)).mean(), "unweighted": squares.mean()}

    train(model, loss, batch, plan, checkpoint)


def restore(model: Denoiser, folder: Path) -> None:
    """Take over the weights of a finished pipeline."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    model.unet.load_state_dict(pipeline.unet.state_dict())
    model.text_encoder.load_state_dict(pipeline.text_encoder.state_dict())


def load(checkpoint: Path, width: int = WIDTH) -> Denoiser:
    """The trained denoiser."""
    model = Denoiser(width)
    model.load_state_dict(averaged_weights(checkpoint))
    return model.eval().requires_grad_(False)


def pipeline(model: Denoiser, autoencoder: AutoencoderKL) -> StableDiffusionPipeline:
    """The stock pipeline of a trained denoiser."""
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=model.text_encoder,
        tokenizer=tokens.tokenizer(),
        unet=model.unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
