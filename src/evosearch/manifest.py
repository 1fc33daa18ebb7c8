"""manifest.json: what a run folder says of its run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evosearch import strict_json


class Damaged(ValueError):
    """A file of a run is not what was written."""


def holds_run(path: Path) -> bool:
    """Whether there is a run in a folder, finished or not."""
    return (path / "manifest.json").is_file()


def read_manifest(path: Path) -> dict[str, Any]:
    """What a run folder says of its run.

    Raises:
        ValueError: There is no run, or its manifest is damaged.
    """
    if not holds_run(path):
        lack = "has no manifest.json" if path.is_dir() else "does not exist"
        raise ValueError(f"run must be the folder of one run, but {path} {lack}")
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if not isinstance(manifest["settings"], dict) or not isinstance(manifest["status"], str):
            raise ValueError("no settings")
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"{path / 'manifest.json'} is damaged ({error}), so that its run cannot go on; begin a new one"
        ) from error
    return manifest


def check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """ValueError, which lists the differences, where a run depends on other things than these."""
    now = json.loads(strict_json.dumps(new))
    differ = [
        f"{name} was {_brief(old.get(name))}, is {_brief(now.get(name))}"
        for name in sorted(old.keys() | now.keys())
        if old.get(name) != now.get(name)
    ]
    if differ:
        raise ValueError(f"run {path} cannot go on, since it depends on what is another now: {'; '.join(differ)}")


def _brief(value: Any) -> str:
    words = json.dumps(value)
    return words if len(words) <= 120 else f"{words[:119]}…"
