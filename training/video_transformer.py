"""The video flow model: a Wan transformer over latents of clips, and the text encoder it reads, trained together."""

from pathlib import Path

import flow_matching
import tokens
import torch
import video_autoencoder
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from latents import examples
from loop import Plan, averaged_weights
from shapes_data import clips
from torch import Tensor, nn
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

EXAMPLES = 24_000
HEADS, HEAD_WIDTH = 6, 32
TEXT_WIDTH = 128


class VideoTransformer(nn.Module):
    """Noisy latents (N, 16, 3, 8, 8), times (N,) in [0, 1] and tokens to the velocity (N, 16, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=HEADS,
            attention_head_dim=HEAD_WIDTH,
            in_channels=video_autoencoder.CHANNELS,
            out_channels=video_autoencoder.CHANNELS,
            text_dim=TEXT_WIDTH,
            freq_dim=64,
            ffn_dim=4 * HEADS * HEAD_WIDTH,
            num_layers=8,
            rope_max_seq_len=16,
        )
        self.text_encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(tokenizer()),
                d_model=TEXT_WIDTH,
                d_kv=32,
                d_ff=4 * TEXT_WIDTH,
                num_layers=2,
                num_heads=4,
                relative_attention_max_distance=tokens.T5_TOKENS,
                dropout_rate=0.0,
            )
        )

    def forward(self, noisy: Tensor, times: Tensor, prompts: dict[str, Tensor]) -> Tensor:
        """Predict the velocity from data to noise."""
        known = prompts["t5"] != self.text_encoder.config.pad_token_id
        text = self.text_encoder(prompts["t5"], known.long()).last_hidden_state
        return self.transformer(
            hidden_states=noisy,
            timestep=1000 * times,
            encoder_hidden_states=text * known[..., None],  # the pipeline empties what only pads
            return_dict=False,
        )[0]


def tokenizer() -> T5Tokenizer:
    """A tokenizer that knows the words of clips' captions whole."""
    return tokens.t5_tokenizer(tuple(dict.fromkeys((*tokens.WORDS, *tokens.MOTION_WORDS))))


def tokenize(captions: list[str]) -> dict[str, list[list[int]]]:
    """Token numbers of captions."""
    return {"t5": tokens.encode(tokenizer(), captions)}


def fit(
    model: VideoTransformer, plan: Plan, checkpoint: Path, autoencoder: AutoencoderKLWan, compiled: bool = False
) -> None:
    """Train on a set of latents encoded once."""
    latents, captions = examples(
        checkpoint.with_name("latents.safetensors"),
        plan.seed + 1000,  # others than those the autoencoder was trained on
        clips,
        autoencoder,
        video_autoencoder.encode,
        tokenize,
        EXAMPLES,
    )
    empty = {name: torch.tensor(rows) for name, rows in tokenize([""]).items()}
    flow_matching.fit(model, plan, checkpoint, latents, captions, empty, compiled)


def restore(model: VideoTransformer, folder: Path) -> None:
    """Take over the weights of a finished pipeline."""
    pipeline = WanPipeline.from_pretrained(folder)
    model.transformer.load_state_dict(pipeline.transformer.state_dict())
    model.text_encoder.load_state_dict(pipeline.text_encoder.state_dict())


def load(checkpoint: Path) -> VideoTransformer:
    """The trained model."""
    model = VideoTransformer()
    model.load_state_dict(averaged_weights(checkpoint), strict=False)  # UMT5 ties two names to one embedding
    return model.eval().requires_grad_(False)
