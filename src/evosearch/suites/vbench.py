"""VBench and VBench-2.0: videos that are named by their prompts.

Huang et al., 2023, arXiv:2311.17982; Zheng et al., 2025, arXiv:2503.21755. Names as ``build_full_info_json`` of
``vbench/__init__.py`` and of ``VBench-2.0/vbench2/__init__.py`` in Vchitect/VBench looks for them: ``<prompt>-<k>.mp4``
in one folder; for VBench-2.0 the first 180 characters of the prompt, in a folder for each dimension. The scorers take
the ending from whatever file the system lists first, so nothing else may lie there. Totals are those of the two
``scripts/cal_final_score.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from evosearch.suites.layout import Scored, Scores, Suite
from evosearch.suites.runs import Searched

_SHORT = 180  # characters of a prompt that VBench-2.0 names a video by
_LONGEST = 255  # bytes of a file's name

# Lowest and highest value of a dimension, by scripts/constant.py.
_QUALITY = {
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975),
    "dynamic_degree": (0.0, 1.0),
    "aesthetic_quality": (0.0, 1.0),
    "imaging_quality": (0.0, 1.0),
}
_SEMANTIC = {
    "object_class": (0.0, 1.0),
    "multiple_objects": (0.0, 1.0),
    "human_action": (0.0, 1.0),
    "color": (0.0, 1.0),
    "spatial_relationship": (0.0, 1.0),
    "scene": (0.0, 0.8222),
    "appearance_style": (0.0009, 0.2855),
    "temporal_style": (0.0, 0.364),
    "overall_consistency": (0.0, 0.364),
}
_HALF = "dynamic_degree"  # which weighs half

_GROUPS = {
    "creativity": ("Composition", "Diversity"),
    "commonsense": ("Instance_Preservation", "Motion_Rationality"),
    "controllability": (
        "Camera_Motion", "Complex_Landscape", "Complex_Plot", "Dynamic_Attribute", "Dynamic_Spatial_Relationship",
        "Human_Interaction", "Motion_Order_Understanding",
    ),
    "human fidelity": ("Human_Anatomy", "Human_Clothes", "Human_Identity"),
    "physics": ("Material", "Mechanics", "Multi-View_Consistency", "Thermotics"),
}  # fmt: skip
_DIMENSIONS2 = [dimension for group in _GROUPS.values() for dimension in group]


def _named(prompt: Searched, text: str, k: int) -> str:
    """The name of a video, by the suite's rule alone: what would be another name is refused, never repaired."""
    bad = next((c for c in text if c in "/\\" or not c.isprintable()), None)
    name = f"{text}-{k}.mp4"
    if bad is not None or len(name.encode(errors="replace")) > _LONGEST:
        why = f"it holds {bad!r}" if bad is not None else f"it has more than {_LONGEST} bytes"
        raise ValueError(
            f"prompt {prompt.text[:80]!r} of {prompt.samples[0].folder} cannot name a file, as VBench would have it: "
            f"{why}; leave its run out"
        )
    return name


def _names(prompt: Searched, k: int) -> list[str]:
    return [_named(prompt, prompt.text, k)] if k < _most(prompt) else []


def _most(prompt: Searched) -> int:
    """Videos of a prompt. Of many that may flicker, static_filter.py chooses the first five that stand still."""
    named = prompt.entry.get("dimension")
    return 25 if isinstance(named, list) and "temporal_flickering" in named else 5


def _dimensions(prompt: Searched) -> list[str]:
    named = prompt.entry.get("dimension")
    dimensions = cast("list[Any]", named) if isinstance(named, list) else []
    if not dimensions or not all(dimension in _DIMENSIONS2 for dimension in dimensions):
        raise ValueError(
            f"vbench2 must know the dimensions of a prompt, but {prompt.samples[0].folder} names {named!r}; generate "
            "with --prompts VBench2_full_text_info.json"
        )
    return dimensions


def _videos(dimension: str) -> int:
    return 20 if dimension == "Diversity" else 3


def _names2(prompt: Searched, k: int) -> list[str]:
    name = _named(prompt, prompt.text[:_SHORT], k)
    return [f"{dimension}/{name}" for dimension in _dimensions(prompt) if k < _videos(dimension)]


def _read(path: Path, dimensions: list[str]) -> tuple[list[Scored], Scores]:
    """A file of results: ``{dimension: [score, [{"video_path": ..., "video_results": ...}, ...]]}``."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(told, dict) or not told:
            raise TypeError("no object of dimensions")
        results = cast("dict[str, Any]", told)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} must be an eval_results.json of VBench, but is none ({error})") from None
    scored: list[Scored] = []
    sums: Scores = {}
    for dimension, result in results.items():
        if dimension not in dimensions:
            raise ValueError(f"{path}: expected dimensions out of {', '.join(dimensions)}, got {dimension!r}")
        try:
            sums[dimension], videos = result
            for video in videos:
                *folders, file = re.split(r"[/\\]", video["video_path"])
                if folders[-1:] == ["filtered_videos"]:
                    continue  # static_filter.py has numbered these anew, so that which is which is lost
                name = f"{dimension}/{file}" if dimensions is _DIMENSIONS2 else file
                scored.append(Scored(name, {dimension: _number(video["video_results"])}))
            _number(sums[dimension])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, {dimension}: expected [score, [{{video_path, video_results}}, ...]], as VBench writes, got "
                f"{str(result)[:80]!r} ({error!r})"
            ) from None
    return scored, sums


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _totals(sums: Mapping[str, Any]) -> Scores:
    totals: Scores = {}
    for name, group in (("quality", _QUALITY), ("semantic", _SEMANTIC)):
        if sums.keys() >= group.keys():
            weights = {dimension: 0.5 if dimension == _HALF else 1.0 for dimension in group}
            scaled = {d: (sums[d] - low) / (high - low) for d, (low, high) in group.items()}
            totals[name] = sum(weights[d] * scaled[d] for d in group) / sum(weights.values())
    if len(totals) == 2:
        totals["total"] = (4 * totals["quality"] + totals["semantic"]) / 5
    return totals


def _totals2(sums: Mapping[str, Any]) -> Scores:
    totals: Scores = {
        name: sum(sums[d] for d in group) / len(group) for name, group in _GROUPS.items() if sums.keys() >= {*group}
    }
    if len(totals) == len(_GROUPS):
        totals["total"] = sum(totals.values()) / len(totals)
    return totals


def _nothing(prompt: Searched) -> dict[str, str]:
    del prompt
    return {}


VBENCH = Suite(
    name="vbench",
    ending=".mp4",
    needs=_most,
    least=1,
    most=_most,
    shares=True,
    names=_names,
    beside=_nothing,
    read=lambda path: _read(path, [*_QUALITY, *_SEMANTIC]),
    totals=_totals,
)

VBENCH2 = Suite(
    name="vbench2",
    ending=".mp4",
    needs=lambda prompt: max(map(_videos, _dimensions(prompt))),
    least=0,
    most=lambda prompt: max(map(_videos, _dimensions(prompt))),
    shares=True,
    names=_names2,
    beside=_nothing,
    read=lambda path: _read(path, _DIMENSIONS2),
    totals=_totals2,
)
