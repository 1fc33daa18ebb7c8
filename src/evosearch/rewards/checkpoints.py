"""Checkpoints of rewards: their tensors, put into models; pickles are converted once.

A pickled checkpoint is read by ``torch.load(weights_only=True)`` and nothing else, since a pickle can run any code, and
kept as safetensors under `evosearch.rewards.places.cache_folder`, with the SHA-256 of the file that it came from in its
metadata. Whatever cannot be had is a ValueError of one sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import file_digest
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, NamedTuple

from evosearch.checks import first_line
from evosearch.rewards.places import announce, cache_folder, locate, reason, whole

if TYPE_CHECKING:
    from torch import Tensor, nn

_PICKLES = (".pt", ".pth", ".bin", ".ckpt")


class Change(NamedTuple):
    """What is made of a checkpoint's tensors before they are kept.

    Attributes:
        name: Tells it from others of the same checkpoint; goes into the name of the file.
        make: Of the checkpoint's tensors those that are kept.
    """

    name: str
    make: Callable[[dict[str, Tensor]], dict[str, Tensor]]


def tensors(path: Path, inside: str | None = None, change: Change | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Args:
        path: A safetensors file, or a pickled one, which is converted unless that was done before.
        inside: The entry of a pickled checkpoint that holds them; itself where it has none of that name.
        change: What is kept in their place, made of them when they are converted; a safetensors file is, too, then.

    Raises:
        ValueError: It is damaged, or holds other things than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix in _PICKLES or change is not None:
        path = _converted(path, inside, change)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"checkpoint {path} cannot be read ({first_line(error)}); delete it and get it anew"
        ) from error


def fill(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    source: Path,
    published: Callable[[str], str] = lambda name: name,
    assign: bool = False,
) -> None:
    """Put weights into a model: all that it has, of the right shapes. Others are not looked at.

    Args:
        model: What is filled.
        weights: By the checkpoint's names.
        source: The checkpoint.
        published: The checkpoint's name of the model's weight of a name.
        assign: Put in the weights themselves, in their own precision, which takes half the memory of copies.

    Raises:
        ValueError: One is missing or has another shape.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        theirs = published(name)
        found[name] = weight_of(weights, theirs, source)
        if found[name].shape != tensor.shape:
            raise ValueError(
                f"checkpoint {source} must have a weight of shape {tuple(tensor.shape)} for {theirs}, "
                f"got {tuple(found[name].shape)}; is it the published file?"
            )
    model.load_state_dict(found, assign=assign)


def weight_of(weights: Mapping[str, Tensor], name: str, source: Path) -> Tensor:
    """The weight of this name in a checkpoint; ValueError where it has none."""
    if name not in weights:
        raise ValueError(f"checkpoint {source} has no weight for {name}; is it the published file?")
    return weights[name]


def pretrained(kind: Any, place: str | Path, **options: Any) -> Any:
    """A model of transformers, ``kind.from_pretrained(place)``, frozen; no weight of it is left at random.

    Args:
        kind: The model's class.
        place: A local folder or a hub id.
        **options: For ``from_pretrained``.

    Raises:
        ValueError: It cannot be had, or is not complete.
    """
    if not Path(place).is_dir():
        announce(str(place))
    try:
        model, found = kind.from_pretrained(place, output_loading_info=True, **options)
    except Exception as error:
        raise ValueError(reason(str(place), error)) from error
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"model {str(place)!r} has no weight for {missing[0]}; is it a {kind.__name__}?")
    return model.eval().requires_grad_(False)


def tokenizer_of(place: str | Path, words: int | None = None, extra: Sequence[str] = ()) -> Any:
    """The tokenizer in a local folder or of a hub id.

    Args:
        place: Where it is.
        words: How many the model knows; transformers makes an empty tokenizer, silently, where files are missing. None
            where the model has room for more.
        extra: Tokens to be added.

    Raises:
        ValueError: It cannot be had, or is another model's.
    """
    from transformers import AutoTokenizer

    if not Path(place).is_dir():
        announce(str(place))
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(place)
    except Exception as error:
        raise ValueError(reason(str(place), error, "tokenizer")) from error
    tokenizer.add_tokens(list(extra), special_tokens=True)
    if words is not None and len(tokenizer) != words:
        raise ValueError(
            f"tokenizer of {str(place)!r} must know {words} words as the model does, got {len(tokenizer)}; "
            "are all of its files there?"
        )
    return tokenizer


def config_of(place: str | Path, file: str = "config.json", needed: Sequence[str] = ()) -> dict[str, Any]:
    """A model's config; transformers' own ``from_pretrained`` gives the default one, silently, where it is missing.

    Args:
        place: The folder or hub id that has it.
        file: What it is called there.
        needed: What it must speak of.

    Raises:
        ValueError: It cannot be had, or is not complete.
    """
    path = locate(place, file)
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"config {path} cannot be read ({error}); delete it and get it anew") from error
    if missing := [name for name in needed if name not in config]:
        raise ValueError(f"config {path} says nothing of {missing[0]}; is it the published file?")
    return config


def _converted(path: Path, inside: str | None, change: Change | None) -> Path:
    """The same tensors, or what is made of them, as safetensors in the cache."""
    from safetensors.torch import save_file

    digest = _digest(path)
    made = "" if change is None else f"-{change.name}"
    target = cache_folder() / f"{path.stem}-{digest[:16]}{made}.safetensors"
    if target.is_file():
        return target
    found = _unpickled(path, inside) if path.suffix in _PICKLES else tensors(path)
    if change is not None:
        found = change.make(found)
    with whole(target) as unfinished:
        save_file(found, unfinished, {"source": path.name, "sha256": digest})
    return target


def _unpickled(path: Path, inside: str | None) -> dict[str, Tensor]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"checkpoint {path} holds more than tensors, which could run any code; take the published file"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"checkpoint {path} cannot be read ({first_line(error)}); delete it and get it anew"
        ) from error
    if isinstance(content, Mapping) and inside in content:
        content = content[inside]
    named = content.items() if isinstance(content, Mapping) else ()
    # Safetensors refuses two names for one memory.
    found = {name: value.contiguous().clone() for name, value in named if isinstance(value, torch.Tensor)}
    if not found:
        raise ValueError(f"checkpoint {path} holds no tensors by name; is it the published file?")
    return found


def _digest(path: Path) -> str:
    blob = path.resolve()
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name):
        return blob.name  # as the hub's cache names large files, which saves seconds
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
