"""DenoiserSampler: the same bits however it is called, and nothing paid for twice."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from vectors import curved, fields, sampler

from evosearch.path import NoisePath

ETAS = pytest.mark.parametrize("eta", [0.0, 1.0])


class Counted:
    """A denoiser that counts the rows it is given, padding included."""

    def __init__(self):
        self.rows = 0

    def __call__(self, x, alpha, sigma):
        self.rows += len(x)
        return curved(x, alpha, sigma)


@pytest.fixture
def counted():
    return Counted()


def second_order(steps=10):
    path = NoisePath.cosine(steps)
    return NoisePath(path.alpha, path.sigma, "v", path.timesteps, path.scale, order=2)


@ETAS
@pytest.mark.parametrize("path", [NoisePath.cosine(10), NoisePath.flow(10), second_order()])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_bits_depend_on_no_batch_size(path, eta, batch_size):
    whole, split = (sampler(path=path, eta=eta, batch_size=size) for size in (7, batch_size))
    expected, states = whole.run(whole.prior(7), 10, keep=(0, 4))
    found, kept = split.run(split.prior(7), 10, keep=(0, 4))
    assert fields(found) == fields(expected)
    assert {i: fields(p) for i, p in kept.items()} == {i: fields(p) for i, p in states.items()}


@ETAS
@pytest.mark.parametrize("path", [NoisePath.cosine(10), second_order()])
@pytest.mark.parametrize("stop", [1, 5, 9])
def test_runs_in_parts_are_the_whole(path, eta, stop):
    s = sampler(path=path, eta=eta)
    p = s.prior(4)
    whole, _ = s.run(p, 10)
    half, kept = s.run(p, stop, keep=(stop,))
    assert torch.equal(s.run(half, 10)[0].x, whole.x)
    assert torch.equal(s.run(kept[stop], 10)[0].x, whole.x)


@ETAS
def test_predict_and_step_in_turn_are_a_run(eta):
    s = sampler(path=second_order(), eta=eta)
    p = s.prior(3)
    whole, _ = s.run(p, 10)
    while p.i < s.steps:
        p = s.step(s.predict(p))
    assert torch.equal(p.x, whole.x)


def test_a_run_takes_the_paths_own_steps():
    path = second_order()
    s = sampler(path=path)
    p = s.prior(3)
    x, memory = p.x, None
    for i in range(path.steps):
        x0 = curved(x, float(path.alpha[i]), float(path.sigma[i]))
        x, memory = path.step(x, x0, i, memory=memory), x0
    assert torch.equal(s.run(p, 10)[0].x, x)


def test_prior_goes_on_and_starts_again_with_a_new_sampler():
    s = sampler()
    first, more = s.prior(2), s.prior(3)
    again = sampler().prior(5)
    assert torch.equal(torch.cat([first.x, more.x]), again.x)
    assert len(set(again.id.tolist())) == 5
    assert not torch.equal(again.x, sampler(seed=1).prior(5).x)
    assert [gene.op for genome in again.genomes for gene in genome] == ["prior"] * 5


def test_keep_returns_states_with_x0_where_the_run_went_beyond_them():
    s = sampler()
    p = s.prior(3)
    end, kept = s.run(p, 6, keep=(0, 4, 6))
    assert sorted(kept) == [0, 4, 6]
    assert torch.equal(kept[0].x, p.x)
    assert torch.equal(kept[4].x0, s.predict(s.run(p, 4)[0]).x0)
    assert kept[6].x0 is None
    assert torch.equal(kept[6].x, end.x)


def test_nothing_is_paid_for_twice(counted):
    s = sampler(denoise=counted, batch_size=2)
    p = s.predict(s.prior(4))
    assert counted.rows == 4
    assert s.predict(p) is p
    assert s.cost(p, 10) == 4 * 9
    s.run(p, 10, keep=(0, 5))
    assert counted.rows == 4 * 10


@ETAS
def test_a_state_whose_x0_is_known_runs_to_the_same_end(eta):
    s = sampler(eta=eta)
    p = s.prior(3)
    ends, kept = s.run(p, 10, keep=(0, 5))
    assert torch.equal(s.run(kept[0], 10)[0].x, ends.x)
    assert torch.equal(s.run(kept[5], 10, keep=(5, 7))[0].x, ends.x)


def test_steps_take_the_noise_they_are_given():
    s = sampler(eta=1)
    p = s.predict(s.prior(2))
    own = s.step(p)
    assert torch.equal(s.step(p, noise=s.noise(p.key, 0, "step")).x, own.x)
    assert not torch.equal(s.step(p, noise=torch.zeros(2, 3)).x, own.x)
    assert torch.equal(s.step(p, eta=0, noise=torch.zeros(2, 3)).x, s.step(p, eta=0).x)


def test_renoise_goes_back_with_new_noise_and_names():
    s = sampler(eta=1)
    p, _ = s.run(s.prior(3), 8)
    back = s.renoise(p, 3)
    assert back.i == 3
    assert torch.equal(back.parent, p.id)
    assert not set(back.key.tolist()) & set(p.key.tolist())
    assert back.x0 is back.memory is back.reward is None
    assert torch.equal(s.renoise(p, 3).x, back.x)
    assert not torch.equal(s.renoise(p, 2).key, back.key)
    assert back.genomes[0][-1].source == 8


def test_decode_shows_the_finished_state_or_the_prediction(counted):
    s = sampler(denoise=counted, decode=lambda x: x + 100, batch_size=2)
    p = s.predict(s.prior(3))
    end, _ = s.run(p, 10)
    rows = counted.rows
    assert torch.equal(s.decode(p), p.x0 + 100)
    assert torch.equal(s.decode(end), end.x + 100)
    assert counted.rows == rows


@ETAS
def test_populations_are_values(eta):
    s = sampler(path=second_order(), eta=eta, batch_size=2)
    p = s.run(s.prior(3), 4, keep=(3,))[1][3]
    before = copy.deepcopy(fields(p))
    s.predict(p), s.step(p), s.run(p, 10, keep=(3, 5)), s.renoise(p, 1), s.decode(p), s.cost(p, 9)
    p.branch([0, 0], torch.Generator().manual_seed(0))
    assert fields(p) == before


def test_the_model_sees_micro_batches_of_one_shape():
    seen = nn.Identity()
    shapes = []
    seen.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
    s = sampler(denoise=lambda x, alpha, sigma: seen(x), batch_size=4)
    s.run(s.prior(6), 2)
    assert shapes == [(4, 3)] * 4


S = sampler()
P = S.prior(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sampler(eta=1.5), r"eta must be from 0 \(ODE\) to 1 \(ancestral SDE\), got 1.5"),
        (lambda: sampler(batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: S.prior(0), "n must be at least 1, got 0"),
        (lambda: S.run(P, 11), "until must be above the population's level 0 and at most 10, got 11"),
        (lambda: S.run(P, 0), "until must be above the population's level 0"),
        (lambda: S.predict(S.run(P, 10)[0]), "until must be above the population's level 10 and at most 10"),
        (lambda: S.run(P, 5, keep=(3, 6)), "keep must name levels from 0 to 5, where the run passes, got 6"),
        (lambda: S.step(P), "p must have x0"),
        (lambda: S.decode(P), r"p must be finished or have x0 .* got level 0 without; call predict\(p\)"),
        (lambda: S.renoise(P, 1), "level must be from 0 to the population's own 0, got 1"),
    ],
    ids=["eta", "batch_size", "prior", "until", "no step", "finished", "keep", "step", "decode", "renoise"],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# runs that leave levels out


LEVELS = [0, 3, 7, 10]


@pytest.mark.parametrize("path", [NoisePath.cosine(10), NoisePath.flow(10, shift=3)])
def test_a_run_through_some_levels_is_a_run_of_the_path_of_these(path):
    few = replace(
        path, alpha=path.alpha[LEVELS], sigma=path.sigma[LEVELS], scale=path.scale[LEVELS],
        timesteps=path.timesteps[LEVELS[:-1]],
    )  # fmt: skip
    whole, short = sampler(path=path), sampler(path=few)
    q, kept = whole.run(whole.prior(3), 10, keep=(3,), through=LEVELS[1:-1])
    p, passed = short.run(short.prior(3), 3, keep=(1,))
    assert torch.equal(q.x, p.x)
    assert torch.equal(kept[3].x0, passed[1].x0)


@pytest.mark.parametrize("predicted", [False, True])
def test_levels_left_out_cost_nothing(counted, predicted):
    s = sampler(denoise=counted, batch_size=2)
    p = s.predict(s.prior(2)) if predicted else s.prior(2)
    before, expected = counted.rows, s.cost(p, 10, through=LEVELS[1:-1])
    q, _ = s.run(p, 10, through=LEVELS[1:-1])
    assert counted.rows - before == expected == 2 * (3 - predicted)
    assert torch.equal(q.x, s.run(s.rewound().prior(2), 10, through=LEVELS[1:-1])[0].x)


def test_a_step_may_reach_further():
    s = sampler()
    p = s.predict(s.prior(2))
    assert torch.equal(s.step(p, to=4).x, s.run(p, 4, through=())[0].x)
    assert torch.equal(s.step(p, to=1).x, s.step(p).x)


@pytest.mark.parametrize("through", [(0, 4), (4, 4), (5, 3), (4, 10), (12,)])
def test_levels_to_visit_lie_in_between(through):
    s = sampler()
    with pytest.raises(ValueError, match=r"through must name increasing levels between 0 and 10, got \["):
        s.run(s.prior(1), 10, through=through)
