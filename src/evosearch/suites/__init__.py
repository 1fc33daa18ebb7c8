"""Benchmark suites whose scorers run elsewhere: samples are laid out for them, their scores are read back.

Theirs are old worlds (mmdet 2 and torch 1.12, torch 2.5 with CUDA 11.8), so they keep environments of their own; what
goes back and forth are a folder and a file. docs/prompt-sets.md takes it step by step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evosearch.suites.layout import Suite


def suite(name: str) -> Suite:
    """The rules of a suite, by its name on the command line."""
    from evosearch.suites.geneval import GENEVAL
    from evosearch.suites.vbench import VBENCH, VBENCH2

    return {known.name: known for known in (GENEVAL, VBENCH, VBENCH2)}[name]
