"""Conformance: what every search keeps to. A new search needs a row in CASES, and no more."""

import inspect

import pytest
import torch
from torch import Tensor
from vectors import curved, fields, gaussian, nearness, sampler

import evosearch as es
from evosearch import searches
from evosearch.budget import Budget, BudgetExhausted, Meter
from evosearch.metered import MeteredSampler
from evosearch.types import Population, concat

STEPS = 10
EVO = {"schedule": (0, 3, 6), "sizes": (8, 6, 6, 5), "elites": 2}
CASES = [
    ("best_of_n", {"n": 9}, 0.0),
    ("best_of_n", {"n": 9}, 1.0),
    ("evosearch", EVO, 0.0),
    ("evosearch", EVO, 1.0),
    ("evosearch", {**EVO, "inherit_noise": True, "mutation": "additive"}, 1.0),
    ("evosearch", {**EVO, "mutation": "renoise", "span": 2}, 0.5),
    ("evosearch", {**EVO, "elites": 0, "tournament": 1, "rate": 1.0, "schedule": (4, 5, 9)}, 0.0),
]
IDS = [f"{name}-{k}" for k, (name, _, _) in enumerate(CASES)]
EVERY_SEARCH = pytest.mark.parametrize(("name", "knobs", "eta"), CASES, ids=IDS)


def _found(name, knobs, eta, reward=nearness, s=None, seed=0):
    """Every finished particle of a search, in order."""
    rng = torch.Generator().manual_seed(seed)
    s = sampler(STEPS) if s is None else s
    yields = list(getattr(searches, name)(s, reward, rng, eta=eta, **knobs))
    finished = [p for p in yields if p.i == STEPS and p.reward is not None]
    assert finished
    return concat(*finished)


def _rewarded(reward, name, knobs, eta):
    """The same search by `evosearch.search`, which takes rewards of samples and prompts."""
    s = sampler(STEPS, shape=(3, 1, 1), decode=lambda x: (x / 8 + 0.5).clamp(0, 1))
    return es.search(s, "toy", lambda samples, prompts: reward(samples), name, eta=eta, progress=False, **knobs)


def _lightness(samples):
    return samples.flatten(1).sum(1)


def test_every_search_is_here():
    public = {name for name, function in vars(searches).items() if inspect.isfunction(function)}
    assert public == set(searches.__all__) == {name for name, _, _ in CASES}


@EVERY_SEARCH
def test_deterministic(name, knobs, eta):
    assert fields(_found(name, knobs, eta)) == fields(_found(name, knobs, eta))
    assert fields(_found(name, knobs, eta)) != fields(_found(name, knobs, eta, s=sampler(STEPS, seed=1)))


@EVERY_SEARCH
@pytest.mark.parametrize("batch_size", [1, 4])
def test_same_result_for_any_batch_size(name, knobs, eta, batch_size):
    batched = _found(name, knobs, eta, s=sampler(STEPS, batch_size=batch_size))
    assert fields(batched) == fields(_found(name, knobs, eta))


@EVERY_SEARCH
def test_nfe_is_what_the_formula_says(name, knobs, eta):
    rows = 0

    def counted(x, alpha, sigma):
        nonlocal rows
        rows += len(x)
        return curved(x, alpha, sigma)

    meter = Meter(Budget(nfe=10**6))
    s = sampler(STEPS, denoise=counted, batch_size=1)  # no padding
    _found(name, knobs, eta, s=MeteredSampler(s, meter))
    assert rows == meter.nfe == getattr(searches, name).nfe(STEPS, **knobs)


@EVERY_SEARCH
@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_budget_is_never_overspent(name, knobs, eta, share):
    need = getattr(searches, name).nfe(STEPS, **knobs)
    meter = Meter(Budget(nfe=round(share * need) - (share == 1)))
    with pytest.raises(BudgetExhausted):
        _found(name, knobs, eta, s=MeteredSampler(sampler(STEPS), meter))
    assert meter.nfe <= meter.budget.nfe


@EVERY_SEARCH
def test_the_best_is_the_best_of_all_and_never_falls(name, knobs, eta):
    result = _rewarded(_lightness, name, knobs, eta)
    seen = [reward for generation in result.generations for reward in generation.rewards]
    assert result.best.reward == max(seen)
    assert result.curve[-1][2] == result.best.reward
    for (nfe, _, reward), (later_nfe, _, later) in zip(result.curve, result.curve[1:], strict=False):
        assert nfe <= later_nfe
        assert reward < later


@EVERY_SEARCH
def test_a_constant_reward_is_plain_sampling(name, knobs, eta):
    found = _found(name, knobs, eta, lambda samples: torch.zeros(len(samples)))
    s = sampler(STEPS)
    first = knobs["n"] if "n" in knobs else knobs["sizes"][0]
    plain, _ = s.run(s.prior(first), STEPS, eta=eta)
    assert torch.equal(found.x[:first], plain.x)
    assert found.reward.eq(0).all()


@EVERY_SEARCH
def test_choices_do_not_depend_on_the_rewards_zero(name, knobs, eta):
    shifted = _found(name, knobs, eta, lambda samples: nearness(samples) + 64)  # exact: rewards are 1/256ths
    plain = _found(name, knobs, eta)
    assert torch.equal(shifted.x, plain.x)
    assert torch.equal(shifted.reward, plain.reward + 64)


@EVERY_SEARCH
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_has_no_reward_never_wins(name, knobs, eta, bad):
    def flawed(samples):
        lightness = _lightness(samples)
        return torch.where(lightness > 1.6, bad, lightness)  # the best are the flawed

    result = _rewarded(flawed, name, knobs, eta)
    seen = torch.tensor([reward for generation in result.generations for reward in generation.rewards])
    assert result.invalid == seen.isnan().sum() > 0
    assert result.best.reward == seen[~seen.isnan()].max() <= 1.6
    assert all(torch.tensor(scored.reward).isfinite() for scored in result.kept)


class Watched:
    """A sampler that remembers every population it was given or gave, as it was then."""

    def __init__(self, own):
        self.own, self.seen = own, []

    def __getattr__(self, name):
        verb = getattr(self.own, name)
        return self._watched(verb) if callable(verb) else verb

    def _watched(self, verb):
        def call(*args, **kwargs):
            result = verb(*args, **kwargs)
            self.seen += [(p, fields(p)) for p in _populations([args, result])]
            return result

        return call


def _populations(value):
    if isinstance(value, Population):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [p for part in value for p in _populations(part)] if isinstance(value, list | tuple) else []


@EVERY_SEARCH
def test_no_population_is_changed_in_place(name, knobs, eta):
    watched = Watched(sampler(STEPS))
    _found(name, knobs, eta, s=watched)
    assert watched.seen
    assert all(fields(p) == before for p, before in watched.seen)


# What fits a budget


@pytest.mark.parametrize("name", searches.__all__)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 20, 28, 50])
def test_fitted_knobs_fill_the_budget(name, steps):
    search = getattr(searches, name)
    smallest = next(b for b in range(1, 10 * steps) if _fits(search, steps, b))
    for budget in [smallest, *range(20 * steps, 200 * steps, 7 * steps + 3), 5000, 20_000]:
        cost = search.nfe(steps, **search.fit(steps, budget))
        assert cost <= budget
        assert cost > 0.85 * budget
    with pytest.raises(ValueError, match=f"budget must be at least {smallest} NFE.* got {smallest - 1}$"):
        search.fit(steps, smallest - 1)


def _fits(search, steps, budget):
    try:
        return bool(search.fit(steps, budget))
    except ValueError:
        return False


def test_a_search_of_the_smallest_budget_runs():
    s = sampler(STEPS)
    found = _found("evosearch", searches.evosearch.fit(STEPS, 5 * STEPS), 0.0, s=s)
    assert len(found) == 5


@pytest.mark.parametrize("n", [0, -1])
def test_best_of_n_refuses_to_draw_nothing(n):
    with pytest.raises(ValueError, match=f"n must be at least 1, got {n}"):
        searches.best_of_n.nfe(STEPS, n=n)


# EvoSearch


def test_the_papers_sd21_command_costs_5000():
    knobs = {"schedule": (0, 20, 30, 40), "sizes": (42, 26, 26, 26, 30), "elites": 0}
    assert searches.evosearch.nfe(50, **knobs) == 5000


def test_elites_are_free():
    knobs = {"schedule": (0, 4), "sizes": (10, 8, 6)}
    assert searches.evosearch.nfe(STEPS, **knobs, elites=3) == 10 * 10 + (8 - 3) * 10 + (6 - 3) * 6
    assert searches.evosearch.nfe(STEPS, **knobs, elites=3, mutation="renoise", span=2) == 100 + 5 * 10 + 3 * 8


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_first_population_is_best_of_n(eta):
    evolved = _found("evosearch", {"schedule": (0,), "sizes": (9, 2)}, eta)
    assert torch.equal(evolved.x[:9], _found("best_of_n", {"n": 9}, eta).x)


def _equal_to_parents(eta, **knobs):
    """For each child, bred at noise or in between, whether it ended where its parent did."""
    found = _found("evosearch", {"schedule": (0, 4, 7), "sizes": (6, 6, 6, 6), **knobs}, eta)
    state = dict(zip(found.id.tolist(), found.x, strict=True))
    born = [(x, state[parent]) for x, parent in zip(found.x, found.parent.tolist(), strict=True) if parent != -1]
    assert len(born) == 15
    return [torch.equal(child, parent) for child, parent in born]


@pytest.mark.parametrize(
    "knobs", [{"eta": 0.0}, {"eta": 0.0, "inherit_noise": True}, {"eta": 1.0, "inherit_noise": True}]
)
def test_at_rate_0_children_equal_their_parents(knobs):
    assert all(_equal_to_parents(rate=0.0, **knobs))


@pytest.mark.parametrize(
    "knobs",
    [{"rate": 0.0, "eta": 1.0}, {"rate": 0.3, "eta": 0.0}, {"mutation": "renoise", "span": 1, "eta": 0.0}],
)
def test_new_noise_makes_children_differ(knobs):
    assert not any(_equal_to_parents(**knobs))


def test_children_come_near_their_parents():
    def distance(rate):
        found = _found("evosearch", {"schedule": (0,), "sizes": (50, 50), "rate": rate}, 0.0)
        state = dict(zip(found.id.tolist(), found.x, strict=True))
        children = [k for k, parent in enumerate(found.parent.tolist()) if parent != -1]
        return torch.stack([(found.x[k] - state[int(found.parent[k])]).norm() for k in children]).mean()

    assert distance(0.05) < distance(0.2) < distance(0.8)


def test_parents_are_chosen_by_reward():
    found = _found("evosearch", {"schedule": (0,), "sizes": (40, 40), "tournament": 40}, 0.0)
    best = found.id[found.reward[:40].argmax()]
    assert found.parent[40:].eq(best).all()


def test_elites_of_earlier_generations_still_breed():
    def reward(samples: Tensor) -> Tensor:  # the first population alone is any good
        nonlocal calls
        calls += 1
        return nearness(samples) - 1000 * (calls > 1)

    calls = 0
    found = _found("evosearch", {"schedule": (0, 4), "sizes": (6, 6, 6), "tournament": 11, "elites": 1}, 0.0, reward)
    best = found.id[found.reward.argmax()]
    assert found.parent[6:].eq(best).all()


def test_selection_moves_the_mean_and_chance_does_not():
    size, s = 400, sampler(STEPS, gaussian(1.0))
    knobs = {"schedule": (0,), "sizes": (size, size), "elites": 0, "rate": 0.15}
    for tournament, moves in ((3, True), (1, False)):
        reward = _found("evosearch", {**knobs, "tournament": tournament}, 0.0, s=s).reward
        gain, error = reward[size:].mean() - reward[:size].mean(), reward.std() * (2 / size) ** 0.5
        assert (gain > 5 * error) == moves


GOOD = {"schedule": (0, 4), "sizes": (8, 6, 6)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": ()}, r"schedule must be increasing levels, got \[\]"),
        ({"schedule": (4, 4)}, r"schedule must be increasing levels, got \[4, 4\]"),
        ({"schedule": (5, 2)}, "schedule must be increasing levels"),
        ({"schedule": (0, 10)}, r"schedule must lie in 0..9, since sampling takes 10 steps; got \[0, 10\]"),
        ({"schedule": (-1, 4)}, r"schedule must lie in 0..9"),
        ({"sizes": (8, 6)}, "sizes must have one more entry than schedule, .* expected 3, got 2"),
        ({"sizes": (0, 6, 6)}, "the first of sizes must be at least 1, got 0"),
        ({"elites": 6}, r"elites must be below every later population, .* got 6 with sizes \[8, 6, 6\]"),
        ({"elites": -1}, "elites must be at least 0, got -1"),
        ({"rate": 1.1}, r"rate must be in \[0, 1\], got 1.1"),
        ({"tournament": 0}, "tournament must be at least 1, got 0"),
        ({"mutation": "flip"}, "mutation must be one of level_preserving, additive, renoise, got 'flip'"),
        ({"mutation": "renoise"}, "span must be at least 1 for mutation='renoise', got 0"),
    ],
)
def test_knobs_that_do_not_go_together_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        searches.evosearch.nfe(STEPS, **{**GOOD, **wrong})
    with pytest.raises(ValueError, match=message):
        _found("evosearch", {**GOOD, **wrong}, 0.0)
