"""GenEval: a folder for each prompt, with its line of the metadata and its samples.

Ghosh et al., 2023, arXiv:2310.11513. The layout is what ``generation/diffusers_generate.py`` of djghosh13/geneval
writes and ``evaluation/evaluate_images.py`` reads; the sums are those of ``evaluation/summary_scores.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evosearch.suites.layout import Scored, Scores, Suite
from evosearch.suites.runs import Searched


def _folder(prompt: Searched) -> str:
    entry = prompt.entry
    if prompt.place < 0 or not isinstance(entry.get("tag"), str) or not isinstance(entry.get("include"), list):
        raise ValueError(
            f"geneval must know tag and include of a prompt, but {prompt.samples[0].folder} says nothing of them; "
            "generate with --prompts evaluation_metadata.jsonl"
        )
    return f"{prompt.place:05}"


def _names(prompt: Searched, k: int) -> list[str]:
    return [f"{_folder(prompt)}/samples/{k:05}.png"]


def _beside(prompt: Searched) -> dict[str, str]:
    return {f"{_folder(prompt)}/metadata.jsonl": json.dumps(prompt.entry)}


def _read(path: Path) -> tuple[list[Scored], Scores]:
    scored: list[Scored] = []
    prompts: dict[str, bool] = {}
    tags: dict[str, list[bool]] = {}
    for k, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            file, tag, prompt, correct = (row[name] for name in ("filename", "tag", "prompt", "correct"))
            metadata, reason = str(row["metadata"]), str(row["reason"])
            if not (isinstance(file, str) and isinstance(tag, str) and isinstance(correct, bool)):
                raise TypeError("values of another kind")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path}, line {k}: expected an object with filename, tag, prompt, correct, reason and metadata, as "
                f"evaluate_images.py writes, got {line[:80].decode(errors='replace')!r} ({error!r})"
            ) from None
        name = "/".join(re.split(r"[/\\]", file)[-3:])
        scored.append(Scored(name, {"correct": correct, "reason": reason}, prompt))
        prompts[metadata] = prompts.get(metadata, False) or correct
        tags.setdefault(tag, []).append(correct)
    if not scored:
        raise ValueError(f"{path} must be a result file of evaluate_images.py, but holds no scores")
    task = {tag: sum(values) / len(values) for tag, values in tags.items()}
    sums = {
        **task,
        "correct images": sum(sum(values) for values in tags.values()) / len(scored),
        "correct prompts": sum(prompts.values()) / len(prompts),
        "overall": sum(task.values()) / len(task),
    }
    return scored, sums


def _totals(sums: Mapping[str, Any]) -> Scores:
    del sums  # which are whole already
    return {}


GENEVAL = Suite(
    name="geneval",
    ending=".png",
    needs=lambda _: 4,
    least=1,
    most=lambda _: 100_000,
    shares=False,
    names=_names,
    beside=_beside,
    read=_read,
    totals=_totals,
)
