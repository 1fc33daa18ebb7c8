"""Rewards: callables ``(samples, prompts) -> (N,) float32``, higher is better.

Samples are (N, 3, H, W) or (N, F, 3, H, W) tensors in [0, 1]. A plain function of one PIL image (a list of frames for
video) is a reward, too. One file a reward; heavy imports stay inside. `evosearch.rewards.combined` makes one of
several.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from evosearch.rewards import cache, plugins
from evosearch.rewards.weights import Weights
from evosearch.types import pictures

if TYPE_CHECKING:
    from evosearch.rewards.combined import constrained, minimum, pareto, rank_average, weighted, z_scored

NAMES = {
    "shapes": "ShapesReward",
    "shapes_clip": "ShapesClip",
    "shapes_quality": "shapes_quality",
    "jpeg": "jpeg",
    "clip_score": "ClipScore",
    "pick_score": "PickScore",
    "aesthetic": "Aesthetic",
    "aesthetic_v2_5": "AestheticV25",
    "image_reward": "ImageReward",
    "hps": "Hps",
    "hps_v3": "HpsV3",
    "vqa_score": "VqaScore",
    "unified_reward": "UnifiedReward",
    "video_reward": "VideoReward",
    "video_score2": "VideoScore2",
    "judge": "Judge",
    "per_frame": "PerFrame",
    "pyiqa": "Pyiqa",
}
"""Reward names and what makes them, each in the module of its name."""

COMBINATIONS = ("weighted", "z_scored", "rank_average", "minimum", "constrained", "pareto")
"""What makes one reward of several, each a function here."""

__all__ = [
    "COMBINATIONS", "NAMES", "TensorReward", "allowed_missing", "at_frame_rate", "check", "check_names", "constrained",
    "fresh", "load", "minimum", "name_of", "named", "numbered", "pareto", "per_picture", "prepare", "rank_average",
    "resolve", "scores", "weighted", "z_scored",
]  # fmt: skip

TensorReward = Callable[[Tensor, list[str]], Tensor]

_AT_RATES = WeakKeyDictionary[TensorReward, dict[float, TensorReward]]()

_SAID = ("allow_missing", "cache_key", "check", "device", "remote", "usd_per_call")


def __getattr__(name: str) -> Any:
    if name in COMBINATIONS:  # whose module needs this one
        return getattr(import_module("evosearch.rewards.combined"), name)
    raise AttributeError(f"module 'evosearch.rewards' has no attribute {name!r}")


def load(name: str) -> TensorReward:
    """The reward of this name: one of ours, or else of a package that adds it, see `evosearch.rewards.plugins`.

    Args:
        name: Of the reward; after a colon may stand what it is to be made of, its first argument: another checkpoint
            (``hps:some/folder``), or what it works on (``per_frame:clip_score``).

    Raises:
        ValueError: There is none, it cannot be loaded, or it takes no argument.
    """
    check_names(name)
    name, colon, argument = name.partition(":")
    name, given = name.replace("-", "_"), [argument] if colon else []
    if name not in NAMES:
        if given:
            raise ValueError(f"reward {name!r} is of another package and takes nothing after it, got :{argument}")
        return cast(TensorReward, plugins.load(name, plugins.plugins(), _fitted))
    made: Any = getattr(import_module(f"evosearch.rewards.{name}"), NAMES[name])
    if given and not (argument and inspect.isclass(made) and inspect.signature(made).parameters):
        raise ValueError(f"reward must be {name!r} with nothing after it, got {name}:{argument}")
    return cast(TensorReward, made(*given) if inspect.isclass(made) else made)


def check_names(reward: Any) -> None:
    """ValueError where a reward, as `resolve` takes it, names one that is unknown; none is made."""
    from evosearch.rewards import spelling  # which needs this module

    if isinstance(reward, Mapping | list | tuple):
        for part in cast(Iterable[Any], reward):
            check_names(part)
    elif isinstance(reward, str) and "(" in reward:
        spelling.check_names(reward)
    elif isinstance(reward, str):
        name = reward.partition(":")[0].replace("-", "_")
        if name not in NAMES:
            names = [*NAMES, *dict.fromkeys(p.name for p in plugins.plugins() if p.name not in NAMES)]
            if name not in names:
                near = get_close_matches(name, names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"reward must be one of {', '.join(names)} or a callable, got {name!r}{hint}")


def resolve(reward: Any) -> TensorReward:
    """Make a reward of a name, a callable or several of them.

    Args:
        reward: ``"shapes"``, a callable, a combination as ``"minimum(shapes, shapes_clip)"`` spells it,
            ``{"shapes": 1, "jpeg": .01}`` for `weighted`, or a list of rewards for `pareto`. A callable with one
            positional parameter is given one PIL image (a list of frames for video) at a time and returns a number; one
            with two gets samples and prompts.

    Raises:
        ValueError: A name is unknown, or the callable takes something else.
    """
    from evosearch.rewards import combined, spelling  # which need this module

    if isinstance(reward, str):
        return spelling.made(reward) if "(" in reward else load(reward)
    if isinstance(reward, Mapping):
        return combined.weighted(cast(Mapping[Any, float], reward))
    if isinstance(reward, list | tuple):
        several = cast(list[Any], reward)
        return combined.pareto(*several) if len(several) != 1 else resolve(several[0])
    if not callable(reward):
        raise ValueError(f"reward must be a name, a callable or {{name: weight}}, got {type(reward).__name__}")
    return _fitted(cast(Any, reward))


def named(rewards: Iterable[Any]) -> dict[str, TensorReward]:
    """Rewards by name, a second one of a name numbered."""
    each = list(rewards)
    return {name: resolve(reward) for name, reward in zip(numbered(map(name_of, each)), each, strict=True)}


def numbered(names: Iterable[str]) -> list[str]:
    """Names told apart: a second one of a name is numbered.

    >>> numbered(["jpeg", "shapes", "jpeg"])
    ['jpeg', 'shapes', 'jpeg 2']
    """
    found: list[str] = []
    for own in names:
        name, count = own, 1
        while name in found:
            count += 1
            name = f"{own} {count}"
        found.append(name)
    return found


def scores(reward: TensorReward, samples: Tensor, prompts: list[str], name: str = "") -> Tensor:
    """What a reward says of samples, (N,) float32 on the CPU; with a gradient where the samples have one.

    Within `cache.ScoreCache.used`, what it has said already is not asked for again.

    Raises:
        ValueError: It does not return one number a sample.
    """
    known = cache.in_use()
    ask = partial(_asked, name=name)
    return ask(reward, samples, prompts) if known is None else known.scores(reward, samples, prompts, ask)


def _asked(reward: TensorReward, samples: Tensor, prompts: list[str], name: str) -> Tensor:
    given = reward(samples, prompts)
    who = f"reward {name}".strip()
    try:
        values = torch.as_tensor(given).float().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{who} must return one number a sample, got {given!r}") from None
    if values.shape != (len(samples),):
        raise ValueError(
            f"{who} must return one value a sample: expected shape ({len(samples)},), got {tuple(values.shape)}"
        )
    return values if samples.requires_grad else values.detach()


def check(reward: TensorReward, prompt: str, video: bool | None = None) -> None:
    """ValueError where the reward says beforehand, by a method ``check``, that it cannot judge this prompt.

    Args:
        reward: Its method, if it has one, takes the other two.
        prompt: What is to be generated.
        video: Whether as a video; None while that is unknown.
    """
    if hasattr(reward, "check"):
        cast(Any, reward).check(prompt, video)


def prepare(reward: TensorReward) -> None:
    """Have a reward, and those that it is made of, load the weights that they have put off until they are needed.

    Raises:
        ValueError: They cannot be had.
    """
    for leaf in cache.leaves(reward):
        weights = getattr(leaf, "weights", None)
        if isinstance(weights, Weights):
            weights()
        elif hasattr(leaf, "prepare"):  # it computes elsewhere
            leaf.prepare()


def at_frame_rate(reward: TensorReward, rate: float) -> TensorReward:
    """The reward for videos that are shown at so many frames per second, by its method of this name if it has one.

    Asked again it is the same object, so that what it has scored in one search is known in the next. A combination,
    which may remember what it has seen, is made anew, of the same parts.
    """
    if not hasattr(reward, "at_frame_rate"):
        return reward
    told = cast(Any, reward).at_frame_rate
    try:
        known = _AT_RATES.setdefault(reward, {}) if cache.leaves(reward)[0] is reward else {}
    except TypeError:  # it cannot be a key
        known = {}
    made = known.get(rate) or told(rate)
    if made is not reward:  # else it would keep itself
        known[rate] = made
    return made


def fresh(reward: TensorReward) -> TensorReward:
    """The reward for one more search: by its method ``fresh``, if it remembers what it has seen and has one."""
    return cast(Any, reward).fresh() if hasattr(reward, "fresh") else reward


def allowed_missing(reward: Any) -> float:
    """Share of a run's samples for which the reward may have nothing to say: its ``allow_missing``, or all of them."""
    return float(getattr(reward, "allow_missing", 1.0))


def per_picture(function: Callable[[Any], float]) -> TensorReward:
    """A function of one PIL image, or of the list of a video's frames, as a reward that says of itself what it says."""

    def each(samples: Tensor, prompts: list[str]) -> Tensor:
        del prompts
        eight_bit = (samples * 255).round().to(torch.uint8)
        return torch.tensor([float(function(pictures(sample))) for sample in eight_bit])

    for name in _SAID:
        if hasattr(function, name):
            setattr(each, name, getattr(function, name))
    return each


def name_of(reward: Any) -> str:
    """What to call a reward in reports."""
    if isinstance(reward, str):
        return reward
    if isinstance(reward, Mapping):
        return " + ".join(f"{weight:g} {name_of(part)}" for part, weight in reward.items())
    if isinstance(reward, list | tuple):
        names = [name_of(part) for part in cast(list[Any], reward)]
        return f"pareto({', '.join(names)})" if len(names) != 1 else names[0]
    return getattr(reward, "__name__", type(reward).__name__)


def _fitted(function: Any) -> TensorReward:
    """A callable as a reward; ValueError where it takes something else."""
    return per_picture(function) if _positional(function) == 1 else function


def _positional(function: Callable[..., Any]) -> int:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-in functions have none
        return 1
    needed = [p for p in parameters if p.kind in kinds and p.default is p.empty]
    given = [p for p in parameters if p.kind in kinds]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    if len(needed) > 2 or not given:
        raise ValueError(
            "reward must take one PIL image, or samples and prompts; "
            f"{name_of(function)} takes {len(needed)} positional parameters"
        )
    return max(len(needed), 1) if len(given) > 1 else 1
