"""VideoReward: how people would rate a video's quality, its motion, and its likeness to the prompt.

Liu et al., "Improving Video Generation with Human Feedback", 2025, arXiv:2501.13918. The published code (VideoAlign)
needs transformers of 2024, flash-attn, trl and peft; here the same weights are put into transformers' own Qwen2-VL, the
low-rank changes of its language model merged into it. The question, ``video_reward.txt``, is that which it was trained
with: MIT licence, Copyright (c) 2025 Kling Team, Kuaishou Technology.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evosearch.checks import dtype_of
from evosearch.rewards.checkpoints import Change, config_of, fill, tensors, tokenizer_of, weight_of
from evosearch.rewards.facts import QWEN_TOKENIZER, Facts, Source
from evosearch.rewards.places import locate
from evosearch.rewards.qwen_2024 import qwen2_vl, states
from evosearch.rewards.qwen_video import QwenVideo, sampled
from evosearch.rewards.video_rating import VideoRating
from evosearch.rewards.weights import Weights

_FILE, _CONFIG = "checkpoint-11352/model.pth", "model_config.json"
FACTS = Facts(
    "most at -2 to 2 each, their sum at -6 to 6",
    "Apache-2.0",
    "a prompt, and a video of at least 2 frames",
    (
        Source("KwaiVGI/VideoReward", 5.0e9, (_FILE, _CONFIG)),
        Source("Qwen/Qwen2-VL-2B-Instruct", 7e6, ("config.json", *QWEN_TOKENIZER)),
    ),
)
NORMS = {"VQ": (3.6757, 2.2476), "MQ": (1.1646, 1.3811), "TA": (2.8105, 2.5121)}
"""Visual quality, motion quality and text alignment: mean and deviation of the raw scores on its authors' videos."""
_MARKS = tuple(f"<|{part}_reward|>" for part in NORMS)
_QUESTION = Path(__file__).with_suffix(".txt").read_text("utf-8").replace("{text_prompt}", "{}")
_OUTER = "base_model.model."


class _Weights(NamedTuple):
    """The model, its head, and how many frames a second it was trained on."""

    qwen: QwenVideo
    head: nn.Module
    fps: float


class VideoReward(VideoRating):
    """Rating that people would give a video for its prompt, by a Qwen2-VL-2B trained on their choices.

    Checkpoint: ``KwaiVGI/VideoReward``, Apache-2.0 licence. Each rating has mean 0 and deviation 1 on its authors'
    videos, most are at -2 to 2; better videos score higher. Differentiable in the samples. Two frames a second are
    looked at, at least 4, each resized to at most 448 · 448 pixels in its own shape, bicubic. Images are refused. A
    prompt's text never becomes a mark of the chat. Positions are those of its training, see
    `evosearch.rewards.qwen_2024`. Low-rank changes are merged into the weights at the first load of all, and kept so in
    `evosearch.rewards.places.cache_folder`, about 4.5 GB in bfloat16 and twice that in float32. A checkpoint of
    changes alone (``adapter_model.safetensors``), as VideoAlign's training can write it, is not read: the published one
    is whole.

    Args:
        model: A local folder or a hub id of ``checkpoint-11352/model.pth`` and ``model_config.json``; or the path of
            the former, in such a folder.
        base: A local folder or a hub id of the Qwen2-VL that it was trained from, for its config and tokenizer.
        dimension: ``VQ``, visual quality; ``MQ``, motion quality; ``TA``, text alignment; ``Overall``, their sum.
        frame_rate: Of the videos, per second; None: of the pipeline in a run, else 16. With a wrong one, motion seems
            too fast or too slow.
        device: Where it computes; None: the GPU if there is one.
        dtype: Of the model, bfloat16 as its authors have it; the head and scores are float32.
        batch_size: Videos at a time.

    Raises:
        ValueError: The checkpoint, the config or the tokenizer cannot be had, or they do not fit.
    """

    differentiable = True
    name, ratings = "video_reward", tuple(NORMS)

    def __init__(
        self,
        model: str | Path = "KwaiVGI/VideoReward",
        base: str | Path = "Qwen/Qwen2-VL-2B-Instruct",
        dimension: str = "Overall",
        frame_rate: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.bfloat16,
        batch_size: int = 4,
    ) -> None:
        super().__init__(dimension, frame_rate, device, batch_size)
        dtype = dtype_of(dtype)
        FACTS.check(model, base)

        def load() -> _Weights:
            path = locate(model, _FILE)
            fps, most, lora = _settings(path.parents[1] if Path(model).is_file() else model)
            config = config_of(base, needed=("vision_config",))
            merged = Change(
                f"merged-{lora.name}-{str(dtype).removeprefix('torch.')}",
                lambda found: _merged(found, lora, dtype, path),
            )
            weights = tensors(path, change=merged)
            made = qwen2_vl(weights, config, path, _published, dtype)
            tokenizer = tokenizer_of(base, made.config.text_config.vocab_size, extra=_MARKS)
            head = _head(weights, made.config.text_config.hidden_size, path).to(self.device)
            return _Weights(QwenVideo(made, tokenizer, self.device, batch_size, most), head, fps)

        self.weights = Weights(load)

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`."""
        return self._identity(self.weights().head, fps=self.weights().fps)

    @property
    def _qwen(self) -> QwenVideo:
        return self.weights().qwen

    def _chosen(self, frames: int) -> list[int]:
        return sampled(frames, self._shown_at, self.weights().fps)

    def _rate(self, videos: Tensor, prompts: list[str]) -> Tensor:
        qwen, head, _ = self.weights()
        inputs = qwen.inputs(videos, _QUESTION, prompts)
        marks = torch.tensor(qwen.tokenizer.convert_tokens_to_ids(list(_MARKS)), device=self.device)
        said = states(qwen.model, inputs)[torch.isin(inputs["input_ids"], marks)].view(len(videos), len(_MARKS), -1)
        raw = head(said.float())[..., 0]
        mean, std = raw.new_tensor(list(NORMS.values())).T
        return (raw - mean) / std

    def _whole(self, rated: Tensor) -> Tensor:
        return rated.sum(1)


def _head(weights: Mapping[str, Tensor], width: int, source: Path) -> nn.Module:
    head = nn.Linear(width, 1, bias=False)
    fill(head, weights, source, lambda name: f"{_OUTER}rm_head.{name}")
    return head.eval().requires_grad_(False)


def _published(name: str) -> str:
    """The checkpoint's name of a weight of transformers': the visual model was not within the language model's."""
    name = re.sub(r"^language_model\.", "model.", name)
    return _OUTER + re.sub(r"_proj\.(weight|bias)$", r"_proj.base_layer.\1", name)


class _Lora(NamedTuple):
    """How much low-rank changes count: their alpha, and the power of their rank by which that is divided."""

    alpha: float
    power: float

    @property
    def name(self) -> str:
        return f"alpha{self.alpha:g}" + ("-rslora" if self.power < 1 else "")


def _settings(place: str | Path) -> tuple[float, float, _Lora]:
    """Frames a second, pixels of a frame, and how much low-rank changes count."""
    described = config_of(place, _CONFIG, ("data_config", "peft_lora_config"))
    found = described["data_config"] | described["peft_lora_config"]
    if missing := [name for name in ("fps", "max_frame_pixels", "lora_alpha") if name not in found]:
        raise ValueError(f"config {_CONFIG} of {place} says nothing of {missing[0]}; is it the published file?")
    lora = _Lora(found["lora_alpha"], 0.5 if found.get("use_rslora") else 1.0)
    return found["fps"], found["max_frame_pixels"], lora


def _merged(weights: Mapping[str, Tensor], lora: _Lora, dtype: torch.dtype, source: Path) -> dict[str, Tensor]:
    """With each layer that was adapted as ``W + scale * B A``, see Hu et al., 2021, arXiv:2106.09685."""
    found = {name: weight for name, weight in weights.items() if ".lora_" not in name}
    for name, weight in found.items():
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix("base_layer.weight")
            down, up = (weight_of(weights, f"{layer}lora_{half}.default.weight", source).float() for half in "AB")
            found[name] = (weight.float() + lora.alpha / len(down) ** lora.power * up @ down).to(dtype)
    return found
