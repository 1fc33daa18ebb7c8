"""ImageReward: how people would rate a picture for its prompt.

Xu et al., "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation", 2023,
arXiv:2304.05977. The published package needs transformers 4 and timm 0.6; here its BLIP (Li et al., 2022,
arXiv:2201.12086) is made of transformers' own classes, to the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evosearch.checks import dtype_of, samples_and_prompts, whole_number
from evosearch.rewards.aesthetic import linear_head
from evosearch.rewards.cache import identity
from evosearch.rewards.checkpoints import config_of, fill, tensors, tokenizer_of, weight_of
from evosearch.rewards.clip import device_of
from evosearch.rewards.facts import Facts, Source
from evosearch.rewards.pixels import cropped, finite, normalised
from evosearch.rewards.places import locate
from evosearch.rewards.weights import Weights

_FILE, _CONFIG = "ImageReward.pt", "med_config.json"
FACTS = Facts(
    "most at -2.3 to 2",
    "Apache-2.0",
    "a prompt",
    (
        Source("THUDM/ImageReward", 1.8e9, (_FILE, _CONFIG)),
        Source("google-bert/bert-base-uncased", 1e6, ("config.json|tokenizer_config.json", "tokenizer.json|vocab.txt")),
    ),
)
_SEES, _READS = "blip.visual_encoder.", "blip.text_encoder."
_PUBLISHED = (
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("encoder.layers.", "blocks."),
    ("self_attn.qkv", "attn.qkv"),
    ("self_attn.projection", "attn.proj"),
    ("layer_norm", "norm"),
    ("post_layernorm", "norm"),
)
"""Parts of the names of what sees, transformers' and the checkpoint's; the names of what reads are the same."""
_TEXT = (
    "hidden_act", "hidden_size", "intermediate_size", "layer_norm_eps", "max_position_embeddings",
    "num_attention_heads", "num_hidden_layers", "pad_token_id", "vocab_size",
)  # fmt: skip
_TOKENS = 35  # of a prompt, the first and last of which are marks
_MEAN, _STD = 0.16717362830052426, 1.0333394966054072  # of the rewards of its authors' data


class _Weights(NamedTuple):
    """What sees, what reads, the head on both, and the tokenizer of what reads."""

    sees: Any
    reads: Any
    head: nn.Module
    tokenizer: Any


class ImageReward:
    """Rating that people would give a picture for its prompt, by a BLIP ViT-L/16 trained on their rankings.

    Checkpoint: ``THUDM/ImageReward``, Apache-2.0 licence. Scores have mean 0 and deviation 1 on its authors' data, most
    are at -2.3 to 2. Differentiable in the samples. A video has the mean of its frames. Pictures are resized to 224
    pixels along the short side, bicubic, and cropped to the square in the middle, so what is at the ends of a wide
    picture is not seen; of a prompt, the first 33 tokens are read.

    Args:
        model: A local folder or a hub id of ``ImageReward.pt`` and ``med_config.json``; or the path of the former, with
            the latter beside it.
        tokenizer: A local folder or a hub id of BERT's uncased tokenizer.
        device: Where it computes; None: the GPU if there is one.
        dtype: Of the BLIP; the head and scores are float32.
        batch_size: Pictures at a time, frames of videos among them.

    Raises:
        ValueError: The model or its tokenizer cannot be had.
    """

    differentiable = True

    def __init__(
        self,
        model: str | Path = "THUDM/ImageReward",
        tokenizer: str | Path = "google-bert/bert-base-uncased",
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.float32,
        batch_size: int = 32,
    ) -> None:
        self._batch_size = whole_number("batch_size", batch_size, least=1)
        self.device, dtype = device_of(device), dtype_of(dtype)
        FACTS.check(model, tokenizer)

        def load() -> _Weights:
            path = locate(model, _FILE)
            config = config_of(path.parent if Path(model).is_file() else model, _CONFIG, _TEXT)
            words = tokenizer_of(tokenizer, config["vocab_size"], extra=("[DEC]", "[ENC]"))
            weights = tensors(path)
            blip = _blip(weights, config, path)
            sees, reads = (part.to(self.device, dtype).eval().requires_grad_(False) for part in blip)
            head = linear_head(weights, reads.config.hidden_size, path, prefix="mlp.").to(self.device)
            return _Weights(sees, reads, head, words)

        self.weights = Weights(load)
        self._known: dict[str, Tensor] = {}

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`."""
        *models, tokenizer = self.weights()
        return identity("image_reward", *models, words=tokenizer.get_vocab())

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
        if not len(samples):
            return samples.new_zeros(0, dtype=torch.float32)
        frames = samples.flatten(0, -4)
        tokens = torch.stack([self._tokens(prompt) for prompt in prompts])
        tokens = tokens.repeat_interleave(len(frames) // len(samples), dim=0)
        batches = zip(frames.split(self._batch_size), tokens.split(self._batch_size), strict=True)
        scores = torch.cat([self._score(*batch) for batch in batches]).view(len(samples), -1).mean(1)
        return scores.to(samples.device).masked_fill(~finite(samples), torch.nan)

    def _score(self, frames: Tensor, tokens: Tensor) -> Tensor:
        sees, reads, head, _ = self.weights()
        pixels = normalised(cropped(frames.to(self.device, torch.float32), sees.config.image_size, "torchvision"))
        seen = sees(pixels).last_hidden_state
        ids, mask = tokens.to(self.device).unbind(1)
        read = reads(ids, attention_mask=mask, encoder_hidden_states=seen, is_decoder=False).last_hidden_state
        return (head(read[:, 0].float())[:, 0] - _MEAN) / _STD

    def _tokens(self, prompt: str) -> Tensor:
        """Ids and mask of a prompt, (2, tokens)."""
        if prompt not in self._known:
            found = self.weights().tokenizer(prompt, padding="max_length", truncation=True, max_length=_TOKENS)
            self._known[prompt] = torch.tensor([found["input_ids"], found["attention_mask"]])
        return self._known[prompt]


def _blip(weights: Mapping[str, Tensor], config: Mapping[str, Any], source: Path) -> tuple[Any, Any]:
    """What sees and what reads. The size of the former is in no file; its heads have 64 channels, as all ViTs' have."""
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel
    from transformers.initialization import no_init_weights

    first = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    token, places, patches, inner = (weight_of(weights, f"{_SEES}{name}", source).shape for name in first)
    width, patch = token[-1], patches[-1]
    vision = BlipVisionConfig(
        hidden_size=width,
        num_attention_heads=width // 64,
        num_hidden_layers=sum(name.startswith(f"{_SEES}blocks.") and name.endswith("norm1.bias") for name in weights),
        intermediate_size=inner[0],
        patch_size=patch,
        image_size=patch * round((places[1] - 1) ** 0.5),
        layer_norm_eps=1e-6,  # transformers' own is 1e-5
    )
    text = BlipTextConfig(**{name: config[name] for name in _TEXT}, encoder_hidden_size=width, is_decoder=True)
    with no_init_weights():  # random numbers for 450 million weights would take many seconds
        sees, reads = BlipVisionModel(vision), BlipTextModel(text, add_pooling_layer=False)
    fill(sees, weights, source, _published)
    fill(reads, weights, source, lambda name: f"{_READS}{name}")
    return sees, reads


def _published(name: str) -> str:
    for ours, theirs in _PUBLISHED:
        name = name.replace(ours, theirs)
    return f"{_SEES}{name}"
