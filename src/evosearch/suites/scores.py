"""Scores that a suite's scorer gave, stored beside the runs: ``scores.json``, next to the manifest of each prompt.

``{suite: {"samples": {file: {name: score}}}}`` beside a prompt's samples; ``{suite: {"sums": {name: score}, "runs":
[...]}}`` in the run's own folder, with the names of all the runs that were scored together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from evosearch import strict_json
from evosearch.store import whole
from evosearch.suites.layout import Scores, Suite, layout
from evosearch.suites.runs import distinct, read_runs

_FILE = "scores.json"


def store(suite: Suite, runs: Sequence[Path], results: Path) -> tuple[Scores, int]:
    """Take a result file over into the runs that were exported; what earlier files told stays, of other dimensions too.

    Args:
        suite: The suite.
        runs: The runs, the same ones as were exported.
        results: What the scorer wrote.

    Returns:
        The suite's sums and totals as far as they are known, and how many samples have scores in this file.

    Raises:
        ValueError: The file is not the suite's, or speaks of samples that are not in these runs; nothing is stored.
    """
    if not results.is_file():
        raise ValueError(f"RESULT_FILE must be what the scorer of {suite.name} wrote, but there is no file {results}")
    runs = distinct(runs)
    scored, sums = suite.read(results)
    placed = layout(suite, read_runs(runs), lambda prompt: len(prompt.samples))
    told: dict[Path, dict[str, Scores]] = {}
    for each in scored:
        prompt, sample = placed.get(each.name, (None, None))
        if prompt is None or sample is None:
            raise ValueError(f"{results} speaks of {each.name}, which is none of these runs'; give those exported")
        if each.prompt not in (None, prompt.text):
            raise ValueError(
                f"{results} speaks of {each.name} as {each.prompt!r}, but in these runs that is {prompt.text!r}; give "
                "those that were exported"
            )
        told.setdefault(sample.folder, {}).setdefault(sample.file, {}).update(each.scores)
    files = {folder: _read(folder / _FILE) for folder in (*told, *runs)}
    for folder, samples in told.items():
        ours = files[folder].setdefault(suite.name, {}).setdefault("samples", {})
        for file, scores in samples.items():
            ours[file] = {**ours.get(file, {}), **scores}
    known = files[runs[0]].get(suite.name, {})
    names = sorted(run.resolve().name for run in runs)
    earlier = known.get("sums", {}) if known.get("runs") == names else {}
    sums = {name: value for name, value in {**earlier, **sums}.items() if isinstance(value, int | float)}
    sums |= suite.totals(sums)
    for run in runs:
        files[run].setdefault(suite.name, {}).update(sums=sums, runs=names)
    for folder, content in files.items():
        with whole(folder / _FILE) as part:
            part.write_text(strict_json.dumps(content, indent=2) + "\n")
    return sums, sum(map(len, told.values()))


def table(sums: Scores) -> str:
    """The sums, as a table."""
    wide = max(map(len, sums), default=0)
    return "\n".join(f"{name:{wide}}  {value:.4f}" for name, value in sums.items())


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = [part.get(name, {}) for part in content.values() for name in ("samples", "sums")]
        if not all(isinstance(part, dict) for part in parts):
            raise TypeError("no scores of suites")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and import again what it held") from None
    return cast("dict[str, dict[str, Any]]", content)
