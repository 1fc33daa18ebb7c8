"""Selection: one total order on rewards, and tournaments with the odds that theory gives them."""

from itertools import pairwise
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evosearch.selection import crowding, fronts, leading, order, survivors, top, tournament, valid, winners

some_rewards = st.lists(
    st.one_of(
        st.floats(width=32),
        st.sampled_from([0.0, -0.0, 1.0, 1e-45, -1e-45, 3.4e38, float("nan"), float("inf"), float("-inf")]),
    ),
    min_size=1,
    max_size=20,
)
for_all_rewards = settings(derandomize=True, deadline=None)


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


@for_all_rewards
@given(some_rewards)
def test_order_falls_and_puts_failures_last(rewards):
    reward = torch.tensor(rewards)
    rows = order(reward)
    assert sorted(rows.tolist()) == list(range(len(rewards)))
    ordered = reward[rows]
    valid = ordered.isfinite()
    assert (ordered[valid].diff() <= 0).all()
    assert valid.tolist() == sorted(valid.tolist(), reverse=True)


@for_all_rewards
@given(some_rewards, st.randoms(use_true_random=False))
def test_order_does_not_depend_on_the_rows_order(rewards, random):
    shuffled = random.sample(rewards, len(rewards))
    best, same = (torch.tensor(r)[order(torch.tensor(r))] for r in (rewards, shuffled))
    valid = best.isfinite()
    assert torch.equal(best[valid], same[valid])
    assert torch.equal(valid, same.isfinite())


@for_all_rewards
@given(some_rewards)
def test_ties_keep_their_order(rewards):
    reward = torch.tensor(rewards)
    rows = order(reward).tolist()
    equal = reward.where(reward.isfinite(), torch.tensor(float("-inf")))
    assert all(a < b for a, b in pairwise(rows) if equal[a] == equal[b])


def test_top_is_the_best_first_and_at_most_all():
    reward = torch.tensor([1.0, float("inf"), 3.0, float("nan"), 2.0])
    assert top(reward, 2).tolist() == [2, 4]
    assert top(reward, 9).tolist() == [2, 4, 0]
    assert top(torch.tensor([float("nan"), float("inf")]), 9).tolist() == [0, 1]


def test_survivors_are_as_many_as_asked_for():
    reward = torch.tensor([1.0, float("inf"), 3.0, float("nan"), 2.0])
    assert survivors(reward, 2).tolist() == [2, 4]
    assert survivors(reward, 5).tolist() == [2, 4, 0, 2, 4]


@for_all_rewards
@given(some_rewards, st.integers(0, 5), st.integers(0, 100))
def test_tournament_of_all_takes_the_best(rewards, extra, seed):
    reward = torch.tensor(rewards)
    winners = tournament(reward, 7, len(rewards) + extra, _rng(seed))
    assert winners.tolist() == [int(order(reward)[0])] * 7


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8])
def test_odds_of_a_tournament(size):
    # Of N rows, the one of rank r wins if it is drawn and its rivals are all worse: C(N - r, size - 1) / C(N, size).
    reward = torch.tensor([3.0, 6.0, 5.0, -1.0, 4.0, 0.0, -2.0, 1.0])
    total, draws = len(reward), 40_000
    wins = torch.bincount(tournament(reward, draws, size, _rng()), minlength=total) / draws
    odds = torch.tensor([comb(total - rank, size - 1) / comb(total, size) for rank in range(1, total + 1)])
    error = (odds * (1 - odds) / draws).sqrt()
    assert odds[0] == pytest.approx(size / total)
    assert ((wins[order(reward)] - odds).abs() <= 5 * error).all()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_an_invalid_reward_never_wins_and_is_no_rival(size):
    reward = torch.tensor([float("nan"), 1.0, float("inf"), 0.0, -1.0, -2.0, 2.0, 3.0])
    valid = reward.isfinite()
    chosen = tournament(reward, 5000, size, _rng())
    assert valid[chosen].all()
    assert torch.equal(reward[chosen], reward[valid][tournament(reward[valid], 5000, size, _rng())])


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_nothing_invalid_is_picked_where_something_valid_is(temperature):
    values = torch.tensor([0.0, -0.0, 1.0, -2.0, 1e-45, 3.4e38, torch.nan, torch.nan, torch.inf, -torch.inf])
    rng = _rng()
    for seed in range(5_000):
        rows, size = torch.randint(1, 13, (), generator=rng), 1 + seed % 4
        _check_picks(values[torch.randint(len(values), (int(rows),), generator=rng)], size, seed, temperature)


@for_all_rewards
@given(some_rewards, st.integers(1, 4), st.integers(0, 2**32), st.sampled_from([0.0, 0.3]))
def test_nothing_invalid_is_picked_of_any_numbers(rewards, size, seed, temperature):
    _check_picks(torch.tensor(rewards), size, seed, temperature)


def _check_picks(reward, size, seed, temperature):
    if reward.isfinite().any():
        assert reward[top(reward, 3 * size)].isfinite().all()
        assert reward[survivors(reward, 3 * size)].isfinite().all()
        assert reward[tournament(reward, 3, size, _rng(seed))].isfinite().all()
    assert len(survivors(reward, 3 * size)) == 3 * size
    groups = reward[: len(reward) // size * size]
    if len(groups):
        rows = winners(groups, size, _rng(seed), temperature)
        assert (rows // size).tolist() == list(range(len(groups) // size))
        assert torch.equal(groups[rows].isfinite(), groups.isfinite().view(-1, size).any(1))


def test_winners_are_the_best_of_each_or_drawn_by_their_weight():
    reward = torch.tensor([1.0, 3.0, 2.0, 5.0, 5.0, 4.0])
    assert winners(reward, 3, _rng()).tolist() == [1, 3]
    assert winners(reward, 6, _rng()).tolist() == [3]
    drawn = winners(torch.tensor([0.0, 1.0]).repeat(4000), 2, _rng(), temperature=1.0) % 2
    assert drawn.double().mean().item() == pytest.approx(1 / (1 + torch.tensor(-1.0).exp().item()), abs=0.03)


# Several rewards

few = st.integers(-2, 2).map(float)
some_vectors = st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.lists(st.one_of(few, st.sampled_from([float("nan"), float("inf"), float("-inf")])), min_size=width,
                 max_size=width),
        min_size=1,
        max_size=14,
    )
)  # fmt: skip


def dominates(a, b):
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


@for_all_rewards
@given(some_vectors)
def test_fronts_are_peeled_off_one_by_one(rows):
    reward = torch.tensor(rows)
    found, left = fronts(reward).tolist(), {k for k, row in enumerate(rows) if torch.tensor(row).isfinite().all()}
    assert {k for k, front in enumerate(found) if front < len(rows)} == left
    number = 0
    while left:
        best = {k for k in left if not any(dominates(rows[j], rows[k]) for j in left)}
        assert {k for k in left if found[k] == number} == best
        left, number = left - best, number + 1


def test_crowding_is_how_far_apart_the_neighbours_are():
    reward = torch.tensor([[0.0, 10.0], [1.0, 8.0], [3.0, 5.0], [4.0, 0.0], [0.0, 0.0], [float("nan"), 1.0]])
    front = fronts(reward)
    assert front.tolist() == [0, 0, 0, 0, 1, 6]
    inf = float("inf")
    assert crowding(reward, front).tolist() == [inf, 3 / 4 + 5 / 10, 3 / 4 + 8 / 10, inf, inf, 0.0]
    assert order(reward).tolist() == [0, 3, 2, 1, 4, 5]


@for_all_rewards
@given(some_vectors, st.integers(1, 5), st.integers(0, 2**32))
def test_what_is_chosen_by_several_rewards_is_valid_and_beaten_by_none_that_is_not(rows, size, seed):
    reward = torch.tensor(rows)
    if valid(reward).any():
        for chosen in (top(reward, size), survivors(reward, size), tournament(reward, 4, size, _rng(seed))):
            assert valid(reward)[chosen].all()
        best = set(top(reward, size).tolist())
        rest = [row for k, row in enumerate(rows) if k not in best and torch.tensor(row).isfinite().all()]
        assert not any(dominates(row, rows[k]) for row in rest for k in best)
    assert sorted(order(reward).tolist()) == list(range(len(rows)))
    assert len(survivors(reward, size)) == size


@for_all_rewards
@given(some_rewards)
def test_one_reward_in_a_column_is_ordered_as_by_itself(rewards):
    reward = torch.tensor(rewards)
    ordered, alone = (reward[order(r)] for r in (reward[:, None], reward))
    assert torch.equal(ordered[: int(valid(reward).sum())], alone[: int(valid(reward).sum())])
    assert torch.equal(leading(reward[:, None]).nan_to_num(7), leading(reward).nan_to_num(7))


def test_a_tournament_takes_the_front_and_of_it_the_lonely():
    reward = torch.tensor([[0.0, 10.0], [5.0, 5.0], [5.1, 4.9], [5.2, 4.8], [10.0, 0.0], [0.0, 0.0]])
    assert set(tournament(reward, 50, 6, _rng()).tolist()) == {0}  # of the two ends, the first
    wins = torch.bincount(tournament(reward, 3000, 2, _rng()), minlength=6)
    assert wins[5] == 0 and wins[1] > wins[2]
