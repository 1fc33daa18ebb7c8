"""HPSv2.1: which picture people prefer for a prompt.

Wu et al., "Human Preference Score v2: A Solid Benchmark for Evaluating Human Preferences of Text-to-Image Synthesis",
2023, arXiv:2306.09341. The published package pins pytest, lacks a file, and reads its checkpoint anew for each call;
here the same weights are put into a CLIP of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evosearch.checks import dtype_of, samples_and_prompts, whole_number
from evosearch.rewards.cache import identity
from evosearch.rewards.checkpoints import config_of, fill, tensors, tokenizer_of
from evosearch.rewards.clip import Clip, device_of
from evosearch.rewards.facts import CLIP_TOKENIZER, Facts, Source
from evosearch.rewards.pixels import eight_bit, normalised
from evosearch.rewards.places import locate
from evosearch.rewards.weights import Weights

_FILE = "HPS_v2.1_compressed.pt"
FACTS = Facts(
    "-1 to 1, most at 0.2 to 0.35",
    "Apache-2.0",
    "a prompt",
    (
        Source("xswu/HPSv2", 3.9e9, (_FILE,)),
        Source("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 4e6, ("config.json", *CLIP_TOKENIZER)),
    ),
)
_NAMES = (
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding", "visual.conv1"),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm", "visual.ln_pre"),
    ("vision_model.post_layernorm", "visual.ln_post"),
    ("visual_projection.weight", "visual.proj"),
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.embeddings.", ""),
    ("text_model.final_layer_norm", "ln_final"),
    ("text_projection.weight", "text_projection"),
    ("self_attn.out_proj", "attn.out_proj"),
    ("layer_norm", "ln_"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)
"""Parts of transformers' names of weights, and open_clip's."""


class Hps:
    """Human preference for a picture given its prompt, by a CLIP ViT-H/14 trained on people's choices.

    Checkpoint: ``HPS_v2.1_compressed.pt`` of ``xswu/HPSv2``, Apache-2.0 licence. The score is a cosine, about 0.2 to
    0.35; scores of different prompts, and of versions 2.0 and 2.1, do not compare. Differentiable in the samples. A
    video has the mean of its frames. Pictures are resized to 224 pixels along the long side, bicubic with antialias
    as torchvision has it since 0.17, and set on black, so all of a wide picture is seen; of a prompt, the first 75
    tokens are read.

    Args:
        model: A local path of the checkpoint, or a folder or a hub id that has it under its published name.
        base: A local folder or a hub id of the CLIP that it was trained from, for its config and tokenizer.
        device: Where it computes; None: the GPU if there is one.
        dtype: Of the model; scores are float32.
        batch_size: Pictures at a time, frames of videos among them.

    Raises:
        ValueError: The checkpoint, the config or the tokenizer cannot be had, or they do not fit.
    """

    differentiable = True

    def __init__(
        self,
        model: str | Path = "xswu/HPSv2",
        base: str | Path = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.float32,
        batch_size: int = 32,
    ) -> None:
        whole_number("batch_size", batch_size, least=1)
        self.device, dtype = device_of(device), dtype_of(dtype)
        FACTS.check(model, base)

        def load() -> Clip:
            path = locate(model, _FILE)
            config = _config(base)
            tokenizer = tokenizer_of(base, config.text_config.vocab_size)
            made = _clip(tensors(path, "state_dict"), config, path).to(dtype)
            side: int = config.vision_config.image_size
            return Clip(made, lambda frames: normalised(contained(frames, side)), self.device, batch_size, tokenizer)

        self.weights = Weights(load)

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`."""
        return identity("hps", self.weights().model, words=self.weights().words)

    def __call__(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """Score samples against their prompts.

        Args:
            samples: (N, 3, H, W) or (N, F, 3, H, W) in [0, 1], rounded to 8 bits.
            prompts: N of them.

        Returns:
            (N,) float32; NaN for a sample that holds NaN or infinity.

        Raises:
            ValueError: `samples` is not of that shape, or has another number of prompts.
        """
        samples_and_prompts(samples, prompts)
        return self.weights().cosines(samples, prompts).mean(1).to(samples.device)


def contained(frames: Tensor, side: int) -> Tensor:
    """The long side resized to ``side``, in the middle of a black square.

    Of tensors, as it is published: nothing is rounded to 8 bits after the resize, or cut off at 0 and 1.

    Args:
        frames: (N, 3, H, W) in [0, 1], rounded to 8 bits first.
        side: Of the square, in pixels.
    """
    *_, height, width = frames.shape
    scale = side / max(height, width)
    height, width = (max(1, round(length * scale)) for length in (height, width))
    pixels = eight_bit(frames)
    if pixels.shape[-2:] != (height, width):
        pixels = functional.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    left, top = (side - width) // 2, (side - height) // 2
    return functional.pad(pixels, (left, side - width - left, top, side - height - top))


def _config(base: str | Path) -> Any:
    from transformers import CLIPConfig

    described = config_of(base, needed=("text_config", "vision_config"))
    for part in ("text_config", "vision_config"):
        described[part] = {**described[part], "hidden_act": "gelu"}  # open_clip's; CLIPConfig's is its quick form
    return CLIPConfig(**described)


def _clip(weights: Mapping[str, Tensor], config: Any, source: Path) -> Any:
    from transformers import CLIPModel
    from transformers.initialization import no_init_weights

    with no_init_weights():  # random numbers for a billion weights would take half a minute
        made: Any = CLIPModel(config)
    fill(made, _split(weights), source, _published)
    return made.eval().requires_grad_(False)


def _published(name: str) -> str:
    """Open_clip's name of a weight of transformers'; a third of one is called ``in_proj_weight[q]``."""
    for ours, theirs in _NAMES:
        name = name.replace(ours, theirs)
    return re.sub(r"self_attn\.([qkv])_proj\.(weight|bias)$", r"attn.in_proj_\2[\1]", name)


def _split(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Open_clip's weights in the shapes of transformers'."""
    found = dict(weights)
    for name, weight in weights.items():
        if name.endswith(("in_proj_weight", "in_proj_bias")):
            found |= {f"{name}[{part}]": third for part, third in zip("qkv", weight.chunk(3), strict=True)}
        elif name in ("visual.proj", "text_projection"):
            found[name] = weight.T
    return found
