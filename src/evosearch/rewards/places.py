"""Where the files of rewards are: a local path, the hub or a URL; and the cache of what is none of the hub's.

Whatever cannot be had is a ValueError of one sentence.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from evosearch.checks import barred, causes, first_line

_PATIENCE = 60.0  # seconds without an answer


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


def _check_id(name: str) -> None:
    """ValueError for what is no name as the hub has them."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise ValueError(f"there is no file or folder {name}, and it is no hub id 'owner/name'; check its spelling")


@cache
def announce(name: str) -> None:
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
        announce(name)
        for file in files[:-1]:
            with suppress(RemoteEntryNotFoundError):
                hf_hub_download(name, file, dry_run=True)
                return
        hf_hub_download(name, files[-1], dry_run=True)
    except (OSError, HFValidationError) as error:
        raise ValueError(reason(name, error, files[0])) from error


def _from_hub(name: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    _check_id(name)
    announce(name)
    try:
        return Path(hf_hub_download(name, file))
    except (OSError, HFValidationError) as error:  # what the hub's client raises is an OSError, too
        raise ValueError(reason(name, error, file)) from error


def kept_at(url: str) -> Path:
    """Where a file of no hub is kept: under its URL's digest and its own name."""
    name = Path(unquote(urlsplit(url).path)).name
    return cache_folder() / f"{sha256(url.encode()).hexdigest()[:16]}-{name}"


def _download(url: str) -> Path:
    path = kept_at(url)
    if not path.is_file():
        content = _answer(url, whole=True)
        with whole(path) as unfinished:
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


@contextmanager
def whole(path: Path) -> Generator[Path]:
    """A path beside ``path`` to write to, which takes its place once all is written: no half file is ever there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def reason(name: str, error: Exception, what: str = "") -> str:
    """Why something of a model could not be had, and what to do."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    if said := barred(name, error):
        return said
    what = f"{what} of " if what else ""
    unreached = any(isinstance(cause, LocalEntryNotFoundError) for cause in causes(error))
    first = "it is not in the hub's cache, and the hub is not reached" if unreached else first_line(error)
    if Path(name).is_dir():
        return f"{what}folder {name} cannot be had: {first}; get the folder anew"
    return f"{what}model {name!r} cannot be had: {first}; check the network, or give the folder of a copy"
