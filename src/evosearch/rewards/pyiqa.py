"""Any metric of the package pyiqa that needs no reference picture: MUSIQ, CLIP-IQA, TOPIQ, Q-Align and many others.

Chen et al., "IQA-PyTorch: PyTorch Toolbox for Image Quality Assessment", 2022, github.com/chaofengc/IQA-PyTorch. It is
for the user to install, since its licence is not for every use.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from evosearch.checks import first_line, samples_and_prompts, whole_number
from evosearch.rewards.cache import identity
from evosearch.rewards.clip import device_of
from evosearch.rewards.facts import Facts
from evosearch.rewards.packages import required, version_of
from evosearch.rewards.pixels import by_batch, eight_bit, finite
from evosearch.rewards.weights import Weights

_TERMS = "PolyForm Noncommercial and S-Lab licences, not for commercial use"
FACTS = Facts(
    "the metric's own",
    f"{_TERMS}; weights by metric",
    "no prompt, and a metric's name",
    package="pyiqa",
    fetched="by metric",
)
_OF_SETS = ("fid", "inception_score")  # compare many pictures with many; parts of their names


class Pyiqa:
    """A metric of the package pyiqa, by its name there; lower-is-better ones are negated, so that higher is better.

    The package comes under the PolyForm Noncommercial and S-Lab licences, and its metrics' weights, which it downloads
    by itself, on terms of their own: look them up before you use one for more than research. Ranges are the metric's
    (``musiq`` about 0 to 100, ``clipiqa`` 0 to 1, ``niqe`` about -100 to 0, negated). Metrics know no prompt. A video
    has the mean of its frames. Pictures are handed over in [0, 1], rounded to 8 bits, in their own size; what is done
    to them is the metric's affair, and so is precision: pyiqa takes none, and many of its metrics are float32
    throughout.

    Args:
        metric: Its name, as ``pyiqa.list_models(metric_mode="NR")`` has it; on the command line ``pyiqa:musiq``.
        device: Where it computes; None: the GPU if there is one.
        batch_size: Pictures at a time, frames of videos among them.
        differentiable: Ask the metric for a gradient; most of those that are networks have one.
        **options: Of the metric, handed to ``pyiqa.create_metric``.

    Raises:
        ValueError: The package is not installed, has no such metric, or cannot make it here; or the metric compares
            with a reference, or judges sets of pictures.
    """

    def __init__(
        self,
        metric: str = "",
        device: torch.device | str | None = None,
        batch_size: int = 16,
        differentiable: bool = False,
        **options: Any,
    ) -> None:
        self._batch_size = whole_number("batch_size", batch_size, least=1)
        package = required("pyiqa", "pyiqa", _TERMS)
        _check(metric, package.list_models(), package.list_models(metric_mode="NR"))
        self.device, self.differentiable = device_of(device), differentiable
        self._settings = {"metric": metric, "options": options, "package": version_of("pyiqa")}
        self.__name__ = f"pyiqa:{metric}"

        def load() -> Any:
            graph = {"as_loss": True, "loss_reduction": "none"} if differentiable else {}
            try:
                made = package.create_metric(metric, device=self.device, **options, **graph)
                return made.eval().requires_grad_(False)
            except Exception as error:  # of the metric's own code, or of its download
                raise ValueError(f"pyiqa cannot make its metric {metric!r}: {first_line(error)}") from error

        self.weights = Weights(load)

    @property
    def cache_key(self) -> str:
        """See `evosearch.rewards.cache`; none where the package's version, on which its metrics depend, is unknown."""
        if self._settings["package"] is None:
            raise AttributeError("cache_key: the version of pyiqa is unknown")
        return identity("pyiqa", self.weights(), **self._settings)

    def __call__(self, samples: Tensor, prompts: list[str]) -> Tensor:
        """Score samples.

        Args:
            samples: (N, 3, H, W) or (N, F, 3, H, W) in [0, 1], rounded to 8 bits.
            prompts: N of them; not looked at.

        Returns:
            (N,) float32; NaN for a sample that holds NaN or infinity.

        Raises:
            ValueError: `samples` is not of that shape, or has another number of prompts.
        """
        samples_and_prompts(samples, prompts)
        found = torch.full((len(samples),), torch.nan)
        whole = finite(samples)
        if whole.any():  # metrics refuse what is not in [0, 1]
            frames = samples[whole]
            scores = by_batch(self._judge, frames.flatten(0, -4), self._batch_size)
            found = found.masked_scatter(whole.cpu(), scores.cpu().view(len(frames), -1).mean(1))
        return found.to(samples.device)

    def _judge(self, frames: Tensor) -> Tensor:
        metric = self.weights()
        given = metric(eight_bit(frames.to(self.device, torch.float32)))
        scores = torch.as_tensor(given).float().flatten()
        if len(scores) != len(frames):
            raise ValueError(
                f"{self.__name__} must give one number a picture, got {len(scores)} for {len(frames)} pictures; "
                "take another metric"
            )
        return -scores if metric.lower_better else scores


def _check(metric: Any, known: list[str], alone: list[str]) -> None:
    """ValueError for what is not the name of a metric that judges a picture by itself."""
    if not metric:
        raise ValueError("pyiqa needs the name of a metric, as in pyiqa:musiq; pyiqa.list_models() has all of them")
    if metric not in known:
        near = get_close_matches(str(metric), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "pyiqa.list_models() has all of them"
        raise ValueError(f"pyiqa has no metric {metric!r}; {hint}")
    if metric not in alone:
        raise ValueError(f"metric must need no reference picture, which a search has not, got {metric!r}; see pyiqa")
    if any(part in metric for part in _OF_SETS):
        raise ValueError(f"metric must judge pictures one by one, got {metric!r}, which judges sets of them")
