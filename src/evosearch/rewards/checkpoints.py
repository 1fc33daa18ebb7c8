"""Where the weights of rewards come from: a local path, the hub or a URL; pickles are converted once.

A pickled checkpoint is read by ``torch.load(weights_only=True)`` and nothing else, since a pickle can run any code, and
kept as safetensors under `cache_folder`, with the SHA-256 of the file that it came from in its metadata. Whatever
cannot be had is a ValueError of one sentence.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import file_digest, sha256
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from evosearch.checks import first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
_PATIENCE = 60.0  # seconds without an answer


class Change(NamedTuple):
    """What is made of a checkpoint's tensors before they are kept.

    Attributes:
        name: Tells it from others of the same checkpoint; goes into the name of the file.
        make: Of the checkpoint's tensors those that are kept.
    """

    name: str
    make: Callable[[dict[str, Tensor]], dict[str, Tensor]]


def cache_folder() -> Path:
    """Where converted and downloaded checkpoints are kept: ``$EVOSEARCH_CACHE``, or ``evosearch`` in ``$HF_HOME``."""
    from huggingface_hub.constants import HF_HOME

    own = os.environ.get("EVOSEARCH_CACHE")
    return Path(own).expanduser() if own else Path(HF_HOME) / "evosearch"


def locate(place: str | Path, file: str) -> Path:
    """The local path of a checkpoint's file, downloaded if need be.

    Args:
        place: The file, a folder that holds it, a hub id, or a URL of it.
        file: What it is called there.

    Raises:
        ValueError: It cannot be had.
    """
    name, path = str(place), Path(place).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / file).is_file():
            raise ValueError(f"folder {name} has no file {file}; put it there, or name another folder")
        return path / file
    if name.startswith(("https://", "http://")):
        return _download(name)
    return _from_hub(name, file)


def look_for(place: str | Path, file: str) -> None:
    """ValueError where `locate` would not find a file of a checkpoint; nothing of it is downloaded.

    Args:
        place: See `locate`.
        file: What it is called there; ``|`` is between several of which any will do.
    """
    name, path, files = str(place), Path(place).expanduser(), file.split("|")
    if path.is_file():
        return
    if path.is_dir():
        if not any((path / each).is_file() for each in files):
            raise ValueError(f"folder {name} has no file {' or '.join(files)}; put it there, or name another folder")
    elif name.startswith(("https://", "http://")):
        if not kept(name, file):
            _answer(name, whole=False)
    else:
        _check_id(name)
        _look_on_hub(name, files)


def kept(place: str, file: str) -> Path | None:
    """Where `locate` finds a file of a hub id or URL without a download; None where it is not on this machine."""
    if place.startswith(("https://", "http://")):
        path = kept_at(place)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(place, file)
    return Path(found) if isinstance(found, str) else None  # it may be a mark that the hub has none


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
        _announce(str(place))
    try:
        model, found = kind.from_pretrained(place, output_loading_info=True, **options)
    except Exception as error:
        raise ValueError(_reason(str(place), error)) from error
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
        _announce(str(place))
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(place)
    except Exception as error:
        raise ValueError(_reason(str(place), error, "tokenizer")) from error
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


def _check_id(name: str) -> None:
    """ValueError for what is no name as the hub has them."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise ValueError(f"there is no file or folder {name}, and it is no hub id 'owner/name'; check its spelling")


@cache
def _announce(name: str) -> None:
    """Say, once, that the hub is to be asked, which without a network takes a while."""
    from huggingface_hub import is_offline_mode

    if not is_offline_mode():
        print(f"looking for {name} on the hub", file=sys.stderr, flush=True)


def _look_on_hub(name: str, files: Sequence[str]) -> None:
    """ValueError unless one of these files is in the hub's cache, or the hub has it and gives it to us."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError

    try:
        if any(kept(name, file) for file in files):
            return
        _announce(name)
        for file in files[:-1]:
            with suppress(RemoteEntryNotFoundError):
                hf_hub_download(name, file, dry_run=True)
                return
        hf_hub_download(name, files[-1], dry_run=True)
    except (OSError, HFValidationError) as error:
        raise ValueError(_reason(name, error, files[0])) from error


def _from_hub(name: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    _check_id(name)
    _announce(name)
    try:
        return Path(hf_hub_download(name, file))
    except (OSError, HFValidationError) as error:  # what the hub's client raises is an OSError, too
        raise ValueError(_reason(name, error, file)) from error


def kept_at(url: str) -> Path:
    """Where a file of no hub is kept: under its URL's digest and its own name."""
    name = Path(unquote(urlsplit(url).path)).name
    return cache_folder() / f"{sha256(url.encode()).hexdigest()[:16]}-{name}"


def _download(url: str) -> Path:
    path = kept_at(url)
    if not path.is_file():
        content = _answer(url, whole=True)
        with _whole(path) as unfinished:
            unfinished.write_bytes(content)
    return path


def _answer(url: str, whole: bool) -> bytes:
    """What is at a URL; nothing of it, but that it is there, where the whole is not wanted."""
    from http.client import HTTPException
    from urllib.request import urlopen

    from huggingface_hub import is_offline_mode

    path = kept_at(url)
    advice = f"get it by other means, and give the path of {path.name.partition('-')[2]}"
    if is_offline_mode():
        raise ValueError(f"{url} cannot be had: HF_HUB_OFFLINE is set, and it is not in {path.parent}; {advice}")
    try:
        with urlopen(url, timeout=_PATIENCE) as answer:
            return answer.read() if whole else b""  # all that there is, or an error
    except (OSError, HTTPException) as error:
        raise ValueError(f"{url} cannot be had ({first_line(error)}); check the network, or {advice}") from error


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
    with _whole(target) as unfinished:
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


@contextmanager
def _whole(path: Path) -> Generator[Path]:
    """A path beside ``path`` to write to, which takes its place once all is written: no half file is ever there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    blob = path.resolve()
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name):
        return blob.name  # as the hub's cache names large files, which saves seconds
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _reason(name: str, error: Exception, what: str = "") -> str:
    """Why something of a model could not be had, and what to do."""
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    causes = tuple(_causes(error))
    what = f"{what} of " if what else ""
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        page = f"https://huggingface.co/{name}"
        return f"model {name!r} is gated: accept its terms at {page}, then log in with 'hf auth login'"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return f"model {name!r} is not on the hub, or is private: check its spelling, or log in with 'hf auth login'"
    unreached = any(isinstance(cause, LocalEntryNotFoundError) for cause in causes)
    first = "it is not in the hub's cache, and the hub is not reached" if unreached else first_line(error)
    if Path(name).is_dir():
        return f"{what}folder {name} cannot be had: {first}; get the folder anew"
    return f"{what}model {name!r} cannot be had: {first}; check the network, or give the folder of a copy"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
