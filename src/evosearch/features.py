"""Feature caches of diffusers: what a cheap leg takes over from the step before, and what it still computes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from typing import Any, cast

import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from diffusers.hooks.mag_cache import nearest_interp
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn

from evosearch.hooks import denoisers, rows_of

NAMES: dict[str, Callable[[], Any]] = {
    "first_block": lambda: FirstBlockCacheConfig(threshold=0.3),
    "taylor_seer": lambda: TaylorSeerCacheConfig(
        cache_interval=3, disable_cache_before_step=2, use_lite_mode=True, taylor_factors_dtype=torch.float32
    ),
}
"""Caches that suit any transformer, by name; those that must be told of the model are given as their config."""


class Shares:
    """How much of a network each of its passes computed, by the weights that it put to use.

    Attributes:
        passes: Of each pass, its network and the weights used, counted for every row.
    """

    def __init__(self) -> None:
        self.passes: list[tuple[nn.Module, int]] = []

    def of(self, steps: int) -> list[float]:
        """Share of each step, (steps,) from 0 to 1; the fullest pass of a network is the whole of it."""
        whole: dict[nn.Module, int] = {}
        for network, used in self.passes:
            whole[network] = max(used, whole.get(network, 1))
        each = [used / whole[network] for network, used in self.passes]
        a_step = len(each) // steps  # with guidance there are two
        return [sum(each[k : k + a_step]) / a_step for k in range(0, steps * a_step, a_step)]


def config_of(cache: Any) -> Any:
    """A cache's config: a name's, or the one given.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(cache, str) and cache.replace("-", "_") in NAMES:
        return NAMES[cache.replace("-", "_")]()
    if is_dataclass(cache) and not isinstance(cache, type) and type(cache).__module__.startswith("diffusers.hooks"):
        return cache
    raise ValueError(
        f"draft_cache must be {' or '.join(map(repr, NAMES))}, or a cache config of diffusers, such as "
        f"FirstBlockCacheConfig(threshold=0.2), got {cache!r}"
    )


def check(pipe: Any) -> None:
    """ValueError where this pipeline's networks can reuse no features."""
    name, networks = type(pipe).__name__, denoisers(pipe)
    if any(getattr(part, "_compiled_call_impl", None) for network in networks for part in network.modules()):
        networks = []
    if not networks:
        raise ValueError(f"draft_cache goes with a network that is not compiled, which {name} has not; use draft_steps")
    for network in networks:
        if not isinstance(network, CacheMixin):
            raise ValueError(
                f"draft_cache needs a network with diffusers' feature caches (enable_cache), and {name}'s "
                f"{type(network).__name__} has none; use draft_steps alone"
            )
        if network.is_cache_enabled:
            raise ValueError(
                f"draft_cache switches a feature cache on and off, and {name} has one on already; call "
                "disable_cache() on its transformer first"
            )


@contextmanager
def reused(pipe: Any, config: Any, steps: int, visited: Sequence[int]) -> Generator[Shares]:
    """Features reused, for one call of the pipeline.

    Args:
        pipe: It is left as it was.
        config: Of the cache.
        steps: Of the whole trajectory.
        visited: Levels at which this call asks the network.

    Yields:
        What was computed, pass by pass.
    """
    networks = [cast(Any, network) for network in denoisers(pipe)]
    shares, fitted = Shares(), _for_levels(config, steps, visited)
    for network in networks:
        network.enable_cache(fitted)
    hooks = [hook for network in networks for hook in _watched(network, shares)]
    try:
        yield shares
    except ValueError as error:
        if "context" not in str(error):
            raise
        raise ValueError(
            f"{type(pipe).__name__} does not tell its guidance's passes apart (cache_context), which draft_cache "
            "needs; use draft_steps alone"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for network in networks:
            network.disable_cache()


def _watched(network: nn.Module, shares: Shares) -> list[Any]:
    """Hooks that note each pass of a network, and the weights of its smallest parts that are called in it."""

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del args, kwargs
        shares.passes.append((module, 0))

    def note(weights: int) -> Callable[..., None]:
        def used(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            del module
            passing, before = shares.passes[-1]
            shares.passes[-1] = (passing, before + weights * max(1, rows_of(args, kwargs)))

        return used

    parts = [part for part in network.modules() if next(part.children(), None) is None]
    sizes = [(part, sum(weight.numel() for weight in part.parameters())) for part in parts]
    hooks = [part.register_forward_pre_hook(note(size), with_kwargs=True) for part, size in sizes if size]
    return [network.register_forward_pre_hook(begin, with_kwargs=True, prepend=True), *hooks]


def _for_levels(config: Any, steps: int, visited: Sequence[int]) -> Any:
    """MagCache goes by the step's index in a whole trajectory; of a part of one, it must be told which part."""
    if not isinstance(config, MagCacheConfig) or config.mag_ratios is None:
        return config
    ratios = torch.as_tensor(config.mag_ratios, dtype=torch.float32)
    grown = nearest_interp(ratios, steps).cumprod(0)[list(visited)]
    since = torch.cat([torch.ones(1), grown[1:] / grown[:-1]])
    kept = max(0.0, config.retention_ratio * steps - visited[0]) / (steps - visited[0])
    return replace(config, mag_ratios=since, num_inference_steps=len(visited), retention_ratio=kept)


def plain(value: Any) -> Any:
    """A knob as it goes into a manifest: a cache's config by its name and numbers, all else as it is."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    fields = {name: part.tolist() if isinstance(part, Tensor) else part for name, part in vars(value).items()}
    shown = {name: part for name, part in fields.items() if isinstance(part, bool | int | float | str | list)}
    return {"config": type(value).__name__, **shown}
