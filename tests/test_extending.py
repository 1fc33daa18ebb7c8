"""docs/extending.md: a newcomer's search, held to what every search keeps; and the page of all searches."""

import re
from functools import partial
from pathlib import Path

import pytest
import test_searches as conformance

import evosearch as es
from evosearch import catalogue, searches

DOCS = Path(__file__).parents[1] / "docs"
SUITE = [
    conformance.test_deterministic,
    conformance.test_nfe_is_what_the_formula_says,
    conformance.test_the_best_is_the_best_of_all_and_never_falls,
    conformance.test_choices_do_not_depend_on_the_rewards_zero,
    conformance.test_every_particle_is_made_again_from_its_genome,
    conformance.test_no_population_is_changed_in_place,
    partial(conformance.test_same_result_for_any_batch_size, batch_size=1),
    partial(conformance.test_budget_is_never_overspent, share=0.7),
    partial(conformance.test_what_has_no_reward_never_wins, bad=float("nan")),
]


@pytest.fixture
def halving(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "extending.md").read_text(), re.DOTALL)
    namespace = {"__name__": "halving"}
    exec(code, namespace)
    monkeypatch.setattr(searches, "halving", namespace["halving"], raising=False)
    return namespace["halving"]


@pytest.mark.parametrize("test", SUITE, ids=lambda test: getattr(test, "func", test).__name__)
@pytest.mark.parametrize("n", [1, 7])
def test_a_search_of_one_file_and_one_row_passes_the_suite(halving, test, n):
    test("halving", {"n": n}, 0.0)


def test_a_search_of_ones_own_is_handed_over(halving):
    result = es.search("shapes-diffusion", "two red circles", "shapes", halving, budget=300, progress=False)
    assert result.settings["algorithm"] == "halving"
    assert 285 <= result.cost.nfe <= 300
    assert result.best.reward >= max(r for generation in result.generations for r in generation.rewards)


def test_the_page_of_searches_is_up_to_date():
    assert (DOCS / "searches.md").read_text() == catalogue.page()


def test_every_search_is_described():
    for entry in catalogue.entries():
        assert not entry.nfe.endswith(",") and not entry.rewards.endswith(",")
        assert entry.nfe and entry.rewards and entry.space in ("noise", "trajectory", "guidance", "gradient")
        assert (Path(searches.__file__).parents[1] / entry.file).is_file()
        assert entry.papers or entry.name == "best_of_n"
