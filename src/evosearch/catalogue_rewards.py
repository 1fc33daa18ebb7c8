"""What is known of each reward, from its facts and docstring, and of those of other packages: for `evosearch list`."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from evosearch import rewards
from evosearch.rewards.facts import Facts
from evosearch.rewards.plugins import FACTS, Plugin, plugins


def _options(name: str, made: Any) -> list[str]:
    """What a reward takes in brackets."""
    options = [*inspect.signature(made).parameters] if inspect.isclass(made) else []
    return [f"options: {name}({'=, '.join(options)}=)"] if options else []


_SPELLED = {
    "weighted": "weighted({a: 1, b: 0.5})",
    "z_scored": "z_scored(a, b, settle=16)",
    "rank_average": "rank_average(a, b, settle=16)",
    "minimum": "minimum(a, b)",
    "constrained": "constrained(maximise=a, subject_to={b: 0.5})",
    "pareto": "pareto(a, b)",
}
"""How each combination of rewards ``a`` and ``b`` is written."""


def lines() -> list[list[str]]:
    """Of each reward its name and what is to be shown of it; nothing of a plug-in is imported."""
    return [*map(_built_in, rewards.NAMES), *_added(plugins()), *map(_combination, rewards.COMBINATIONS)]


def facts_of(name: str) -> Facts:
    """What a built-in reward says of itself."""
    facts: Facts = import_module(f"evosearch.rewards.{name}").FACTS
    return facts


def _built_in(name: str) -> list[str]:
    facts = facts_of(name)
    made = getattr(import_module(f"evosearch.rewards.{name}"), rewards.NAMES[name])
    return [
        name,
        inspect.cleandoc(made.__doc__ or "").splitlines()[0],
        f"range: {facts.range}",
        f"licence: {facts.licence}",
        f"needs: {facts.needs}",
        *_options(name, made),
        f"download: {facts.download}",
        f"ready: {facts.state}",
        inspect.getsourcefile(made) or "",
    ]


def _combination(name: str) -> list[str]:
    function = getattr(rewards, name)
    return [name, inspect.cleandoc(function.__doc__ or "").splitlines()[0], f"of other rewards: {_SPELLED[name]}"]


def _added(found: list[Plugin]) -> list[list[str]]:
    names = [plugin.name for plugin in found]
    return [
        [
            plugin.name,
            plugin.purpose or "A plug-in, whose package says nothing of it.",
            *(f"{fact}: {plugin.facts.get(fact, 'import it to know')}" for fact in FACTS),
            f"package: {plugin.package}, entry point {plugin.entry.name} = {plugin.entry.value}",
            *(["hidden by the built-in reward of this name"] if plugin.name in rewards.NAMES else []),
            *(["cannot be loaded: several packages have this name"] if names.count(plugin.name) > 1 else []),
            plugin.folder,
        ]
        for plugin in found
    ]
