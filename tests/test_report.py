"""The report: what it shows, and that nothing in it gets out or in."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import toy
from PIL import Image

import evosearch as es
from evosearch import curve, report
from evosearch.report import render


class Page(HTMLParser):
    """Tags, texts and images of a page; fails on tags that are not closed."""

    VOID = ("meta", "img", "br", "line", "circle", "path")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def images(self) -> list[Image.Image]:
        uris = [attrs["src"] for tag, attrs in self.tags if tag == "img"]
        return [Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in uris]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return toy.found(run_dir=tmp_path_factory.mktemp("runs") / "run", held_out=["jpeg"])


def test_page_shows_the_run(result):
    page = Page(render(result))
    plain, best, *thumbs = page.images
    assert plain.tobytes() == result.plain.sample.tobytes()
    assert best.tobytes() == result.best.sample.tobytes()
    assert f"{result.plain.reward:.3f}" in page.text and f"{result.best.reward:.3f}" in page.text
    assert f"jpeg {result.best.held_out['jpeg']:.3f}" in page.text
    assert len(thumbs) >= sum(len(g.ids) for g in result.generations)
    for k in range(len(result.generations)):
        assert f"Generation {k}" in page.text
    assert "rate 0.15" in page.text and "schedule 0" in page.text  # knobs left out as well as fitted ones
    assert "NFE 100" in page.text


def test_page_shows_what_a_reward_is_made_of():
    result = toy.found(reward={toy.bright: 1.0, "jpeg": 0.01})
    page = Page(render(result))
    for scored in (result.best, result.plain):
        assert all(f"{name} {curve.number(value)}" in page.text for name, value in scored.parts.items())


def test_page_draws_the_front_and_shows_all_of_it():
    result = toy.found(reward=[toy.bright, "jpeg"], algorithm="best_of_n", budget="40x")
    html = render(result)
    section = html[html.index("<h2>The front") : html.index("<h2>Reward against cost")]
    page = Page(section)
    assert f"{len(result.front)} samples that no other beats in all rewards" in page.text
    assert len(page.images) == len(result.front) > 1
    dots = [attrs for tag, attrs in page.tags if tag == "circle"]
    assert len(dots) == len(result.kept) and sum("class" not in dot for dot in dots) == len(result.front)
    rightmost = max(dots, key=lambda dot: float(dot["cx"]))
    assert "class" not in rightmost and rightmost is dots[0]
    assert "<h2>The front" not in render(toy.found())


def test_page_shows_held_out_rewards_along_the_way(result):
    section = Page(render(result)).text
    for stage in result.stages:
        middle = sorted(stage.held_out["jpeg"])
        middle = (middle[(len(middle) - 1) // 2] + middle[len(middle) // 2]) / 2
        assert f"{stage.samples} {curve.number(np.median(stage.guidance))} {curve.number(middle)}" in section
    assert len(result.stages) > 1 and "Warning" not in section


def test_page_asks_nothing_of_anyone(result):
    html = render(result)
    assert "http" not in html.replace("http-equiv", "")
    assert "url(" not in html and "@import" not in html
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    for tag, attrs in Page(html).tags:
        assert tag not in ("script", "link", "iframe", "object", "form")
        assert all(value.startswith("data:image/") for name, value in attrs.items() if name in ("src", "href"))


@pytest.mark.parametrize("prompt", toy.HOSTILE, ids=range(len(toy.HOSTILE)))
def test_prompt_is_text_and_nothing_else(result, prompt):
    html = render(replace(result, settings={**result.settings, "prompt": prompt, "reward": prompt}))
    harmless = Page(render(result))
    assert {tag for tag, _ in Page(html).tags} <= {tag for tag, _ in harmless.tags} | {"details", "summary", "p"}
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", html)
    assert html.encode(errors="replace")
    assert len(re.search("<title>(.*?)</title>", html, re.DOTALL)[1]) < 500


def test_long_prompt_is_there_whole_but_folded(result):
    prompt = "a red circle and " * 5000
    page = Page(render(replace(result, settings={**result.settings, "prompt": prompt})))
    assert any(text == prompt for text in page.texts)
    assert "summary" in [tag for tag, _ in page.tags]
    heading = re.search("<h1.*?>(.*?)</h1>", render(replace(result, settings={"prompt": prompt})))[1]
    assert len(heading) < 300


def test_small_pictures_stay_crisp_and_large_ones_smooth(result):
    assert 'class=small src="data:image/png' in render(result)
    large = replace(result.best, sample=Image.new("RGB", (1600, 1200)))
    html = render(replace(result, plain=large, kept=[large], thumbnails={}))
    assert "class=small" not in html
    assert max(Page(html).images[0].size) == 1024


def test_best_of_each_generation_comes_first_and_invalid_ones_are_marked(tmp_path):
    def some_invalid(samples, prompts):
        return torch.where(torch.arange(len(samples)) == 1, torch.nan, toy.bright(samples, prompts))

    result = toy.found(reward=some_invalid, run_dir=tmp_path / "run", algorithm="best_of_n", budget=600)
    html = render(result)
    assert f"{result.invalid} of 120 rewards (25%) were not finite" in Page(html).text
    section = html[html.index("Generation 0") :]
    shown = re.findall(r'<figure class="(\w*)">.*?<figcaption>(.*?)</figcaption>', section)
    rewards = [float(caption) for kind, caption in shown if kind != "invalid"]
    assert rewards == sorted(rewards, reverse=True)
    assert shown[0] == ("first", f"{result.best.reward:.3f}")
    assert len(shown) == 48 and "and 72 more" in section
    assert "Generation 1" not in html  # waves of fresh noise are one population
    few = toy.found(reward=some_invalid, run_dir=tmp_path / "few", algorithm="best_of_n", budget=40)
    assert '<figure class="invalid">' in render(few) and "2 invalid" in render(few)


def test_descent_shows_the_forebears_of_the_best(result):
    bred = next(scored for scored in result.kept if len(scored.genome) > 1)
    html = render(replace(result, kept=[bred]))
    rewards = {id: r for g in result.generations for id, r in zip(g.ids, g.rewards, strict=True)}
    line = [f"{rewards[gene.id]:.3f}" for gene in bred.genome]
    section = Page(html[html.index("<h2>How the best") : html.index("<h2>Generation 0")]).text
    assert [word for word in section.split() if word in line] == line


def test_descent_goes_back_by_drafts(tmp_path):
    """The winner's parent is a draft, whose parent is a draft, and so on to one of fresh noise."""
    pipe = toy.sampler(steps=8)
    result = toy.found(pipe=pipe, budget=240, run_dir=tmp_path / "run")
    assert result.settings["knobs"]["draft_steps"] == 4
    parents = {id: parent for g in result.generations for id, parent in zip(g.ids, g.parents, strict=True)}
    line, id = [f"{result.best.reward:.3f}"], parents[result.best.id]
    while id != -1:
        line.insert(0, f"{result.glimpses[id].reward:.3f}")
        id = result.glimpses[id].parent
    assert len(line) > 2
    html = render(result)
    section = html[html.index("<h2>How the best") : html.index("<h2>Generation 0")]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", section)
    assert [caption.split("<br>")[0] for caption in captions] == line
    assert captions[-1].endswith("finished")
    assert "as drafts in 4 steps" in section
    assert "&lt;" not in section
    assert toy.found(pipe=toy.sampler(steps=8), budget=240).glimpses == {}


def test_video_plays(tmp_path):
    result = toy.found(pipe=toy.sampler(frames=5), run_dir=tmp_path / "run", budget=25, algorithm="best_of_n")
    plain, best, *_ = Page(render(result)).images
    assert plain.n_frames == best.n_frames == 5
    best.seek(3)
    assert best.convert("RGB").tobytes() == result.best.sample[3].tobytes()


@pytest.mark.parametrize(("settings", "milliseconds"), [({"frame_rate": 8}, 125), ({}, 62)])
def test_video_plays_at_its_frame_rate(settings, milliseconds):
    frames = [Image.new("RGB", (8, 8), (k, 0, 0)) for k in (0, 90, 180)]
    (data,) = re.findall(r"base64,([^\"]+)", report.image(frames, settings))
    shown = Image.open(BytesIO(base64.b64decode(data)))
    shown.seek(1)
    shown.load()
    assert shown.info["duration"] == milliseconds


def test_video_is_shown_frame_by_frame(tmp_path):
    result = toy.found(pipe=toy.sampler(frames=12), run_dir=tmp_path / "run", budget=25, algorithm="best_of_n")
    _, _, plain, best, *_ = Page(render(result)).images
    for sheet, scored in ((plain, result.plain), (best, result.best)):
        assert sheet.size == (8 * 17 - 1, 16)
        for place, number in ((0, 0), (7, 11)):
            frame = sheet.convert("RGB").crop((place * 17, 0, place * 17 + 16, 16))
            assert frame.tobytes() == scored.sample[number].tobytes()


def test_frames_of_a_small_video_are_shown_as_they_are(result):
    frames = [
        Image.fromarray(np.random.default_rng(k).integers(256, size=(64, 64, 3), dtype=np.uint8)) for k in range(9)
    ]
    video = replace(result, kept=[replace(result.kept[0], sample=frames)], plain=replace(result.plain, sample=frames))
    html = render(video)
    sheets = html[html.index("<h2>Frame by frame") : html.index('<dl class="numbers">')]
    assert sheets.count("<img class=small") == 2
    (plain, _) = Page(sheets).images
    assert plain.convert("RGB").crop((0, 0, 64, 64)).tobytes() == frames[0].tobytes()


def test_pipelines_own_solver_stands_between(result):
    page = Page(render(replace(result, stock=replace(result.plain, reward=0.125))))
    assert "own solver 0.125" in page.text
    assert len(page.images) == len(Page(render(result)).images) + 1


def test_page_without_thumbnails(result):
    page = Page(render(replace(result, thumbnails={})))
    assert len(page.images) == 2
    assert "Generation" not in page.text


def test_curve_steps_up_to_its_end():
    svg = curve.svg([(100, 0.25), (300, 0.5)], 400, plain=0.125)
    root = ElementTree.fromstring(svg)
    line = next(element.get("d") for element in root if element.get("class") == "best")
    start, first, up, end = re.fullmatch(r"M([\d.]+) [\d.]+H([\d.]+)V([\d.]+)H([\d.]+)", line).groups()
    width = (float(end) - float(start)) / 300  # pixels an NFE
    assert float(first) - float(start) == pytest.approx(200 * width, abs=0.2)
    dot = next(element for element in root if element.tag == "circle")
    assert (dot.get("cx"), dot.get("cy")) == (end, up)
    texts = [element.text for element in root if element.tag == "text"]
    assert {"NFE", "best reward", "plain 0.125", "0.500", "400"} <= set(texts)


@pytest.mark.parametrize("points", [[(0, 1.0)], [(5, -3e9), (6, 1e9)], [(1, 0.5), (2, 0.5 + 1e-12)]])
def test_curve_of_odd_ranges_is_well_formed(points):
    for plain in (points[0][1], float("nan")):
        numbers = re.findall(r'[\d)"MHV ](-?nan|-?inf)', curve.svg(points, points[-1][0], plain))
        assert not numbers
        ElementTree.fromstring(curve.svg(points, points[-1][0], plain))


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0, 1000, [0, 250, 500, 750, 1000]), (0.41, 0.93, [0.6, 0.8]), (-120, -20, [-100, -75, -50, -25]), (3, 3, [3])],
)
def test_ticks_are_round(low, high, marks):
    assert curve.ticks(low, high) == pytest.approx(marks)


def test_the_plan_of_a_search_stands_in_the_report_and_long_knobs_are_short():
    result = es.search("shapes-diffusion", "two red circles", "shapes", budget=600, progress=False)
    page = render(result)
    assert f'<p class="lead">{result.settings["plan"]}</p>' in page
    assert "2 (8 times)" in page
    assert result.settings["knobs"]["schedule"].count(2) == 8
