"""Packages that a user installs for a reward: those whose licence, or whose needs, are not for everybody."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from evosearch.checks import first_line


def installed(package: str) -> bool:
    """Whether it can be found; it is not imported."""
    return find_spec(package) is not None


def version_of(package: str) -> str | None:
    """Its version, of which what it computes depends; None where it does not say so."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def required(package: str, reward: str, terms: str) -> Any:
    """A package, imported.

    Args:
        package: Its name.
        reward: That needs it.
        terms: On which it comes, for who has yet to install it.

    Raises:
        ValueError: It is not installed, or cannot be imported.
    """
    if not installed(package):
        raise ValueError(f"reward {reward} needs the package {package}: pip install {package} ({terms})")
    try:
        return import_module(package)
    except Exception as error:  # another's code raises what it likes
        raise ValueError(
            f"package {package}, which reward {reward} needs, cannot be imported: {first_line(error)}"
        ) from error
