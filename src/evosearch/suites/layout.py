"""Samples in the folders and under the names that a suite's scorer looks for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from evosearch.store import check_free
from evosearch.suites.runs import Sample, Searched

Scores = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """What a scorer says of one sample.

    Attributes:
        name: The sample, as the suite names it, from the exported folder on.
        scores: By name.
        prompt: Its prompt, where the result file tells.
    """

    name: str
    scores: Scores
    prompt: str | None = None


@dataclass(frozen=True)
class Suite:
    """A suite's rules.

    Attributes:
        name: As commands name it.
        ending: Of its samples' files.
        needs: How many samples of a prompt the scorer looks for.
        least: The fewest that it takes, where it takes fewer; its number is fixed where 0.
        most: The most of a prompt.
        shares: Whether one set of samples serves prompts of the same text.
        names: Where the k-th sample of a prompt goes: paths by slashes. ValueError if the prompt cannot be scored.
        beside: Text files that belong to a prompt, by their paths.
        read: A result file: the samples' scores, and the suite's own sums over them.
        totals: What follows from all sums that are known.
    """

    name: str
    ending: str
    needs: Callable[[Searched], int]
    least: int
    most: Callable[[Searched], int]
    shares: bool
    names: Callable[[Searched, int], list[str]]
    beside: Callable[[Searched], dict[str, str]]
    read: Callable[[Path], tuple[list[Scored], Scores]]
    totals: Callable[[Mapping[str, Any]], Scores]


def layout(
    suite: Suite, searched: Sequence[Searched], count: Callable[[Searched], int]
) -> dict[str, tuple[Searched, Sample]]:
    """Which sample goes where.

    Args:
        suite: The suite.
        searched: The prompts.
        count: How many samples of a prompt.

    Raises:
        ValueError: A prompt cannot be scored by this suite, or two want one name.
    """
    placed: dict[str, tuple[Searched, Sample]] = {}
    for prompt in searched:
        for k, sample in enumerate(prompt.samples[: count(prompt)]):
            if not sample.file.endswith(suite.ending):
                what = {".png": "pictures", ".mp4": "videos"}[suite.ending]
                raise ValueError(f"{suite.name} scores {what}, but {sample.path} is none; name runs of another model")
            for name in suite.names(prompt, k):
                taken = placed.setdefault(name, (prompt, sample))[0]
                if taken is not prompt and not (suite.shares and taken.text == prompt.text):
                    raise ValueError(
                        f"{suite.name} has one place {name} for two prompts, {taken.text[:80]!r} in "
                        f"{taken.samples[0].folder} and {prompt.text[:80]!r} in {sample.folder}; export one at a time"
                    )
    return placed


def write(suite: Suite, searched: Sequence[Searched], out: Path, samples: int | None = None) -> int:
    """Lay the samples of a set out in a new folder, which is there whole or not at all.

    Args:
        suite: The suite.
        searched: The prompts, see `runs.read_runs`.
        out: The new folder.
        samples: Samples of a prompt; as many as the suite looks for by default.

    Returns:
        How many samples are there.

    Raises:
        ValueError: The folder is taken, there are too few samples, or a prompt cannot be scored.
    """
    check_free(out, "--out")
    count = suite.needs if samples is None else _asked(suite, searched, samples)
    for prompt in searched:
        if len(prompt.samples) < count(prompt):
            raise ValueError(
                f"{suite.name} is to have {count(prompt)} samples of a prompt, but of {prompt.text[:80]!r} the runs "
                f"keep {len(prompt.samples)}; {'give' if suite.least == 0 else 'give --samples, or'} more runs with "
                "other seeds, or larger budgets"
            )
    placed = layout(suite, searched, count)
    texts = {name: text for prompt in searched for name, text in suite.beside(prompt).items()}
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="part-", dir=out.parent) as part:
        root = Path(part) / "out"
        for name in [*placed, *texts]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
        for name, (_, sample) in placed.items():
            shutil.copyfile(sample.path, root / name)
        for name, text in texts.items():
            (root / name).write_text(text, encoding="utf-8")
        root.replace(out)
    return len(placed)


def _asked(suite: Suite, searched: Sequence[Searched], samples: int) -> Callable[[Searched], int]:
    if suite.least == 0:
        raise ValueError(f"--samples must be left out for {suite.name}, whose scorer ends at a sample that is missing")
    most = max(map(suite.most, searched))
    if not suite.least <= samples <= most:
        raise ValueError(f"--samples must be {suite.least} to {most} for {suite.name}, got {samples}")
    return lambda prompt: min(samples, suite.most(prompt))
