"""Heritability: known where the model is linear, and read off families as they are."""

import math

import numpy as np
import pytest
import torch
from vectors import gaussian, sampler

from evosearch.bench import heritability as recipe
from evosearch.bench.cells import read
from evosearch.bench.heritability_figure import figure

KIND = recipe.Kind(0, 0.3)


def _row(prompt, parents, children, eta=0.0, reward="shapes"):
    """A prompt's family of one kind: a child of every parent, then those of the best."""
    brood = {"level": 0, "rate": 0.3, "parents": list(range(len(parents))), "children": {reward: list(children)}}
    return {"prompt": prompt, "eta": eta, "parents": {reward: list(parents)}, "children": [brood]}


def _rows(correlation, prompts=40, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(prompts):
        parents = rng.normal(size=recipe.PARENTS)
        children = correlation * parents + math.sqrt(1 - correlation**2) * rng.normal(size=recipe.PARENTS)
        best = correlation * parents.max() + math.sqrt(1 - correlation**2) * rng.normal(size=50)
        own = shift * k
        rows.append(_row(str(k), 0.1 * parents + own, np.concatenate([0.1 * children, 0.1 * best]) + own))
    return rows


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_correlation_slope_and_residual_are_those_that_made_the_families(correlation):
    found = recipe.inherited(_rows(correlation), "shapes", 0.0, KIND)
    assert found.correlation.low < correlation < found.correlation.high
    assert found.slope == pytest.approx(correlation, abs=0.06)
    unit = math.sqrt((recipe.PARENTS - 1) / (recipe.PARENTS - 3))  # the spread of so few is too small by as much
    assert found.residual == pytest.approx(unit * math.sqrt(1 - correlation**2), abs=0.06)


def test_what_prompts_differ_in_is_not_inherited():
    assert recipe.inherited(_rows(0.0, shift=1.0), "shapes", 0.0, KIND).correlation.mean == pytest.approx(0, abs=0.06)


def test_ahead_counts_the_children_of_the_best_alone():
    """One parent in front; of the children of all, none is ahead of it, of its own four, one."""
    parents = [0.0] * (recipe.PARENTS - 1) + [1.0]
    rows = [_row("p", parents, [0.5] * recipe.PARENTS + [0.9, 1.0, 1.1, float("-inf")][:3])]
    assert recipe.inherited(rows, "shapes", 0.0, KIND).ahead == pytest.approx(1 / 3)


def test_prompts_whose_parents_are_all_alike_say_nothing():
    assert recipe.inherited([_row("p", [1.0] * recipe.PARENTS, [1.0] * 30)], "shapes", 0.0, KIND) is None
    assert recipe.inherited(_rows(0.5), "shapes", 1.0, KIND) is None


def _lightness(samples, prompts):
    return samples.flatten(1).sum(1)


@pytest.fixture
def many(monkeypatch):
    monkeypatch.setattr(recipe, "PARENTS", 400)


def _families(eta, **kwargs):
    s = sampler(10, gaussian(0.5), eta=eta, decode=lambda x: x / 16 + 0.5, **kwargs)
    return recipe.families(s, {"shapes": _lightness}, "toy") | {"eta": eta, "prompt": "toy"}


def test_of_a_gaussian_the_ode_passes_on_what_the_mutation_leaves(many):
    """There a sample is linear in its noise, so that its reward's correlation is the noises', sqrt(1 - rate²)."""
    rows = [_families(0.0)]
    for rate in recipe.RATES:
        found = recipe.inherited(rows, "shapes", 0.0, recipe.Kind(0, rate))
        assert found.correlation.mean == pytest.approx(math.sqrt(1 - rate**2), abs=4 / math.sqrt(400))


def test_under_the_sde_the_same_noise_comes_to_another_sample(many):
    rows = [_families(1.0)]
    same = [recipe.inherited(rows, "shapes", 1.0, recipe.Kind(level, recipe.SAME)) for level in (0, 4, 8)]
    brothers = rows[0]["children"][0]["children"]["shapes"][-recipe.BROOD :]
    assert len(set(brothers)) == recipe.BROOD
    means = [found.correlation.mean for found in same]
    assert means[0] < 0.5 < means[2]
    assert means == sorted(means)


@pytest.mark.parametrize("eta", recipe.ETAS)
def test_the_bill_is_what_is_spent(eta):
    rows = 0

    def counted(x, alpha, sigma):
        nonlocal rows
        rows += len(x)
        return alpha * x

    s = sampler(10, counted, eta=eta, batch_size=1)
    recipe.families(s, {"shapes": _lightness}, "toy")
    assert rows == recipe.bill([recipe.Cell("toy", eta)], steps=10)


def test_families_of_a_bundled_pipeline(tmp_path, monkeypatch):
    few = {"PROMPTS": 2, "PARENTS": 3, "BEST": 1, "BROOD": 1, "SHARES": (0.0, 0.6), "RATES": (0.15, 0.9)}
    for name, value in few.items():
        monkeypatch.setattr(recipe, name, value)
    todo = recipe.all_cells("shapes-diffusion")[:2]
    assert list(recipe.run(todo, tmp_path, "shapes-diffusion")) == todo
    assert list(recipe.run(todo, tmp_path, "shapes-diffusion")) == []
    rows = read(tmp_path)
    assert [row["eta"] for row in rows] == [0.0, 1.0]
    for reward in recipe.REWARDS:
        assert all(len(brood["children"][reward]) == 4 for row in rows for brood in row["children"])
        assert recipe.table(rows, reward, 1.0).count("\n") == len(recipe.SHARES) + 1
        assert "preview at level 8 | 9 |" in recipe.foretold(rows, reward)
        assert "draft of 6 steps | 6 |" in recipe.foretold(rows, reward)
    assert len(figure(rows).axes) == len(recipe.ETAS) * len(recipe.REWARDS)


def test_at_a_level_near_the_end_a_preview_tells_all():
    row = _families(0.0)
    row = {**row, "previews": {str(k): v for k, v in row["previews"].items()}, "drafts": {}}
    shown = recipe.foretold([row], "shapes").splitlines()
    assert shown[-2].startswith("| preview at level 8 | 9 | 1.00 ")
    assert torch.tensor(row["parents"]["shapes"]).std() > 0
