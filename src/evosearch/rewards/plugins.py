"""Rewards that other packages add, by entry points in the group ``evosearch.rewards``.

They are found by what is installed and imported by `load` alone: a package that is broken, or slow, is in nobody's way
until its reward is asked for. What a package has to say of its rewards before that stands in a file of it, `DECLARED`.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evosearch.checks import first_line

GROUP = "evosearch.rewards"
DECLARED = "evosearch_rewards.toml"
FACTS = ("range", "licence", "needs", "download")
"""What `DECLARED` may say of a reward, in a table of its name."""


@dataclass(frozen=True)
class Plugin:
    """An entry point that names a reward.

    Attributes:
        name: As in ``reward="name"``, with ``_`` for ``-``.
        package: Which has it, with its version.
        purpose: Of the package, in its own words.
        folder: Where the package is installed.
        entry: The entry point.
        facts: What the package says of it, by `FACTS`.
    """

    name: str
    package: str
    purpose: str
    folder: str
    entry: EntryPoint
    facts: dict[str, str] = field(default_factory=dict[str, str])


def plugins() -> list[Plugin]:
    """All that are installed, by name; a name may come twice."""
    found = [_described(entry) for entry in entry_points(group=GROUP)]
    return sorted(found, key=lambda plugin: (plugin.name, plugin.package))


def load(name: str, known: list[Plugin], fit: Callable[[Any], Any]) -> Any:
    """The reward of a plug-in; what it names is called if it is a class.

    Args:
        name: Of the reward, with ``_`` for ``-``.
        known: Plug-ins, of which at least one has it.
        fit: Makes a reward of any callable that can be one; ValueError for others.

    Raises:
        ValueError: Several packages have this name, it fails to import or to be made, or is no reward.
    """
    first, *others = (plugin for plugin in known if plugin.name == name)
    if others:
        packages = " and ".join(plugin.package for plugin in (first, *others))
        raise ValueError(f"reward {name!r} is in several packages, {packages}; uninstall all but one")
    who = f"reward {name!r} of package {first.package}"
    by = f"its entry point {first.entry.name} = {first.entry.value}"
    try:
        made = first.entry.load()
        made = made() if inspect.isclass(made) else made
    except Exception as error:  # another's code raises what it likes
        why = ": ".join(dict.fromkeys((type(error).__name__, first_line(error))))
        raise ValueError(f"{who} cannot be loaded by {by} ({why}); repair or uninstall the package") from error
    if not callable(made):
        raise ValueError(f"{who} must be callable, but {by} gives {type(made).__name__}; repair or uninstall it")
    try:
        return fit(made)
    except ValueError as error:
        raise ValueError(f"{who} cannot be used by {by}: {first_line(error)}; repair or uninstall it") from None


def _described(entry: EntryPoint) -> Plugin:
    name, dist, facts = entry.name.replace("-", "_"), entry.dist, _facts(entry)
    if dist is None:
        return Plugin(name, "of unknown name", "", "", entry, facts)
    said = dist.metadata.json  # where a field that is missing is no error, now or in later Pythons
    package = " ".join(str(said[field]) for field in ("name", "version") if field in said)
    return Plugin(name, package, str(said.get("summary", "")), str(dist.locate_file("")), entry, facts)


def _facts(entry: EntryPoint) -> dict[str, str]:
    """What the package's file says of a reward; nothing of the package is imported."""
    try:
        spec = find_spec(
            entry.value.partition(":")[0].partition(".")[0].strip()
        )  # of a part, it would import the whole
        folders = spec.submodule_search_locations or [] if spec is not None else []
        file = next(path for folder in folders if (path := Path(folder) / DECLARED).is_file())
        told = tomllib.loads(file.read_text("utf-8"))
    except Exception:  # a broken package spoils no list, and says what is wrong when it is asked for
        return {}
    tables = {name.replace("-", "_"): table for name, table in told.items() if isinstance(table, dict)}
    table = tables.get(entry.name.replace("-", "_"), {})
    return {fact: table[fact] for fact in FACTS if isinstance(table.get(fact), str)}
