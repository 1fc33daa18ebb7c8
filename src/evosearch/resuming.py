"""resume(): go on with a run, or with the runs of several prompts, by what their folders say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evosearch import strict_json
from evosearch.budget import Budget
from evosearch.manifest import Damaged, holds_run, read_manifest
from evosearch.prompts import Prompt
from evosearch.result import Result
from evosearch.store import whole

if TYPE_CHECKING:
    from evosearch.executors.hiring import Workers

_PLAN = "prompts.json"


class NotPlain(ValueError):
    """An argument has no form as plain data."""


def spelled(**arguments: Any) -> dict[str, Any]:
    """Arguments of `evosearch.search` as plain data; null where one is an object, which has to be given again."""
    found = dict[str, Any]()
    for name, value in arguments.items():
        try:
            found[name] = _plain(value)
        except NotPlain:
            found[name] = {"object": getattr(value, "__name__", type(value).__name__)}
    return found


def read_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `spelled`, without those that have to be given again."""
    return {name: _read(value) for name, value in arguments.items() if not _is_object(value)}


def comparable(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two sets of spelled arguments without those of which one is an object and one is not.

    A pipeline may be named first and handed over later; its weights are compared elsewhere.
    """
    names = [name for name in before.keys() | now.keys() if _is_object(before.get(name)) == _is_object(now.get(name))]
    before, now = ({name: each[name] for name in names if name in each} for each in (before, now))
    return before, now


def write_plan(folder: Path, prompts: Sequence[str], arguments: Mapping[str, Any], resume: bool) -> None:
    """Say in the folder of several runs what they are to be.

    Raises:
        ValueError: It says something else already.
    """
    texts = [{"text": str(text), "origin": text.origin if isinstance(text, Prompt) else None} for text in prompts]
    plan = json.loads(strict_json.dumps({"schema": 1, "prompts": texts, "arguments": arguments}))
    if resume and (folder / _PLAN).is_file():
        if (before := _read_plan(folder)) != plan:
            differ = [name for name in ("prompts", "arguments") if before.get(name) != plan[name]]
            raise ValueError(f"runs in {folder} cannot go on with other {' and '.join(differ)}; name another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / _PLAN) as part:
        part.write_text(strict_json.dumps(plan, indent=2) + "\n")


def resume(
    run: str | Path, *, progress: bool = True, workers: int | Workers | None = None, **objects: Any
) -> Result | list[Result]:
    """Go on with a run where it stopped; what comes out is what would have come without a stop, to the bit.

    Args:
        run: Its folder; or that of the runs of several prompts, of which those that are done are left alone.
        progress: Show a progress bar.
        workers: As for `evosearch.search`, whoever computed before.
        **objects: Arguments of `evosearch.search` that are no plain data, such as a pipeline or a function as the
            reward, as they were.

    Returns:
        The result; of several prompts, those of the runs that were not done.

    Raises:
        ValueError: There is no run, an argument has to be given, or the run depends on something that is another now.
    """
    from evosearch.run import search

    run = Path(run)
    if holds_run(run):
        arguments = _complete(run, read_manifest(run).get("arguments"), objects)
        return search(**arguments, run_dir=run, resume=True, progress=progress, workers=workers)
    if not (run / _PLAN).is_file():
        read_manifest(run)  # says what is wrong
    plan = _read_plan(run)
    arguments = _complete(run, plan["arguments"], objects)
    left = [
        (_prompt(prompt), each)
        for k, prompt in enumerate(plan["prompts"])
        if not (holds_run(each := run / f"{k:04d}") and read_manifest(each)["status"] == "done")
    ]
    if not left:
        return []
    prompts, folders = zip(*left, strict=True)
    return search(
        prompt=list(prompts), **arguments, run_dir=list(folders), resume=True, progress=progress, workers=workers
    )


def _complete(run: Path, arguments: Any, objects: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(arguments, dict):
        raise ValueError(f"run {run} was made by an evosearch that could not go on; begin a new one")
    told = cast(dict[str, Any], arguments)
    lacking = [
        f"{name}= ({value['object']})" for name, value in told.items() if _is_object(value) and name not in objects
    ]
    if lacking:
        raise ValueError(
            f"run {run} was asked for with objects, which a folder cannot hold: give {', '.join(lacking)} again, by "
            "evosearch.resume in Python"
        )
    return read_arguments(told) | dict(objects)


def _prompt(entry: Mapping[str, Any]) -> str:
    if entry["origin"] is None:
        return entry["text"]
    prompt = Prompt(entry["text"])
    for name, value in entry["origin"].items():
        setattr(prompt, name, value)
    return prompt


def _read_plan(folder: Path) -> dict[str, Any]:
    try:
        plan = json.loads((folder / _PLAN).read_text())
        if not isinstance(plan["prompts"], list) or not isinstance(plan["arguments"], dict):
            raise ValueError("no prompts")
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{folder / _PLAN} is damaged ({error}), so that its runs cannot go on") from error
    return plan


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return _at_home(value) if isinstance(value, str) else value
    if isinstance(value, Path):
        return _at_home(str(value))
    if isinstance(value, Budget):
        return {"budget": asdict(value)}
    if isinstance(value, Mapping):
        entries = cast(Mapping[Any, Any], value)
        if all(isinstance(name, str) for name in entries):
            return {"mapping": {name: _plain(v) for name, v in entries.items()}}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in cast(list[Any], value)]
    raise NotPlain


def _at_home(text: str) -> str:
    """A folder or file by its whole path, so that a run may go on from elsewhere."""
    names_one = "/" in text and len(text) < 1024 and "\0" not in text and Path(text).exists()
    return str(Path(text).resolve()) if names_one else text


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        entries = cast(dict[str, Any], value)
        if "budget" in entries:
            return Budget(**entries["budget"])
        return {name: _read(v) for name, v in entries["mapping"].items()}
    if isinstance(value, list):
        return [_read(v) for v in cast(list[Any], value)]
    return value


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and "object" in value
