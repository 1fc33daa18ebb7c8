"""Bundled pipelines, and the loader of any other."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evosearch.checks import barred, causes, dtype_of, first_line
from evosearch.models.families import FAMILIES, family_of, half_of

if TYPE_CHECKING:
    import torch

_HERE = Path(__file__).parent

__all__ = [
    "BUNDLED", "FAMILIES", "accelerator", "check_name", "class_of", "defaults", "dtype_of", "frame_rate", "load",
    "makes_videos", "name_of",
]  # fmt: skip

BUNDLED = tuple(sorted(path.parent.name for path in _HERE.glob("*/model_index.json")))
"""Names of the pipelines in the box."""

_OPTIONS = (
    "cache_dir", "device_map", "disable_mmap", "force_download", "local_files_only", "low_cpu_mem_usage",
    "max_memory", "offload_folder", "offload_state_dict", "proxies", "quantization_config", "revision", "token",
    "use_safetensors", "variant",
)  # fmt: skip
"""What ``from_pretrained`` takes beside the pipeline's parts."""

Offload = Literal["model", "sequential"]
Quantize = Literal["8bit", "4bit"]


def load(
    name: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: str | None = None,
    offload: Offload | None = None,
    quantize: Quantize | None = None,
    vae_tiling: bool = False,
    **kwargs: Any,
) -> Any:
    """Load a stock diffusers pipeline, ready to generate on the machine at hand.

    Args:
        name: A bundled pipeline's name, a local folder, or a hub id.
        dtype: Precision, as a torch dtype or its name. On an accelerator the half precision that suits the family, with
            its parts that need more left in float32; on a CPU float32.
        device: Where to put it; an accelerator if there is one. Where ``device_map`` is given, that decides.
        offload: Keep the parts in main memory until they are needed: whole models (``model``) or single layers
            (``sequential``: least memory, slow).
        quantize: Weights of the denoiser and of large text encoders in 8 or 4 bits; needs bitsandbytes.
        vae_tiling: Decode large pictures in tiles, for less memory.
        **kwargs: For ``from_pretrained``: ``variant``, ``revision``, ...

    Returns:
        The pipeline. What suits it when it is called is in `defaults`.

    Raises:
        ValueError: There is no such pipeline, it cannot be had, or an option cannot be met here.
    """
    import torch
    from diffusers import DiffusionPipeline
    from safetensors import SafetensorError

    name = str(name)
    _check(name, offload, quantize, kwargs)
    device_map = kwargs.get("device_map")
    if device_map is not None and (device or offload):
        other = f"offload={offload!r}" if offload else f"device={device!r}"
        raise ValueError(f"device_map={device_map!r} says where each part goes, and so does {other}; leave out one")
    device = _device(device if device_map in (None, "balanced") else device_map)
    if offload and device == "cpu":
        raise ValueError(f"offload={offload!r} needs an accelerator as device, got 'cpu'; leave it out")
    parts = _parts(name, kwargs)
    source = str(_HERE / name) if name in BUNDLED else name
    try:
        if quantize:
            kwargs["quantization_config"] = _quantization(quantize, parts)
            if device == "cpu":
                raise ValueError(f"quantize={quantize!r} needs an accelerator as device, got 'cpu'; leave it out")
        chosen = _precision(name, parts, device, kwargs) if dtype is None else dtype_of(dtype)
        pipe = DiffusionPipeline.from_pretrained(source, **{"use_safetensors": True, "dtype": chosen, **kwargs})
    except (OSError, SafetensorError) as error:
        raise ValueError(_reason(name, error)) from error
    except Exception as error:
        if not isinstance(error, json.JSONDecodeError) and type(error) is not Exception:  # as tokenizers raises it
            raise
        raise ValueError(f"model {name!r} holds a file that cannot be read: {error}; get it anew") from error
    family = family_of(pipe, name_of(pipe))
    known = {} if family is None or "scheduler" in kwargs else family.scheduler
    config = pipe.scheduler.config
    if suited := {key: better for key, (shipped, better) in known.items() if config.get(key) == shipped}:
        pipe.scheduler = type(pipe.scheduler).from_config(config, **suited)
    if vae_tiling:
        if not hasattr(getattr(pipe, "vae", None), "use_tiling"):  # all have enable_tiling, which raises in some
            raise ValueError(
                f"vae_tiling: the autoencoder of {type(pipe).__name__} does not decode in tiles; leave it out"
            )
        pipe.vae.enable_tiling()
    if offload == "model":
        pipe.enable_model_cpu_offload(device=torch.device(device))
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=torch.device(device))
    elif device_map is None:
        pipe.to(device)
    return pipe


def name_of(pipe: Any) -> str:
    """The name that `load` knows a pipeline by: bundled, folder or hub id; its class where it has none."""
    origin = getattr(getattr(pipe, "config", None), "_name_or_path", None)
    if not origin:
        return type(pipe).__name__
    return Path(origin).name if Path(origin).parent == _HERE else str(origin)


def defaults(pipe: Any) -> dict[str, Any]:
    """Steps and arguments of the call that suit a pipeline, or a bundled one of this name, where we know its family."""
    family = {f.name: f for f in FAMILIES}.get(pipe) if isinstance(pipe, str) else family_of(pipe, name_of(pipe))
    return {} if family is None else family.suited


def makes_videos(pipe: Any, **kwargs: Any) -> bool:
    """Whether a pipeline makes videos, or the bundled one, folder or hub model of this name.

    Args:
        pipe: A pipeline, or its name: that of its class tells, nothing else is loaded.
        **kwargs: As for `load`.

    Raises:
        ValueError: There is no pipeline of this name, or it cannot be had.
    """
    if isinstance(pipe, str | Path):
        pipe = class_of(pipe, **kwargs)
    return callable(pipe) and "num_frames" in inspect.signature(pipe.__call__).parameters


def class_of(name: str | Path, **kwargs: Any) -> type:
    """The class of the pipeline of this name; nothing is loaded.

    Args:
        name: As for `load`.
        **kwargs: As for `load`.

    Raises:
        ValueError: There is no pipeline of this name, or it cannot be had.
    """
    import diffusers

    kwargs = {option: value for option, value in kwargs.items() if option not in inspect.signature(load).parameters}
    _check(str(name), None, None, kwargs)
    return getattr(diffusers, _parts(str(name), kwargs)["_class_name"])


def frame_rate(pipe: Any) -> float | None:
    """Frames per second of a pipeline's videos: its family's, or else what its call takes by default."""
    family = family_of(pipe, name_of(pipe))
    if family is not None:
        return family.frame_rate
    takes = inspect.signature(pipe.__call__).parameters
    usual = (takes[name].default for name in ("frame_rate", "fps") if name in takes)
    return next((rate for rate in usual if isinstance(rate, int | float)), None)


def _check(name: str, offload: str | None, quantize: str | None, kwargs: dict[str, Any]) -> None:
    if offload not in (None, "model", "sequential"):
        raise ValueError(f"offload must be 'model', 'sequential' or None, got {offload!r}")
    if quantize not in (None, "8bit", "4bit"):
        raise ValueError(f"quantize must be '8bit', '4bit' or None, got {quantize!r}")
    if "torch_dtype" in kwargs:
        raise ValueError("torch_dtype is called dtype here; rename it")
    for option in ("trust_remote_code", "custom_pipeline"):
        if option in kwargs:
            raise ValueError(f"{option} is never used here: code that comes with weights can do anything")
    placed = tuple(dict.fromkeys(("balanced", accelerator(), "cpu")))
    if kwargs.get("device_map") not in (None, *placed):
        raise ValueError(f"device_map must be {' or '.join(map(repr, placed))} here, got {kwargs['device_map']!r}")
    if not kwargs.get("use_safetensors", True):
        raise ValueError("use_safetensors must be true: weights in pickles can do anything; convert them first")
    check_name(name)


def check_name(name: str) -> None:
    """ValueError where this can be no model: neither a bundled one, nor a folder of a pipeline, nor a hub id."""
    folder = Path(name)
    if name in BUNDLED:
        return
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ValueError(f"model folder must hold a diffusers pipeline, but {name} has no model_index.json")
    elif not _is_hub_id(name):
        near = get_close_matches(name, BUNDLED, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"model must be a bundled one ({', '.join(BUNDLED)}), an existing folder or a hub id such as "
            f"'owner/name', got {name!r}{hint}"
        )


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def _parts(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the pipeline consists of, as its model_index.json says."""
    import diffusers

    parts = _read(name, "model_index.json", kwargs)
    kind = parts.get("_class_name") if isinstance(parts, dict) else None
    pipeline = getattr(diffusers, kind, None) if isinstance(kind, str) else None
    if not isinstance(pipeline, type) or not issubclass(pipeline, diffusers.DiffusionPipeline):
        raise ValueError(
            f"model {name!r} must name a pipeline of diffusers {diffusers.__version__} as _class_name in its "
            f"model_index.json, but names {kind!r}; a newer diffusers may know it, code of its own is never run"
        )
    folders = {part for part, kind in parts.items() if isinstance(kind, list) and kind[0]} - kwargs.keys()
    if (folder := _folder(name)).is_dir():
        if lacking := sorted(part for part in folders if not (folder / part).is_dir()):
            raise ValueError(f"model folder {name} is not complete: it has no {', '.join(lacking)}")
        variant = kwargs.get("variant")
        if variant is not None and not any(folder.glob(f"*/*.{variant}[.-]*safetensors")):
            raise ValueError(
                f"variant={variant!r} must be one that {name} has, and it has no such weights; leave it out"
            )
    takes = {*_OPTIONS, *inspect.signature(pipeline.__init__).parameters}
    if unknown := sorted(kwargs.keys() - takes):
        near = get_close_matches(unknown[0], [*takes, *inspect.signature(load).parameters], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{kind} cannot be loaded with {unknown[0]}={kwargs[unknown[0]]!r}{hint}")
    return parts


def _read(name: str, file: str, kwargs: Mapping[str, Any]) -> Any:
    """A JSON file of a model."""
    from huggingface_hub import hf_hub_download

    folder = _folder(name)
    try:
        if folder.is_dir():
            path = folder / file
        else:
            named = ("cache_dir", "local_files_only", "revision", "token")
            path = Path(hf_hub_download(name, file, **{k: kwargs[k] for k in named if k in kwargs}))
        return json.loads(path.read_text())
    except OSError as error:
        raise ValueError(_reason(name, error)) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"model {name!r} has a {file} that is no JSON: {error}") from None


def _folder(name: str) -> Path:
    return _HERE / name if name in BUNDLED else Path(name)


def _settings(name: str, parts: dict[str, Any], kwargs: Mapping[str, Any]) -> Callable[[str], Any]:
    """Looks up what marks a family, see `Family.where`, in a pipeline that is not loaded yet."""

    @cache
    def config(part: str) -> Mapping[str, Any]:
        if part == "pipe":
            return {**parts, **kwargs}
        if part in kwargs:  # the user's own, loaded already
            return getattr(kwargs[part], "config", {})
        return _read(name, f"{part}/config.json", kwargs) if parts.get(part, [None])[0] else {}

    def setting(key: str) -> Any:
        part, entry = key.split(".")
        return config(part).get(entry)

    return setting


def accelerator() -> str:
    """The type of this machine's accelerator, or ``cpu``."""
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if found is None else found.type


def _device(device: str | None) -> str:
    import torch

    here = accelerator()
    try:
        kind = torch.device(device or here).type
    except RuntimeError:
        kind = "unknown"
    if kind not in (here, "cpu"):
        known = " or ".join(map(repr, dict.fromkeys((here, "cpu"))))
        raise ValueError(f"device must be {known} on this machine, got {device!r}")
    return device or here


def _precision(name: str, parts: dict[str, Any], device: str, kwargs: Mapping[str, Any]) -> Any:
    import torch

    if device == "cpu" or name in BUNDLED:
        return torch.float32  # half precision is slow on most processors, and gains a small model nothing
    half, full = half_of(parts["_class_name"], name, _settings(name, parts, kwargs))
    dtype = getattr(torch, half)
    return {"default": dtype, **dict.fromkeys(full, torch.float32)} if full else dtype


def _quantization(bits: str, parts: dict[str, Any]) -> Any:
    from diffusers.quantizers import PipelineQuantizationConfig

    if find_spec("bitsandbytes") is None:
        raise ValueError(f"quantize={bits!r} needs bitsandbytes; install it with: pip install bitsandbytes")
    settings: dict[str, Any] = (
        {"load_in_8bit": True}
        if bits == "8bit"
        else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
    )
    # CLIP is small and reads the prompt worse in few bits.
    large = [
        part
        for part, kind in parts.items()
        if part.startswith(("transformer", "unet", "text_encoder")) and kind[1] and not kind[1].startswith("CLIP")
    ]
    return PipelineQuantizationConfig(
        quant_backend=f"bitsandbytes_{bits}", quant_kwargs=settings, components_to_quantize=large
    )


def _reason(name: str, error: Exception) -> str:
    """Why a model could not be had, and what to do."""
    from huggingface_hub.errors import EntryNotFoundError

    if said := barred(name, error):
        return said
    first = first_line(error)
    if Path(name).is_dir():
        return f"model folder {name} is not complete: {first}"
    found = tuple(causes(error))
    lacking = any(isinstance(cause, EntryNotFoundError) for cause in found)
    if lacking and not any(isinstance(cause, FileNotFoundError) for cause in found):
        return f"model {name!r} holds no diffusers pipeline in safetensors: {first}"
    return f"model {name!r} cannot be had: {first}. Check the network, or give the folder of a copy"
