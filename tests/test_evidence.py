"""What the pages in docs/ show is what their commands print from docs/evidence."""

import json
import re
from pathlib import Path

import pytest

from evosearch import models
from evosearch.bench import claims, compare, drafts, heritability, saturation, searches, toy
from evosearch.bench.cells import read
from evosearch.bench.statistics import clustered_mean, paired

DOCS = Path(__file__).parents[1] / "docs"
EVIDENCE = DOCS / "evidence"
PAGE, PLANE = ((DOCS / name).read_text() for name in ("evosearch-vs-best-of-n.md", "toy.md"))
FOLDERS = sorted(EVIDENCE.glob("compare/*"))


@pytest.mark.parametrize("folder", [*FOLDERS, EVIDENCE / "evosearch-vs-best-of-n"], ids=lambda folder: folder.name)
def test_tables_of_the_comparison(folder):
    rows = read(folder)
    assert compare.table(rows) in PAGE
    if folder.name.endswith("_clip"):
        assert compare.table(rows, judged=True) in PAGE


@pytest.mark.parametrize("folder", sorted(EVIDENCE.glob("saturation/*")), ids=lambda folder: folder.name)
def test_tables_of_saturation(folder):
    rows = read(folder)
    assert len(rows) == saturation.PROMPTS
    assert saturation.table(rows) in PAGE
    prompt, autoencoder = rows[0]["prompt"], models.load(rows[0]["model"]).vae
    assert rows[0]["own"] == pytest.approx(saturation.maximum(prompt))
    assert rows[0]["decoded"] == pytest.approx(saturation.best_decoded(prompt, autoencoder), abs=1e-4)


def test_every_interval_is_one_that_is_printed():
    tables = [
        compare.table(read(folder), judged, against)
        for folder in [*FOLDERS, EVIDENCE / "evosearch-vs-best-of-n"]
        for judged in (False, folder.name.endswith("_clip"))
        for against in ("best-of-N", "best-of-N, SDE", compare.UNSTEERED)
    ]
    intervals = set(re.findall(r"[+-]\d\.\d{4} \([^)]*\)", PAGE))
    assert len(intervals) > 30
    assert not {interval for interval in intervals if not any(interval in table for table in tables)}


@pytest.mark.parametrize("folder", sorted(EVIDENCE.glob("heritability/*")), ids=lambda folder: folder.name)
def test_tables_of_heritability(folder):
    rows, page = read(folder), (DOCS / "heritability.md").read_text()
    assert len(rows) == 2 * heritability.PROMPTS
    for reward in heritability.REWARDS:
        assert heritability.foretold(rows, reward) in page
        assert all(heritability.table(rows, reward, eta) in page for eta in heritability.ETAS)


@pytest.mark.parametrize("folder", sorted(EVIDENCE.glob("searches/*")), ids=lambda folder: folder.name)
def test_tables_of_the_searches(folder):
    rows, page = read(folder), (DOCS / "choosing-a-search.md").read_text()
    for equal in {row["equal"] for row in rows}:
        assert searches.table(rows, equal) in page
        assert searches.judged(rows, equal, min(row["times"] for row in rows if row["equal"] == equal)) in page


@pytest.mark.parametrize("folder", sorted(EVIDENCE.glob("quarter/*")), ids=lambda folder: folder.name)
def test_a_quarter_of_the_nfe_is_ahead_of_the_papers_evosearch(folder):
    rows = read(folder)
    ours, paper = (
        {(row["prompt"], row["seed"]): row["best"] for row in rows if row["method"] == name}
        for name in (searches.OURS, "paper_evosearch")
    )
    assert 4 * max(row["nfe"] for row in rows if row["method"] == searches.OURS) <= 4990
    assert len(ours) == len(paper) == 8
    mean, low, high = clustered_mean(paired(ours, paper))
    assert low > 0
    assert f"{mean:+.4f} ({low:+.4f} to {high:+.4f})" in (DOCS / "choosing-a-search.md").read_text()


@pytest.mark.parametrize("reward", toy.REWARDS)
def test_tables_of_the_plane(reward):
    rows = read(EVIDENCE / "toy")
    assert {(row["method"], row["reward"], row["seed"]) for row in rows} == {
        (cell.method, cell.reward, cell.seed) for cell in toy.all_cells()
    }
    assert toy.table(rows, reward) in PLANE


def test_table_of_the_claims():
    rows = read(EVIDENCE / "claims")
    assert len(rows) == len(claims.all_cells())
    assert claims.table(rows) in PLANE


@pytest.mark.parametrize("folder", sorted(EVIDENCE.glob("drafts/*")), ids=lambda folder: folder.name)
def test_tables_of_drafts(folder):
    rows, page = read(folder), (DOCS / "choosing-a-search.md").read_text()
    assert len(rows) == drafts.PROMPTS
    assert all(drafts.table(rows, reward) in page for reward in heritability.REWARDS)


_TIMES = ("10x", "100x", "1,000x", "10,000x")


def test_the_long_run_rises_to_its_end():
    (path,) = EVIDENCE.glob("long/*.json")
    run, page = json.loads(path.read_text()), (DOCS / "choosing-a-search.md").read_text()
    rows = read(EVIDENCE / "searches" / path.stem)
    before = {
        row["times"]: row["best"]
        for row in rows
        if (row["method"], row["prompt"], row["equal"]) == (searches.UNSTEERED, run["prompt"], "nfe")
    }
    assert run["cost"]["nfe"] == 10 * 1000 * run["steps"]
    assert before[100] < before[1000] < run["best"] == max(best for _, _, best in run["curve"])
    shown = [before[10], before[100], before[1000], run["best"]]
    assert all(f"{reward:.4f} at {times}" in page for reward, times in zip(shown, _TIMES, strict=True))
