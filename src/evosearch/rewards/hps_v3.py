"""HPSv3: which picture people prefer for a prompt, of a wide range of pictures, and how sure that is.

Ma et al., "HPSv3: Towards Wide-Spectrum Human Preference Score", 2025, arXiv:2508.03789. The published package pins
transformers 4.45 and needs trl and deepspeed; here the same weights are put into transformers' own Qwen2-VL (Wang et
al., 2024, arXiv:2409.12191). The question, ``hps_v3.txt``, is that on which it was trained, word for word (MIT
licence).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from evosearch.checks import dtype_of, samples_and_prompts, whole_number
from evosearch.rewards.checkpoints import config_of, fill, tensors, tokenizer_of
from evosearch.rewards.clip import device_of
from evosearch.rewards.facts import QWEN_TOKENIZER, Facts, Source
from evosearch.rewards.places import locate
from evosearch.rewards.qwen_2024 import qwen2_vl, states
from evosearch.rewards.qwen_vl import QwenVL
from evosearch.rewards.weights import Weights

_FILE = "HPSv3.safetensors"
FACTS = Facts(
    "most at 0 to 15",
    "MIT, its Qwen2-VL Apache-2.0",
    "a prompt",
    (
        Source("MizzenAI/HPSv3", 16.6e9, (_FILE,)),
        Source("Qwen/Qwen2-VL-7B-Instruct", 11e6, ("config.json", *QWEN_TOKENIZER)),
    ),
)
_MARK = "<|Reward|>"  # where the answer is read, though the model writes none
_QUESTION = Path(__file__).with_suffix(".txt").read_text("utf-8").replace("{text_prompt}", "{}")
_PIXELS = 256 * 28**2  # of every picture, about


class HpsV3:
    """Human preference for a picture given its prompt, by a Qwen2-VL-7B trained on people's choices.

    Checkpoint: ``HPSv3.safetensors`` of ``MizzenAI/HPSv3``, MIT licence, with config and tokenizer of
    ``Qwen/Qwen2-VL-7B-Instruct``, Apache-2.0 licence. The model sees a preference as a normal distribution; the score
    is its mean, most at 0 to 15 (see `distribution`). Scores of different prompts compare badly. Differentiable in the
    samples. A video has the mean of its frames. Pictures are resized to about 200,000 pixels, sides of whole 28,
    bicubic, and seen whole. A prompt's text never becomes a mark of the chat.

    Positions are those of its training, see `evosearch.rewards.qwen_2024`.

    Args:
        model: A local path of the checkpoint, or a folder or a hub id that has it under its published name.
        base: A local folder or a hub id of the Qwen2-VL that it was trained from, for its config and tokenizer.
        device: Where it computes; None: the GPU if there is one.
        dtype: Of the Qwen2-VL; the head and scores are float32.
        batch_size: Pictures at a time, frames of videos among them.

    Raises:
        ValueError: The checkpoint, the config or the tokenizer cannot be had, or they do not fit.
    """

    differentiable = True

    def __init__(
        self,
        model: str | Path = "MizzenAI/HPSv3",
        base: str | Path = "Qwen/Qwen2-VL-7B-Instruct",
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.bfloat16,
        batch_size: int = 8,
    ) -> None:
        whole_number("batch_size", batch_size, least=1)
        self.device, dtype = device_of(device), dtype_of(dtype)
        FACTS.check(model, base)

        def load() -> tuple[QwenVL, nn.Module]:
            path = locate(model, _FILE)
            described = config_of(base, needed=("vision_config",))
            weights = tensors(path)
            made = qwen2_vl(weights, described, path, _names(weights), dtype)
            tokenizer = tokenizer_of(base, made.config.text_config.vocab_size, extra=(_MARK,))
            head = _head(weights, made.config.text_config.hidden_size, path).to(self.device)
            return QwenVL(made, tokenizer, self.device, batch_size, least=_PIXELS, most=_PIXELS), head

        self.weights = Weights(load)

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`."""
        qwen, head = self.weights()
        return qwen.identity("hps_v3", head)

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
        return self.distribution(samples, prompts)[0].mean(1)

    def distribution(self, samples: Tensor, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the preference for each frame of samples (N, [F,] 3, H, W): two of (N, F)."""
        samples_and_prompts(samples, prompts)
        if not len(samples):
            return torch.zeros(0, 1, device=samples.device), torch.zeros(0, 1, device=samples.device)
        mean, log_deviation = self.weights()[0].stills(self._judge, samples, _QUESTION, prompts).unbind(-1)
        return mean, log_deviation.exp()

    def _judge(self, inputs: dict[str, Tensor]) -> Tensor:
        qwen, head = self.weights()
        mark = qwen.tokenizer.convert_tokens_to_ids(_MARK)
        return head(states(qwen.model, inputs)[inputs["input_ids"] == mark].float())


def _names(weights: Mapping[str, Tensor]) -> Callable[[str], str]:
    """The checkpoint's name of a weight of transformers': either of before 4.52, or of since."""
    now = any(name.startswith("model.language_model.") for name in weights)

    def published(name: str) -> str:
        return f"model.{name}" if now else name.replace("language_model.", "model.", 1)

    return published


def _head(weights: Mapping[str, Tensor], width: int, source: Path) -> nn.Module:
    head = nn.Sequential(
        nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    fill(head, weights, source, lambda name: f"rm_head.{name}")
    return head.eval().requires_grad_(False)
