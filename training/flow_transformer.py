"""The flow model: a Flux transformer over packed latents, and the two text encoders it reads, trained together."""

from functools import partial
from pathlib import Path

import flow_matching
import tokens
import torch
from autoencoder import encode
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from latents import examples
from loop import Plan, averaged_weights
from shapes_data import pictures
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

HEADS, HEAD_WIDTH = 5, 32
TEXT_WIDTH = 128
SIDE = 4  # tokens along the side of a picture, each 2x2 latents of 8 channels


class FlowTransformer(nn.Module):
    """Packed noisy latents (N, 16, 32), times (N,) in [0, 1] and tokens to the velocity (N, 16, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = FluxTransformer2DModel(
            in_channels=32,
            num_layers=2,
            num_single_layers=6,
            attention_head_dim=HEAD_WIDTH,
            num_attention_heads=HEADS,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=TEXT_WIDTH,
            axes_dims_rope=(8, 12, 12),
        )
        self.clip = CLIPTextModel(CLIPTextConfig(**tokens.clip_text(TEXT_WIDTH, layers=1, expansion=2)))
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(tokens.t5_tokenizer()),
                d_model=TEXT_WIDTH,
                d_kv=32,
                d_ff=4 * TEXT_WIDTH,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                relative_attention_max_distance=tokens.T5_TOKENS,
                dropout_rate=0.0,
            )
        )

    def forward(self, noisy: Tensor, times: Tensor, prompts: dict[str, Tensor]) -> Tensor:
        """Predict the velocity from data to noise."""
        text = self.t5(prompts["t5"]).last_hidden_state
        grid = FluxPipeline._prepare_latent_image_ids(len(noisy), SIDE, SIDE, noisy.device, noisy.dtype)
        return self.transformer(
            hidden_states=noisy,
            timestep=times,
            encoder_hidden_states=text,
            pooled_projections=self.clip(prompts["clip"]).pooler_output,
            img_ids=grid,
            txt_ids=torch.zeros(text.shape[1], 3, device=noisy.device),
            return_dict=False,
        )[0]


def tokenize(captions: list[str]) -> dict[str, list[list[int]]]:
    """Token numbers of captions, for both text encoders."""
    return {
        "clip": tokens.encode(tokens.tokenizer(), captions),
        "t5": tokens.encode(tokens.t5_tokenizer(), captions),
    }


def fit(
    model: FlowTransformer, plan: Plan, checkpoint: Path, autoencoder: AutoencoderKL, compiled: bool = False
) -> None:
    """Train on a set of latents encoded once."""
    latents, captions = examples(
        checkpoint.with_name("latents.safetensors"),
        plan.seed + 1000,  # others than those the autoencoder was trained on
        partial(pictures, most_relations=2),
        autoencoder,
        encode,
        tokenize,
    )
    empty = {name: torch.tensor(rows) for name, rows in tokenize([""]).items()}
    flow_matching.fit(model, plan, checkpoint, pack(latents), captions, empty, compiled)


def restore(model: FlowTransformer, folder: Path) -> None:
    """Take over the weights of a finished pipeline."""
    pipeline = FluxPipeline.from_pretrained(folder)
    for own, part in (("transformer", "transformer"), ("clip", "text_encoder"), ("t5", "text_encoder_2")):
        getattr(model, own).load_state_dict(getattr(pipeline, part).state_dict())


def pack(latents: Tensor) -> Tensor:
    """Latents (N, 8, 8, 8) as the transformer's tokens (N, 16, 32)."""
    return FluxPipeline._pack_latents(latents, *latents.shape)


def load(checkpoint: Path) -> FlowTransformer:
    """The trained model."""
    model = FlowTransformer()
    model.load_state_dict(averaged_weights(checkpoint), strict=False)  # T5 ties two names to one embedding
    return model.eval().requires_grad_(False)
