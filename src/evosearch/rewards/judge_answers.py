"""Reads what a judge answers: what is certain is a score, everything else is `Unreadable`, and never a number."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

_MOST = 100  # JSON values in one answer
_LEAST = 0.01  # probability of yes and no together, under which the answer is about something else
_THOUGHT = ("<think>", "</think>")


class Unreadable(ValueError):
    """An answer without a certain score; says why."""


def parse(text: str | bytes) -> Any:
    """JSON with no name twice. NaN and infinity pass, as servers in Python write them: who reads a number checks it.

    Raises:
        Unreadable: It is none.
    """
    try:
        return _STRICT.decode(text.decode() if isinstance(text, bytes) else text)
    except (ValueError, RecursionError):
        raise Unreadable("the answer is no JSON") from None


def read_score(answer: Any, low: float, high: float) -> float:
    """The number under ``score`` in the JSON object of an answer, alone or with prose or a code fence around it.

    Args:
        answer: Of chat completions, decoded.
        low: Least score.
        high: Greatest score.

    Raises:
        Unreadable: There is none, it is cut off, no number or out of range, or there are several that differ.
    """
    choice = _choice(answer)
    if choice.get("finish_reason") == "length":
        raise Unreadable("the answer was cut off by its length")
    found = list(map(_checked(low, high), _objects(_text(choice))))
    if not found:
        raise Unreadable("no JSON object with a score")
    if len(set(found)) > 1:
        raise Unreadable("several scores that differ")
    return found[0]


def read_yes(answer: Any) -> float:
    """P(yes) / (P(yes) + P(no)) of the first word, or 1 or 0 by the text where there are no probabilities.

    Raises:
        Unreadable: It speaks of something else.
    """
    choice = _choice(answer)
    likely = _likely(choice.get("logprobs"))
    if likely is None:
        word = re.sub(r"[^a-z]+", " ", _text(choice).lower()).split()
        if word not in (["yes"], ["no"]):
            raise Unreadable("neither yes nor no")
        return float(word == ["yes"])
    yes, no = (sum(p for token, p in likely if token == word) for word in ("yes", "no"))
    if yes + no < _LEAST:
        raise Unreadable("neither yes nor no is likely")
    return yes / (yes + no)


def _choice(answer: Any) -> Mapping[str, Any]:
    choices = _mapping(answer).get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        raise Unreadable("the answer has no choice")
    return cast(Mapping[str, Any], choices[0])


def _text(choice: Mapping[str, Any]) -> str:
    message = _mapping(choice.get("message"))
    content = message.get("content")
    if isinstance(content, list):  # in parts, as some endpoints give it
        content = "".join(str(_mapping(part).get("text", "")) for part in cast(list[Any], content))
    if message.get("refusal") or not isinstance(content, str):
        raise Unreadable("the judge refused to answer" if message.get("refusal") else "the answer has no text")
    said = content.rpartition(_THOUGHT[1])[2]  # a draft of a score is none
    if _THOUGHT[0] in said:
        raise Unreadable("the answer ends in a thought")
    return said


def _objects(text: str) -> list[Mapping[str, Any]]:
    """JSON objects in a text, those within others left out. A brace that begins none makes all uncertain."""
    found: list[Mapping[str, Any]] = []
    position = text.find("{")
    while position >= 0:
        try:
            value, end = _STRICT.raw_decode(text, position)
        except (ValueError, RecursionError):
            raise Unreadable("JSON that is broken or cut off") from None
        found.append(value)
        if len(found) > _MOST:
            raise Unreadable("too many JSON objects")
        position = text.find("{", end)
    return found


def _checked(low: float, high: float) -> Callable[[Mapping[str, Any]], float]:
    def score(found: Mapping[str, Any]) -> float:
        value = found.get("score")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Unreadable(f"a score that is {'missing' if value is None else type(value).__name__}, not a number")
        if not low <= value <= high:
            raise Unreadable("a score out of range")
        return float(value)

    return score


def _likely(logprobs: Any) -> list[tuple[str, float]] | None:
    """Words that may stand first and their probabilities; None where the endpoint does not say."""
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    for place in cast(list[Any], content) if isinstance(content, list) else []:
        if not _word(_mapping(place).get("token")):  # a space, a quotation mark
            continue
        top = _mapping(place).get("top_logprobs")
        return (
            [_probability(_mapping(entry)) for entry in cast(list[Any], top)] if isinstance(top, list) and top else None
        )
    return None


def _probability(entry: Mapping[str, Any]) -> tuple[str, float]:
    value = entry.get("logprob")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value < 0.01:
        raise Unreadable("a log-probability that is none")
    return _word(entry.get("token")), math.exp(min(value, 0.0))


def _word(token: Any) -> str:
    return re.sub(r"^\W+|\W+$", "", token).lower() if isinstance(token, str) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Unreadable("the answer is not that of chat completions")
    return cast(Mapping[str, Any], value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


_STRICT = json.JSONDecoder(object_pairs_hook=_once)
