"""A Qwen2-VL that was made a reward in 2024, computed as transformers did then. Not a reward; two are made of it.

Two things are otherwise since. The rewards' own code went round what gives the tokens of pictures and videos positions
by row, column and time, so that these have positions like words, one after the other. And the whole model was taken to
bfloat16, the frequencies of positions with it: the angles of words come from rounded frequencies, and those of patches,
their cosines and sines are rounded themselves. It is so here in whatever precision the rest computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evosearch.rewards.checkpoints import fill, weight_of


def qwen2_vl(
    weights: Mapping[str, Tensor],
    described: dict[str, Any],
    source: Path,
    published: Callable[[str], str],
    dtype: torch.dtype,
) -> Any:
    """The Qwen2-VL of a checkpoint without its last layer, which gives words; frozen.

    Args:
        weights: By the checkpoint's names; others are not looked at.
        described: Its config, whose number of words may be another.
        source: The checkpoint.
        published: The checkpoint's name of the weight of transformers' name.
        dtype: To compute in.

    Raises:
        ValueError: A weight is missing or has another shape.
    """
    from transformers import Qwen2VLConfig, Qwen2VLModel
    from transformers.initialization import no_init_weights

    config: Any = Qwen2VLConfig.from_dict(described)
    config.text_config.vocab_size = len(weight_of(weights, published("language_model.embed_tokens.weight"), source))
    with no_init_weights():  # random numbers for billions of weights would take minutes
        made: Any = Qwen2VLModel(config)
    fill(made, {name: weight.to(dtype) for name, weight in weights.items()}, source, published, assign=True)
    made.visual.rotary_pos_emb = _Angles(made.visual.rotary_pos_emb.inv_freq)
    made.language_model.rotary_emb.inv_freq = made.language_model.rotary_emb.inv_freq.bfloat16()
    return made.eval().requires_grad_(False)


def states(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """What such a model makes of the tokens of messages, as `QwenVL.inputs` has them: (n, tokens, width)."""
    mask = inputs["attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp(min=0).expand(3, *mask.shape)
    return model(**inputs, position_ids=positions, use_cache=False).last_hidden_state


class _Angles(nn.Module):
    """Cosines and sines of the places of patches."""

    def __init__(self, frequencies: Tensor) -> None:
        super().__init__()
        self.frequencies = nn.Buffer(frequencies.bfloat16(), persistent=False)

    def forward(self, hidden: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Of places (patches, 2) down and across, as in transformers' own module."""
        del hidden
        angles = (places[..., None].bfloat16() * self.frequencies).flatten(1).repeat(1, 2)
        return angles.cos(), angles.sin()
