"""Rewards of several as text, spelled as in Python with names unquoted: ``minimum(shapes, z_scored(jpeg))``."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from evosearch import rewards
from evosearch.rewards import TensorReward

_COLON = re.compile(
    rf"\b({'|'.join(rewards.NAMES).replace('_', '[-_]')}):\s*([^\s,(){{}}]*[^\s,(){{}}\d.][^\s,(){{}}]*)"
)
"""A reward and what follows its colon, unless that is a number, as in ``{jpeg:1}``."""

_HYPHEN = re.compile(r"""("[^"]*"|'[^']*')|(?<=\w)-(?=[^\W\d])""")
"""As in shapes-clip, which is one name; not what is in quotes, which comes before it."""


def made(text: str) -> TensorReward:
    """The reward that a text spells: a call of a function in `evosearch.rewards.COMBINATIONS`, or of a reward's class.

    Raises:
        ValueError: It is no such call.

    >>> made("constrained(maximise=jpeg, subject_to={shapes-quality: .5})").__name__
    'constrained(maximise=jpeg, subject_to={shapes_quality: 0.5})'
    """
    return rewards.resolve(_value(_tree(text), text))


def check_names(text: str) -> None:
    """ValueError where a text of this kind has a name that is no reward's and no combination's; nothing is made."""
    _check(_tree(text))


def _check(node: ast.expr) -> None:
    match node:
        case ast.Name(id=name):
            rewards.check_names(name)
        case ast.Dict(keys=keys):  # values are to be numbers, and that is said of them
            for key in keys:
                if key is not None:
                    _check(key)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            _function(name)
            if name in rewards.COMBINATIONS:  # others take words of their own, too
                for argument in [*args, *(keyword.value for keyword in keywords)]:
                    _check(argument)
        case _:
            pass


def _tree(text: str) -> ast.expr:
    try:
        return ast.parse(_plain(text.strip()), mode="eval").body
    except (SyntaxError, ValueError):
        raise _wrong(text) from None


def _plain(text: str) -> str:
    """Text with names as Python has them."""
    return _HYPHEN.sub(lambda found: found[1] or "_", text)


def _value(node: ast.expr, text: str) -> Any:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Dict(keys=keys, values=values):
            named = [key for key in keys if isinstance(key, ast.Name | ast.Call)]
            if len(named) < len(keys):
                raise _wrong(text)
            return {_value(key, text): _value(value, text) for key, value in zip(named, values, strict=True)}
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            given = {str(keyword.arg): _value(keyword.value, text) for keyword in keywords}
            return _called(name, [_value(arg, text) for arg in args], given)
        case _:
            try:
                return ast.literal_eval(node)
            except (ValueError, TypeError):
                raise _wrong(text) from None


def _called(name: str, args: list[Any], knobs: dict[str, Any]) -> Any:
    function = _function(name)
    try:
        inspect.signature(function).bind(*args, **knobs)
    except TypeError as error:
        takes = ", ".join(inspect.signature(function).parameters)
        raise ValueError(f"reward {name}(...): {error}; it takes {takes}") from None
    return function(*args, **knobs)


def _function(name: str) -> Callable[..., Any]:
    if name in rewards.COMBINATIONS:
        return getattr(rewards, name)
    if name in rewards.NAMES:
        kind = getattr(import_module(f"evosearch.rewards.{name}"), rewards.NAMES[name])
        if inspect.isclass(kind):
            return kind
        raise ValueError(f"reward {name} takes nothing in brackets; write {name}")
    near = get_close_matches(name, [*rewards.COMBINATIONS, *rewards.NAMES], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"reward {name}(...) must be one of {', '.join(rewards.COMBINATIONS)}{hint}")


def _wrong(text: str) -> ValueError:
    hint = ""
    if found := _COLON.search(text):
        name, argument = found[1].replace("-", "_"), found[2].rstrip(":")
        inner = argument if argument in rewards.NAMES else f'"{argument}"'
        hint = f"; within brackets write {name}({inner}) for {name}:{argument}"
    return ValueError(
        f"reward must be a name or a combination such as minimum(shapes, jpeg) or "
        f"constrained(maximise=jpeg, subject_to={{shapes: 0.9}}), got {text!r}{hint}"
    )
