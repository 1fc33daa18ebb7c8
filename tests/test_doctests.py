"""The examples in docstrings run, and print what they say."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import evosearch

MODULES = [module.name for module in pkgutil.walk_packages(evosearch.__path__, "evosearch.")]


def _examples(name):
    return sum(len(test.examples) for test in doctest.DocTestFinder().find(import_module(name)))


def test_there_are_examples():
    assert sum(map(_examples, MODULES)) > 20


@pytest.mark.parametrize("name", [name for name in MODULES if _examples(name)])
def test_examples(name):
    failed, _ = doctest.testmod(import_module(name))
    assert failed == 0
