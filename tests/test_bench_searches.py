"""The head-to-head of all searches: what is run, what is kept of it, and what its tables say."""

import numpy as np
import pytest
import torch

from evosearch import searches
from evosearch.bench import searches as recipe
from evosearch.bench.cells import read
from evosearch.bench.distances import vendi
from evosearch.bench.searches_figure import figure
from evosearch.rewards.shapes_clip import ShapesClip


def test_every_search_is_compared_that_the_reward_can_guide():
    assert {algorithm for algorithm, _ in recipe.METHODS.values()} == {*searches.__all__}
    assert {*recipe.METHODS} - {*recipe.methods("shapes")} == {"reno"}
    assert [*recipe.METHODS] == recipe.methods("shapes_clip")
    cells = recipe.all_cells("shapes-flow", "shapes", [30, 10], prompts=3, seeds=2)
    assert len({*cells}) == len(cells) == 2 * 2 * 2 * 3 * (len(recipe.METHODS) - 1)
    assert cells[0].times == 10
    assert recipe.bill(cells) == len(cells) * 20 * 20


def test_runs_resume_and_a_budget_too_small_for_one_is_no_end(tmp_path):
    todo = recipe.all_cells("shapes-diffusion", "shapes", [1], prompts=1, only=["best_of_n", "paper_evosearch"])
    run = [*recipe.run(todo, tmp_path, "shapes-diffusion", "shapes")]
    assert run == todo
    rows = read(tmp_path)
    assert [*recipe.run(todo, tmp_path, "shapes-diffusion", "shapes")] == []
    best, refused = ([row for row in rows if row["method"] == name] for name in ("best_of_n", "paper_evosearch"))
    assert all("budget" in row["refused"] for row in refused)
    assert (best[0]["nfe"], best[0]["calls"], best[0]["kept"], best[0]["vendi"]) == (20, 1, 1, 1.0)
    assert best[0]["best"] == best[0]["plain"] == pytest.approx(best[0]["judged"]["shapes"], abs=1e-5)
    assert "best_of_n" in recipe.table(rows, "nfe")
    assert "paper_evosearch" not in recipe.table(rows, "nfe")
    assert figure(rows).axes[0].get_title() == "at equal NFE"


def _row(method, prompt, best, times=10, equal="nfe", reward="shapes"):
    return {
        "method": method, "prompt": prompt, "seed": 0, "times": times, "equal": equal, "best": best, "reward": reward,
        "judged": {"shapes": best, "shapes_clip": 1 - best, "shapes_quality": 0.5}, "vendi": 2.0, "kept": 4, "nfe": 200,
        "calls": 10, "seconds": 1.0,
    }  # fmt: skip


ROWS = [
    _row(method, f"p{k}", value + k / 100, times)
    for k in range(6)
    for times in (10, 30)
    for method, value in (("best_of_n", 0.5), ("evosearch", 0.6 + times / 1000), ("svdd", 0.4))
]


def test_the_table_pairs_ranks_and_gives_intervals():
    for rows in (ROWS, ROWS[::-1]):
        assert recipe.table([*rows, _row("svdd", "p0", 0.9, equal="seconds")], "nfe").splitlines()[2:] == [
            "| evosearch | 1.0 | 0.6350 | 0.6550 |",
            "| best_of_n | 2.0 | 0.5250, -0.1100 (-0.1100 to -0.1100) | 0.5250, -0.1300 (-0.1300 to -0.1300) |",
            "| svdd | 3.0 | 0.4250, -0.2100 (-0.2100 to -0.2100) | 0.4250, -0.2300 (-0.2300 to -0.2300) |",
        ]


def test_few_prompts_have_no_interval_ties_share_a_rank_and_only_shared_runs_are_ranked():
    rows = [_row("best_of_n", "p", 0.5), _row("evosearch", "p", 0.5), _row("svdd", "p", 0.1), _row("svdd", "q", 0.9)]
    assert recipe.table(rows, "nfe").splitlines()[2:] == [
        "| best_of_n | 1.5 | 0.5000 |", "| evosearch | 1.5 | 0.5000 |", "| svdd | 3.0 | 0.5000 |"
    ]  # fmt: skip


def test_judges_stand_beside_the_reward_that_guided():
    lines = recipe.judged(ROWS, "nfe", 30).splitlines()
    assert lines[0].startswith("| search at 30x | shapes | shapes_clip | shapes_quality | Vendi score | of |")
    assert lines[2] == "| evosearch | 0.6550 | 0.3450 | 0.5000 | 2.00 | 4 | 200 | 10 | 1.0 |"
    by_clip = recipe.judged([row | {"reward": "shapes_clip"} for row in ROWS], "nfe", 30).splitlines()
    assert by_clip[2].startswith("| svdd |")


def test_vendi_counts_what_is_different():
    x = torch.nn.functional.normalize(torch.tensor(np.random.default_rng(0).normal(size=(3, 8))), dim=-1)
    assert 1 < vendi(x) < 3
    assert vendi(torch.cat([x, x])) == pytest.approx(vendi(x))


def test_shapes_clip_sees_each_frame_by_a_unit_vector():
    clips = torch.rand(2, 3, 3, 64, 64)
    seen = ShapesClip().embed(clips)
    assert seen.shape[:2] == (2, 3)
    assert torch.allclose(seen.norm(dim=-1), torch.ones(2, 3))
    assert torch.allclose(seen[:, 1], ShapesClip().embed(clips[:, 1])[:, 0], atol=1e-5)
