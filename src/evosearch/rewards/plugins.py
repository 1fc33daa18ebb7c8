"""Rewards that other packages add, by entry points in the group ``evosearch.rewards``.

They are found by what is installed and imported by `load` alone: a package that is broken, or slow, is in nobody's way
until its reward is asked for.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from evosearch.checks import first_line

GROUP = "evosearch.rewards"


@dataclass(frozen=True)
class Plugin:
    """An entry point that names a reward.

    Attributes:
        name: As in ``reward="name"``, with ``_`` for ``-``.
        package: Which has it, with its version.
        purpose: Of the package, in its own words.
        folder: Where the package is installed.
        entry: The entry point.
    """

    name: str
    package: str
    purpose: str
    folder: str
    entry: EntryPoint


def plugins() -> list[Plugin]:
    """All that are installed, by name; a name may come twice."""
    found = [_described(entry) for entry in entry_points(group=GROUP)]
    return sorted(found, key=lambda plugin: (plugin.name, plugin.package))


def load(name: str, known: list[Plugin]) -> Any:
    """The reward of a plug-in; what it names is called if it is a class.

    Args:
        name: Of the reward, with ``_`` for ``-``.
        known: Plug-ins, of which at least one has it.

    Raises:
        ValueError: Several packages have this name, it fails to import or to be made, or is not callable.
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
    return made


def _described(entry: EntryPoint) -> Plugin:
    name, dist = entry.name.replace("-", "_"), entry.dist
    if dist is None:
        return Plugin(name, "of unknown name", "", "", entry)
    said = dist.metadata.json  # where a field that is missing is no error, now or in later Pythons
    package = " ".join(str(said[field]) for field in ("name", "version") if field in said)
    return Plugin(name, package, str(said.get("summary", "")), str(dist.locate_file("")), entry)
