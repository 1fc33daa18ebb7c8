"""The report: one HTML page of a run that needs nothing but itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from io import BytesIO
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

from PIL import Image

from evosearch import curve, scatter
from evosearch.curve import number
from evosearch.hacking import middle
from evosearch.media import contact_sheet, frame_rate, model_name, picture
from evosearch.result import Generation, Result, Scored, thumbnail
from evosearch.types import Sample

_SHOWN = 48  # particles of a generation
_GENERATIONS = 24
_HEADLINE = 240  # characters of a prompt
_SMALL = 256  # pixels; what is smaller is enlarged without smoothing
_LARGE = 1024

_SETTINGS = ("model", "pipeline", "scheduler", "sampler", "reward", "held_out", "algorithm", "steps", "eta", "seed",
             "batch_size", "budget", "threads")  # fmt: skip


def render(result: Result) -> str:
    """The page of one run.

    Args:
        result: What `evosearch.search` returned; a result without thumbnails gives a page without populations.
    """
    settings = result.settings
    over = " · ".join(str(v) for v in (settings.get("algorithm"), model_name(settings), settings.get("reward")) if v)
    body = [
        f'<p class="over">{text(over, _HEADLINE)}</p>',
        headline(str(settings.get("prompt"))),
        _pair(result),
        _frames(result),
        _numbers(result),
        f'<p class="lead">{text(settings["plan"])}</p>' if settings.get("plan") else "",
        _invalid(result),
        *(f'<p class="note">Warning: {text(str(told))}.</p>' for told in (*result.alarms, *result.faults)),
        _front(result),
        "<h2>Reward against cost</h2>",
        curve.svg([(nfe, reward) for nfe, _, reward in result.curve], result.cost.nfe, result.plain.reward),
        _stages(result),
        _descent(result),
        _populations(result),
        _tables(result),
    ]
    return page(str(settings.get("prompt")), body)


def page(title: str, body: Iterable[str]) -> str:
    """An HTML page in the house style, which may load nothing from anywhere."""
    from evosearch import __version__

    style = Path(__file__).with_name("report.css").read_text()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{text(title, 80)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{"".join(f"{part}{chr(10)}" for part in body if part)}<footer>Made with evosearch {escape(__version__)}</footer>
</main>
</body>
</html>
"""


def headline(prompt: str) -> str:
    """The prompt as the page's title; the rest of a very long one folded away."""
    size = " class=long" if len(prompt) > _HEADLINE // 2 else ""
    title = f'<h1{size} dir="auto">{text(prompt, _HEADLINE)}</h1>'
    if len(prompt) <= _HEADLINE:
        return title
    return f'{title}<details><summary>The whole prompt</summary><p class="whole">{text(prompt)}</p></details>'


def text(words: str, most: int | None = None) -> str:
    """Text as HTML, cut to so many characters; control characters, which HTML has no place for, are shown as such."""
    cut = words if most is None or len(words) <= most else words[: most - 1] + "…"
    return escape("".join(c if c.isprintable() or c in "\n\t\u200d" else "\N{REPLACEMENT CHARACTER}" for c in cut))


def image(sample: Sample, settings: Mapping[str, Any], alt: str = "") -> str:
    """An ``img`` of a run's sample, the picture within; a video plays."""
    small = _is_small(sample)
    if not isinstance(sample, list):
        return _still(sample, small, alt)
    stream = BytesIO()
    first, *rest = [_shrunk(frame, _LARGE // 2) for frame in sample]
    options: dict[str, Any] = {"lossless": True} if small else {"quality": 80}
    duration = round(1000 / frame_rate(settings))
    first.save(stream, "WEBP", save_all=True, append_images=rest, duration=duration, loop=0, **options)
    return _img(stream.getvalue(), "webp", small, alt)


def _is_small(sample: Sample) -> bool:
    return max(picture(sample).size) < _SMALL


def _still(image: Image.Image, small: bool, alt: str) -> str:
    stream = BytesIO()
    if small:
        image.save(stream, "PNG")
    else:
        _shrunk(image, _LARGE).save(stream, "WEBP", quality=90)
    return _img(stream.getvalue(), "png" if small else "webp", small, alt)


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    smaller = picture.copy()
    smaller.thumbnail((side, side))
    return smaller


def _img(data: bytes, kind: str, small: bool, alt: str) -> str:
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img{" class=small" if small else ""} src="{uri}" alt="{escape(alt)}">'


def _pair(result: Result) -> str:
    def figure(kind: str, label: str, scored: Scored) -> str:
        said = scored.parts | {f"held out: {name}": value for name, value in scored.held_out.items()}
        judged = "".join(f'<span class="aside">{text(name)} {number(value)}</span>' for name, value in said.items())
        words = f"<span>{label}</span><b>{number(scored.reward)}</b>{judged}"
        shown = image(scored.sample, result.settings, label)
        return f'<figure class="{kind}">{shown}<figcaption>{words}</figcaption></figure>'

    figures = [figure("plain", "plain sample, same seed", result.plain)]
    if result.stock is not None:
        figures.append(figure("stock", "the same by the pipeline's own solver", result.stock))
    figures.append(figure("best", "best found", result.best))
    return f'<div class="pair">{"".join(figures)}</div>'


def _frames(result: Result) -> str:
    """Of videos, some frames of the plain sample and of the best, side by side."""
    rows: list[str] = []
    for kind, label, scored in (("plain", "plain sample", result.plain), ("best", "best found", result.best)):
        if isinstance(scored.sample, list):
            sheet = _still(contact_sheet(scored.sample), _is_small(scored.sample), label)
            rows.append(f'<figure class="{kind}">{sheet}<figcaption>{label}</figcaption></figure>')
    if not rows:
        return ""
    return f'<h2>Frame by frame</h2><div class="sheets">{"".join(rows)}</div>'


def _numbers(result: Result) -> str:
    cost = result.cost
    counted = {
        "NFE": f"{cost.nfe:,}",
        "samples scored": f"{cost.scored:,}",
        "seconds": f"{cost.seconds:,.1f}",
        **({"dollars": f"{cost.usd:,.2f}"} if cost.usd else {}),
    }
    return f'<dl class="numbers">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in counted.items())}</dl>'


def _invalid(result: Result) -> str:
    if not result.invalid:
        return ""
    share = result.invalid / max(result.cost.scored, 1)
    return (
        f'<p class="note">{result.invalid:,} of {result.cost.scored:,} rewards ({share:.0%}) were not finite. '
        "Such samples are marked invalid and never win.</p>"
    )


def _front(result: Result) -> str:
    """Where several rewards are unweighted, the samples among which the choice is."""
    if not result.front:
        return ""
    across, up, *others = result.best.parts
    points = [(scored.parts[across], scored.parts[up]) for scored in result.kept]
    shown = [
        _figure(
            result, thumbnail(scored.sample), "<br>".join(f"{text(k)} {number(v)}" for k, v in scored.parts.items())
        )
        for scored in result.front
    ]
    more = f"; also by {text(', '.join(others))}" if others else ""
    return (
        f"<h2>The front <small>{len(shown):,} samples that no other beats in all rewards{more}</small></h2>"
        f'{scatter.svg(points, len(shown), (across, up))}<div class="thumbs front">{"".join(shown)}</div>'
    )


def _stages(result: Result) -> str:
    """What held-out rewards say of the best as the search goes on: whether they rise with it."""
    if len(result.stages) < 2:
        return ""
    names = list(result.stages[-1].held_out)
    head = "".join(f"<th>{text(name)}</th>" for name in ("best of so many samples", "reward", *names))
    rows = [
        f"<tr><td>{stage.samples:,}</td><td>{number(middle(stage.guidance))}</td>"
        + "".join(f"<td>{number(middle(stage.held_out[name]))}</td>" for name in names)
        + "</tr>"
        for stage in result.stages
    ]
    title = "Held out along the way <small>medians of the best few, each from another noise</small>"
    return f"<h2>{title}</h2><table><tr>{head}</tr>{''.join(rows)}</table>"


def _thumb(result: Result, id: int, caption: str, kind: str = "") -> str:
    data = result.thumbnails.get(id)
    return "" if data is None else _figure(result, data, caption, kind)


def _figure(result: Result, data: bytes, caption: str, kind: str = "") -> str:
    return (
        f'<figure class="{kind}">{_img(data, "webp", _is_small(result.best.sample), caption.replace("<br>", ", "))}'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _descent(result: Result) -> str:
    """The best sample's forebears, from the first noise on: as samples, or as the drafts that they were."""
    rewards = {id: r for g in result.generations for id, r in zip(g.ids, g.rewards, strict=True)}
    parents = {id: parent for g in result.generations for id, parent in zip(g.ids, g.parents, strict=True)}
    if parents.get(result.best.id) in result.glimpses:
        return _draft_by_draft(result, parents[result.best.id])
    line = [gene for gene in result.best.genome if gene.id in result.thumbnails and gene.id in rewards]
    if len(line) < 2:
        return ""
    shown = [
        _thumb(result, gene.id, number(rewards[gene.id]) + ("" if gene.op == "prior" else f"<br>level {gene.level}"))
        for gene in line
    ]
    return _path("each bred from the one before, at the level named", shown)


def _draft_by_draft(result: Result, id: int) -> str:
    """From the first draft to the last one, with this id, and the sample that it was finished to."""
    shown = [_thumb(result, result.best.id, f"{number(result.best.reward)}<br>finished", "first")]
    while id in result.glimpses:
        seen = result.glimpses[id]
        bred = "" if seen.parent == -1 else f"<br>level {seen.level}"
        shown.insert(0, _figure(result, seen.thumbnail, number(seen.reward) + bred))
        id = seen.parent
    steps = result.settings.get("knobs", {}).get("draft_steps")
    seen = f"as drafts in {steps} steps, bred at the level named" if steps else "as foreseen, bred at the level named"
    return _path(f"each from the one before, {seen}; the last one finished", shown)


def _path(how: str, shown: list[str]) -> str:
    return f'<h2>How the best one came to be <small>{how}</small></h2><div class="thumbs path">{"".join(shown)}</div>'


def _populations(result: Result) -> str:
    if not result.thumbnails:
        return ""
    merged = _merged(result.generations)
    parts = [_population(result, k, generation) for k, generation in enumerate(merged[:_GENERATIONS])]
    if len(merged) > _GENERATIONS:
        parts.append(f'<p class="soft">and {len(merged) - _GENERATIONS:,} more generations</p>')
    return "".join(parts)


def _population(result: Result, k: int, generation: Generation) -> str:
    def order(particle: tuple[int, float]) -> float:
        return -particle[1] if particle[1] == particle[1] else float("inf")

    ranked = sorted(zip(generation.ids, generation.rewards, strict=True), key=order)
    shown: list[str] = []
    for id, reward in ranked[:_SHOWN]:
        kind = "first" if id == result.best.id else "" if reward == reward else "invalid"
        shown.append(_thumb(result, id, number(reward), kind))
    more = f'<p class="soft">and {len(ranked) - _SHOWN:,} more</p>' if len(ranked) > _SHOWN else ""
    invalid = sum(reward != reward for _, reward in ranked)
    words = [
        f"{len(ranked):,} particles",
        *([f"{invalid:,} invalid"] if invalid else []),
        "fresh noise" if _is_fresh(generation) else "bred",
        f"{generation.nfe:,} NFE by then",
    ]
    return f'<h2>Generation {k} <small>{", ".join(words)}</small></h2><div class="thumbs">{"".join(shown)}</div>{more}'


def _merged(generations: list[Generation]) -> list[Generation]:
    """Fresh particles that came in waves are one population."""
    fresh = list(takewhile(_is_fresh, generations))
    if len(fresh) < 2:
        return generations
    ids, parents, rewards = ([v for g in fresh for v in getattr(g, name)] for name in ("ids", "parents", "rewards"))
    return [Generation(ids, parents, rewards, fresh[-1].nfe, fresh[-1].seconds), *generations[len(fresh) :]]


def _is_fresh(generation: Generation) -> bool:
    return all(parent == -1 for parent in generation.parents)


def _tables(result: Result) -> str:
    cost = result.cost
    settings: dict[str, Any] = {**result.settings, "model": model_name(result.settings)}
    named = {name: settings[name] for name in _SETTINGS if settings.get(name) not in (None, [], "")}
    spent = {
        "NFE": f"{cost.nfe:,}",
        "model passes": f"{cost.model_passes:,}",
        "decodes": f"{cost.decodes:,}",
        "reward calls": f"{cost.reward_calls:,}",
        **({"scores known before": f"{cost.hits:,}"} if cost.hits else {}),
        "invalid rewards": f"{result.invalid:,}",
        "seconds": f"{cost.seconds:,.1f}",
        "seconds of scoring": f"{cost.reward_seconds:,.1f}",
        **({"dollars": f"{cost.usd:,.4f}"} if cost.usd else {}),
    }
    named |= settings.get("knobs", {})
    named |= settings.get("pipeline_kwargs", {})
    versions = {f"{name} version": v for name, v in settings.get("versions", {}).items()}
    return (
        '<div class="tables">'
        f"<section><h2>Settings</h2>{_table(named)}</section>"
        f"<section><h2>Cost</h2>{_table(spent | versions)}</section></div>"
    )


def _table(rows: Mapping[str, Any]) -> str:
    def shown(value: Any) -> str:
        if not isinstance(value, list | tuple):
            return str(value)
        runs = [(item, len(list(same))) for item, same in groupby(value)]
        return ", ".join(
            f"{item} ({count} times)" if count > 2 else ", ".join([f"{item}"] * count) for item, count in runs
        )

    cells = [f"<tr><th>{text(name)}</th><td>{text(shown(v), 400)}</td></tr>" for name, v in rows.items()]
    return f"<table>{''.join(cells)}</table>"
