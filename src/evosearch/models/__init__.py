"""Bundled pipelines, and the loader of any other."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent

DEFAULTS: dict[str, dict[str, Any]] = {"shapes-diffusion": {"steps": 20, "guidance_scale": 3.0}}
"""Bundled pipelines, with the steps and the arguments that suit them."""


def load(name: str, **kwargs: Any) -> Any:
    """Load a stock diffusers pipeline.

    Args:
        name: A bundled pipeline's name, a local folder, or a hub id.
        **kwargs: For ``from_pretrained``: ``dtype``, ``variant``, ...

    Raises:
        ValueError: There is no such pipeline, or it cannot be had.
    """
    import torch
    from diffusers import DiffusionPipeline

    if name in DEFAULTS:
        # Kept in half precision to be small; run in single, which every machine does well.
        chosen = {} if kwargs.keys() & {"dtype", "torch_dtype"} else {"dtype": torch.float32}
        return DiffusionPipeline.from_pretrained(_HERE / name, **chosen, **kwargs)
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ValueError(f"model folder must hold a diffusers pipeline, but {name} has no model_index.json")
    elif "/" not in name or folder.is_absolute() or name.startswith("."):
        near = get_close_matches(name, DEFAULTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"model must be a bundled one ({', '.join(DEFAULTS)}), an existing folder or a hub id such as "
            f"'owner/name', got {name!r}{hint}"
        )
    try:
        return DiffusionPipeline.from_pretrained(name, **{"use_safetensors": True, **kwargs})
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"model {name!r} cannot be loaded: {reason} Check the name and the network, log in where it is gated "
            "(hf auth login), or give the folder of a copy"
        ) from error


def name_of(pipe: Any) -> str:
    """The name that `load` knows a pipeline by: bundled, folder or hub id; its class where it has none."""
    origin = getattr(getattr(pipe, "config", None), "_name_or_path", None)
    if not origin:
        return type(pipe).__name__
    return Path(origin).name if Path(origin).parent == _HERE else str(origin)


def defaults(pipe: Any) -> dict[str, Any]:
    """Steps and arguments that suit a pipeline, where we know it."""
    return dict(DEFAULTS.get(name_of(pipe), {}))
