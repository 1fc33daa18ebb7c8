"""search(): what comes out, what it costs, and what is refused."""

import math
import time
from functools import partial
from itertools import pairwise

import pytest
import torch
import toy
from PIL import Image

import evosearch as es
from evosearch.budget import Budget, BudgetExhausted, Meter, Pace
from evosearch.declaration import Wave
from evosearch.declaration import search as declared
from evosearch.genome import replay
from evosearch.metered import MeteredSampler
from evosearch.path import NoisePath
from evosearch.resolve import algorithm_of, batch_of
from evosearch.session import Session

STEPS = 5


def same(a, b):
    """Whether two results are equal in all but the clock's readings."""
    return [
        ([(s.id, s.reward, s.genome, s.nfe) for s in r.kept], [(nfe, reward) for nfe, _, reward in r.curve])
        for r in (a, b)
    ]


# What comes out


@pytest.mark.parametrize("algorithm", es.searches.__all__)
def test_result(algorithm):
    result = toy.found(algorithm=algorithm, budget=200)  # 40 samples' worth
    assert isinstance(result.best.sample, Image.Image)
    assert result.best is result.kept[0]
    assert result.best.reward == max(r for generation in result.generations for r in generation.rewards)
    plain = toy.sampler()
    finished, _ = plain.run(plain.prior(1), 5, eta=result.settings["eta"])
    assert result.plain.id == int(finished.id)
    assert result.plain.reward == pytest.approx(toy.bright(plain.decode(finished), []).item(), abs=1e-3)
    assert result.cost.nfe <= 200
    assert result.invalid == 0
    assert result.settings["algorithm"] == algorithm
    assert result.settings["prompt"] == "bright"


def test_the_kept_are_sorted_different_and_as_many_as_asked():
    result = toy.found(budget=400)
    rewards = [scored.reward for scored in result.top(100)]
    assert rewards == sorted(rewards, reverse=True)
    assert len({scored.id for scored in result.top(100)}) == len(rewards) == 16
    assert result.top(3) == result.kept[:3]
    assert len(toy.found(algorithm="best_of_n", n=3).top(100)) == 3


def test_curve_rises_to_the_best():
    result = toy.found(budget=400)
    nfe, seconds, rewards = zip(*result.curve, strict=True)
    assert list(nfe) == sorted(nfe) and list(seconds) == sorted(seconds)
    assert all(a < b for a, b in pairwise(rewards))
    assert rewards[-1] == result.best.reward
    assert nfe[-1] == result.best.nfe <= result.cost.nfe


def test_reward_is_that_of_the_sample_as_it_would_be_saved():
    best = toy.found().best
    eight_bit = torch.tensor(list(best.sample.tobytes())).float() / 255
    assert best.reward == pytest.approx(float(eight_bit.mean()), abs=1e-6)


def test_video_is_a_list_of_frames():
    sample = toy.found(pipe=toy.sampler(frames=3)).best.sample
    assert [type(frame) for frame in sample] == [Image.Image] * 3


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(("run_seed", "sampler_seed"), [(0, 0), (3, 7)])
def test_the_best_is_made_again_from_its_genome(eta, run_seed, sampler_seed):
    result = toy.found(pipe=toy.sampler(sampler_seed), seed=run_seed, eta=eta)
    s = toy.sampler(sampler_seed)
    sample = s.decode(replay(result.best.genome, s, eta=eta))[0]
    again = es.types.pictures((sample * 255).round().byte())
    assert again.tobytes() == result.best.sample.tobytes()


def test_counted_budgets_give_the_same_result_twice():
    first, again = same(toy.found(), toy.found())
    assert first == again
    first, other = same(toy.found(), toy.found(seed=1))
    assert first != other


def test_a_list_of_prompts_gives_a_list_of_results():
    seen = []

    def reward(samples, prompts):
        seen.extend(prompts)
        return toy.bright(samples, prompts)

    results = toy.found(prompt=["one", "two"], reward=reward)
    assert [result.settings["prompt"] for result in results] == ["one", "two"]
    calls = [result.cost.reward_calls for result in results]
    assert seen[-sum(calls) :] == ["one"] * calls[0] + ["two"] * calls[1]


# Rewards of every form


class Bright:
    def __call__(self, samples, prompts):
        return toy.bright(samples, prompts)


def of_picture(image):
    return sum(image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))) / 765


@pytest.mark.parametrize("reward", [toy.bright, Bright(), {toy.bright: 1.0}, {toy.bright: 0.75, Bright(): 0.25}])
def test_rewards_of_tensors_agree(reward):
    assert toy.found(reward=reward).best.reward == pytest.approx(toy.found().best.reward, abs=1e-6)


def test_reward_of_a_picture_sees_the_picture():
    result = toy.found(reward=of_picture)
    assert result.best.reward == pytest.approx(of_picture(result.best.sample))


def test_weights_are_weights():
    doubled = toy.found(reward={toy.bright: 2.0})
    assert doubled.best.reward == pytest.approx(2 * toy.found().best.reward, abs=1e-6)


def _drops_a_value(samples, prompts):
    return toy.bright(samples, prompts)[1:]


@pytest.mark.parametrize("reward", [_drops_a_value, lambda samples, prompts: samples.mean((2, 3))])
def test_reward_of_the_wrong_shape_is_refused(reward):
    with pytest.raises(ValueError, match=r"reward must return one value a sample: expected shape \(4,\), got"):
        toy.found(reward=reward)


def test_invalid_rewards_are_counted_and_never_best():
    def flawed(samples, prompts):
        light = toy.bright(samples, prompts)
        return torch.where(light > 0.5, torch.nan, light)

    result = toy.found(reward=flawed, budget=200)
    seen = torch.tensor([r for generation in result.generations for r in generation.rewards])
    assert result.invalid == seen.isnan().sum() > 0
    assert result.best.reward == seen[~seen.isnan()].max()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nothing_but_invalid_rewards_is_an_error(bad):
    with pytest.raises(es.InvalidReward, match=r"nothing finite for any of .* samples of 'bright'; check it"):
        toy.found(reward=lambda samples, prompts: torch.full((len(samples),), bad))


def test_the_users_own_error_comes_through():
    class Odd(Exception):
        pass

    odd = Odd("mine")

    def reward(samples, prompts):
        raise odd

    with pytest.raises(Odd) as caught:
        toy.found(reward=reward)
    assert caught.value is odd


def test_held_out_rewards_judge_what_is_kept_and_was_the_best_on_the_way_and_no_more():
    judged = []

    def judge(samples, prompts):
        judged.append(len(samples))
        return -toy.bright(samples, prompts)

    result = toy.found(held_out=[judge])
    assert sum(judged) == len({scored.id for scored in result.kept}.union(*(stage.ids for stage in result.stages)))
    assert max(judged) <= toy.sampler().batch_size
    assert same(result, toy.found())[0] == same(result, toy.found())[1]
    for scored in result.kept:
        assert scored.held_out["judge"] == pytest.approx(-scored.reward, abs=1e-6)


# Budgets


@pytest.mark.parametrize(
    ("budget", "limit"), [(100, 100), ("20x", 100), (Budget(nfe=70), 70), ("5.5x", 28), (None, 100)]
)
def test_nfe_stay_within_the_budget_and_fill_it(budget, limit):
    cost = toy.found(budget=budget).cost
    assert 0.85 * limit < cost.nfe <= limit
    assert cost.nfe == cost.model_passes
    assert cost.decodes == cost.reward_calls > 0


def test_reward_calls_stay_within_the_budget():
    cost = toy.found(budget=Budget(reward_calls=30), algorithm="best_of_n").cost
    assert (cost.reward_calls, cost.nfe) == (30, 30 * STEPS)


def test_knobs_alone_say_what_is_spent():
    assert toy.found(budget=None, algorithm="best_of_n", n=7).cost.nfe == 7 * STEPS


class Clock:
    """Seconds that pass only when the model works."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def denoise(self, x, alpha, sigma):
        self.now += 0.25
        return x


@pytest.mark.parametrize("seconds", [0.1, 2.0, 3.9])
def test_seconds_are_overrun_by_a_micro_batch_at_most(seconds):
    clock = Clock()
    s = es.DenoiserSampler(clock.denoise, toy.sampler().path, (3,), batch_size=2)
    meter = Meter(Budget(seconds=seconds), clock=clock)
    with pytest.raises(BudgetExhausted):
        MeteredSampler(s, meter).run(s.prior(20), STEPS)
    assert seconds <= meter.seconds < seconds + 0.25 * STEPS


def test_a_budget_in_seconds_ends_the_search():
    def slow(x, alpha, sigma):
        time.sleep(0.002)
        return alpha * x

    own = toy.sampler()
    s = es.DenoiserSampler(slow, own.path, own.shape, decode=own._decode, batch_size=4)
    start = time.perf_counter()
    result = toy.found(pipe=s, budget="0.5s", algorithm="best_of_n")
    assert result.cost.seconds > 0.4
    assert time.perf_counter() - start < 10
    assert 0 < result.cost.nfe < 2000


def test_money_is_time_and_calls():
    meter = Meter(Budget(usd=1.0, usd_per_hour=3600), usd_per_call=0.1, clock=(clock := Clock()))
    meter.start()
    meter.reward_usd += 0.2
    clock.now += 0.5
    meter.tick()
    assert meter.cost.usd == pytest.approx(0.7)
    meter.afford(usd=0.3)
    with pytest.raises(BudgetExhausted):
        meter.afford(usd=0.31)


def test_priced_rewards_stay_within_the_money():
    def priced(samples, prompts):
        return toy.bright(samples, prompts)

    priced.usd_per_call = 0.01
    cost = toy.found(reward=priced, budget=Budget(usd=0.5), algorithm="best_of_n").cost
    assert cost.usd == pytest.approx(0.01 * cost.reward_calls)
    assert 0.5 - 0.01 * 4 < cost.usd <= 0.5  # to a micro-batch


def test_stop_at_ends_the_search_early():
    whole = toy.found(algorithm="best_of_n", budget=1000)
    enough = whole.curve[1][2]
    early = toy.found(algorithm="best_of_n", budget=1000, stop_at=enough)
    assert early.best.reward >= enough
    assert early.cost.nfe < whole.cost.nfe


def _warm_started(earlier, n):
    genomes = [scored.genome for scored in earlier.kept]
    s = toy.sampler(seed=9)
    return Session(s, algorithm_of("best_of_n"), toy.bright, "bright", None, {"n": n}, seed=9, genomes=genomes).run({})


def test_an_earlier_runs_noises_come_first():
    earlier = toy.found(algorithm="best_of_n", budget=3 * STEPS)
    result = _warm_started(earlier, 4)
    assert result.generations[0].ids[:3] == [scored.id for scored in earlier.kept]
    assert result.generations[0].rewards[:3] == [scored.reward for scored in earlier.kept]
    assert result.generations[0].ids[3] not in {scored.id for scored in earlier.kept}
    assert result.cost.nfe == 4 * STEPS


def test_relatives_give_their_common_noise_once():
    evolved = toy.found(schedule=[3], sizes=[2, 8], budget=None)
    assert len(evolved.kept) > 2
    result = _warm_started(evolved, 4)
    assert len({id for generation in result.generations for id in generation.ids}) == 4


# A user's own search


def two_draws(sampler, reward, rng, *, rounds: int = 2):
    """Neither a cost nor a fit is declared."""
    for _ in range(rounds):
        p, _ = sampler.run(sampler.prior(4), sampler.steps)
        yield es.Population(p.x, p.i, p.key, genomes=p.genomes, reward=reward(sampler.decode(p)))


def test_a_generator_function_is_an_algorithm():
    result = toy.found(algorithm=two_draws, rounds=3, budget=1000)
    assert [len(generation.rewards) for generation in result.generations] == [4, 4, 4]
    assert result.cost.nfe == 3 * 4 * STEPS
    assert result.settings["algorithm"] == "two_draws"


def test_the_budget_ends_a_search_that_knows_none():
    assert toy.found(algorithm=two_draws, rounds=1000, budget=4 * STEPS * 3 + 1).cost.nfe == 4 * STEPS * 3


def test_samples_are_scored_as_their_own_whatever_was_decoded_since():
    def two_at_once(sampler, reward, rng):
        dark, light = (sampler.run(sampler.prior(2), sampler.steps)[0] for _ in range(2))
        samples = [sampler.decode(p) for p in (dark, light)]
        for p, decoded in zip((dark, light), samples, strict=True):
            yield p.moved(p.x, reward=reward(decoded))

    result = toy.found(algorithm=two_at_once)
    for scored in result.kept:
        pixels = torch.tensor(list(scored.sample.tobytes())).float() / 255
        assert scored.reward == pytest.approx(float(pixels.mean()), abs=1e-6)
    assert len(result.kept) == 4


def test_two_searches_of_one_sampler_draw_the_same():
    sampler = toy.sampler()
    first, second = same(toy.found(pipe=sampler), toy.found(pipe=sampler))
    assert first == second


def test_a_reward_that_fails_at_first_is_not_given_up():
    seen = 0

    def slow_to_start(samples, prompts):
        nonlocal seen
        seen += len(samples)
        return toy.bright(samples, prompts) if seen > 12 else torch.full((len(samples),), torch.nan)

    result = toy.found(reward=slow_to_start, algorithm="best_of_n", budget="20x")
    assert result.invalid == 12
    assert result.cost.reward_calls == 20


def gappy(share, allow_missing):
    """Brightness, missing for so many of a hundred samples, evenly spread."""
    seen = 0

    def reward(samples, prompts):
        nonlocal seen
        numbers = torch.arange(seen, seen + len(samples))
        seen += len(samples)
        return torch.where(numbers * share % 100 < share, torch.nan, toy.bright(samples, prompts))

    reward.allow_missing = allow_missing
    return reward


@pytest.mark.parametrize(
    ("share", "allowed", "ends"),
    [(5, 0.05, False), (6, 0.05, True), (50, 1.0, False), (1, 0.01, False), (2, 0.01, True), (1, 0, True)],
)
def test_a_reward_may_be_missing_for_as_many_as_it_allows(share, allowed, ends):
    reward = gappy(share, allowed)
    for asked in (reward, {reward: 2.0, toy.bright: 1.0}):
        search = partial(toy.found, reward=asked, algorithm="best_of_n", budget="100x")
        if ends:
            said = f"for {share} of .* samples of 'bright', and allow_missing={allowed}"
            with pytest.raises(es.InvalidReward, match=said) as ended:
                search()
            assert math.isfinite(ended.value.result.best.reward)
        else:
            assert search().invalid == share


def test_a_search_ends_on_its_way_once_too_many_rewards_are_missing_for_all_that_is_planned():
    with pytest.raises(es.InvalidReward, match=r"nothing finite for 10\d of 20\d samples") as ended:
        toy.found(reward=gappy(50, 0.1), algorithm="best_of_n", budget="1000x")
    assert "allow more" in str(ended.value)


def test_a_bad_start_ends_no_search_whose_plan_makes_up_for_it():
    seen = 0

    def late(samples, prompts):
        nonlocal seen
        seen += len(samples)
        return toy.bright(samples, prompts) if seen > 4 else torch.full((len(samples),), torch.nan)

    late.allow_missing = 0.01
    assert toy.found(reward=late, algorithm="best_of_n", budget="400x").invalid == 4


def test_a_reward_that_always_fails_does_not_spend_the_budget():
    with pytest.raises(es.InvalidReward, match="nothing finite for any of 64 samples"):
        toy.found(
            reward=lambda samples, prompts: torch.full((len(samples),), torch.inf), algorithm="best_of_n", budget=2500
        )


def test_held_out_rewards_of_one_name_are_kept_apart():
    judges = [
        lambda samples, prompts: toy.bright(samples, prompts),
        lambda samples, prompts: -toy.bright(samples, prompts),
    ]
    verdicts = toy.found(held_out=judges).best.held_out
    assert verdicts["<lambda>"] == -verdicts["<lambda> 2"]


def test_a_single_held_out_reward_needs_no_list():
    assert list(toy.found(held_out=toy.bright).best.held_out) == ["bright"]


def test_settings_hold_all_knobs_and_the_eta_of_the_search():
    settings = toy.found(rate=0.2).settings
    assert settings["knobs"] | {"rate": 0.2, "tournament": 3, "mutation": "level_preserving"} == settings["knobs"]
    assert settings["eta"] == 0.0
    assert toy.found(eta=1.0).settings["eta"] == 1.0


# Plans


class SlowClock:
    """Stands in for the time module: a step of the model takes a second, whatever it holds, scoring half of one."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    ticking = SlowClock()
    monkeypatch.setattr("evosearch.session.time", ticking)
    monkeypatch.setattr("evosearch.budget.Meter.__init__.__defaults__", (0.0, ticking.perf_counter, False))
    return ticking


def timed(clock, batch_size=16):
    def denoise(x, alpha, sigma):
        clock.now += 1
        return alpha * x

    def decode(x):
        clock.now += 0.5
        return torch.sigmoid(x)

    return es.DenoiserSampler(denoise, NoisePath.cosine(5), (3, 4, 4), decode=decode, batch_size=batch_size)


@pytest.mark.parametrize("algorithm", ["evosearch", "best_of_n"])
@pytest.mark.parametrize("seconds", [12, 30, 100])
def test_a_budget_of_time_is_planned_with_the_padding(clock, algorithm, seconds):
    result = toy.found(pipe=timed(clock), algorithm=algorithm, budget=f"{seconds}s")
    assert result.cost.seconds <= seconds + 5 * 1.0 + 0.5  # a micro-batch more at the most
    assert result.cost.seconds > 0.4 * seconds
    if algorithm == "evosearch":
        assert len(result.generations) == len(result.settings["knobs"]["sizes"])  # none is cut off


def test_a_budget_of_too_little_time_says_what_is_lacking(clock):
    for algorithm in ("evosearch", "best_of_n"):
        message = f"budget of 0.5 s is too small here: budget must be at least 5 NFE for {algorithm} in 5 steps$"
        with pytest.raises(ValueError, match=message):
            toy.found(pipe=timed(clock, batch_size=4), algorithm=algorithm, budget="0.5s")


def test_the_sample_in_place_of_one_that_the_clock_has_cut_off_is_counted(clock):
    """Four particles are given where the time is enough for two steps: a plain sample has to do, five more."""
    result = toy.found(pipe=timed(clock), algorithm="particles", budget="2s", n=4)
    assert result.best.id == result.plain.id
    assert result.cost.nfe == 4 * 2 + 5
    assert result.cost.reward_calls == 1


@pytest.mark.parametrize("algorithm", ["particles", "svdd", "beam"])
def test_a_search_that_the_clock_cuts_off_on_its_way_ends_with_the_best_that_it_has_shown(clock, algorithm):
    shown = []

    def noted(sampler, reward, rng, **knobs):
        for p in getattr(es.searches, algorithm)(sampler, reward, rng, **knobs):
            shown.append(p)
            yield p

    knobs = {"particles": {"n": 8}, "svdd": {"n": 2, "children": 4}, "beam": {"beams": 2, "children": 3}}[algorithm]
    result = toy.found(pipe=timed(clock), algorithm=noted, budget="7s", **knobs)
    assert shown[-1].i < 5
    best = int(shown[-1].reward.argmax())
    assert result.best.genome[-1].state == shown[-1].x[best].numpy().tobytes()
    assert result.best.reward >= result.plain.reward


def test_plans_leave_time_for_the_way_back_of_a_gradient():
    forth, back = ([Wave(4, 10, passes=passes)] for passes in (1, 3))
    pace = Pace(batch_size=4, step=1.0, score=0.5, sample=0)
    assert pace.seconds(back) == 3 * pace.seconds(forth) == 3 * 10.5
    assert sum(wave.passes == 3 for wave in es.searches.reno.waves(10, rounds=5)) == 4
    assert {wave.passes for wave in es.searches.particles.waves(10, n=4, guidance=1.0) if wave.steps} == {1, 3}


def test_knobs_that_score_more_than_the_budget_are_refused():
    with pytest.raises(ValueError, match="budget must be at least 81 rewards for these knobs of svdd, got 40"):
        toy.found(algorithm="svdd", n=1, children=20, budget=Budget(reward_calls=40))
    cut = toy.found(algorithm="best_of_n", n=50, budget=Budget(reward_calls=40))
    assert cut.cost.reward_calls == 40


def test_a_budget_of_rewards_is_planned_to_its_end():
    result = toy.found(budget=Budget(reward_calls=40))
    knobs = result.settings["knobs"]
    assert [len(g.ids) for g in result.generations] == [
        knobs["sizes"][0],
        *(k - knobs["elites"] for k in knobs["sizes"][1:]),
    ]
    assert 34 <= result.cost.reward_calls <= 40


def test_limits_of_count_and_time_go_together(clock):
    result = toy.found(pipe=timed(clock, batch_size=4), budget=Budget(nfe=100, seconds=1000))
    assert [len(g.ids) for g in result.generations] == [len(g.ids) for g in toy.found(budget=100).generations]


@pytest.mark.parametrize("given", [{"schedule": [0, 3]}, {"sizes": [8, 4, 4]}, {"elites": 0}, {"elites": 4}])
def test_knobs_are_fitted_around_those_given(given):
    result = toy.found(budget=200, **given)
    knobs = result.settings["knobs"]
    assert {name: knobs[name] for name in given} == given
    assert len(knobs["sizes"]) == len(knobs["schedule"]) + 1
    assert "sizes" in given or result.cost.nfe > 0.85 * 200


def test_a_micro_batch_suits_the_generations():
    search = es.searches.evosearch
    pipe = es.load("shapes-diffusion")
    assert batch_of(pipe, search, {"schedule": [0], "sizes": [10, 6], "elites": 1}, None, 20, most=16) == 5
    assert batch_of(pipe, es.searches.best_of_n, {}, "16x", 20, most=16) == 16
    assert batch_of(pipe, search, {}, "60s", 20, most=16) == batch_of(pipe, search, {}, "20x", 20, most=16) < 16
    assert batch_of(pipe, es.searches.best_of_n, {}, "60s", 20, most=16) == 16


def test_a_run_says_the_precision_and_the_schedulers_settings():
    pipe = es.load("shapes-diffusion", dtype="bfloat16")
    asked = {"prompt": "a red circle", "reward": "shapes", "budget": 2, "steps": 2}
    settings = toy.found(pipe=pipe, algorithm="best_of_n", **asked).settings
    assert settings["dtype"] == {"vae": "bfloat16", "text_encoder": "bfloat16", "unet": "bfloat16"}
    assert settings["scheduler_config"]["timestep_spacing"] == "trailing"


# What is refused


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": ""}, "prompt must be text.*got ''"),
        ({"prompt": ["fine", "  "]}, "prompt must be text"),
        ({"prompt": []}, "prompt must be text"),
        ({"algorithm": "evosearhc"}, "algorithm must be one of .*; did you mean 'evosearch'?"),
        ({"algorithm": 3}, "algorithm must be a name or a generator function, got int"),
        ({"reward": "shape"}, "reward must be one of .*did you mean 'shapes'?"),
        ({"reward": 3}, "reward must be a name, a callable or {name: weight}, got int"),
        ({"reward": {}}, "reward must name at least one reward"),
        ({"reward": lambda a, b, c: 0}, "reward must take one PIL image, or samples and prompts; .* takes 3"),
        ({"budget": "many"}, "budget must be a Budget, .* got 'many'"),
        ({"budget": "1.5"}, "budget must be a Budget"),
        ({"budget": 0}, "budget: nfe must be above 0, got 0"),
        ({"budget": 4}, "budget must be at least 5 NFE .* got 4"),
        ({"budget": 10, "algorithm": "best_of_n", "n": 3}, "budget must be at least 15 NFE .* got 10"),
        ({"budget": 100, "sizes": [40, 20, 20]}, "budget must be at least 352 NFE for these sizes in 5 steps; got 100"),
        ({"budget": Budget(reward_calls=9), "sizes": [40, 20]}, "budget of 9 rewards .* at least 295 NFE for these"),
        ({"elite": 1}, "evosearch has no knob 'elite'; it has .*; did you mean 'elites'?"),
        ({"steps": 7}, "steps must be the sampler's own 5, or left out, got 7"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": 1.5}, "seed must be a whole number from 0"),
        ({"prompt": None}, "prompt must be text"),
        ({"stop_at": float("nan")}, "stop_at must be a number"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"pipeline_kwargs": {"height": 64}}, "pipeline_kwargs go with a pipeline; a sampler takes none, got height"),
        ({"rate": "hello"}, r"rate must be a number in \[0, 1\], got 'hello'"),
        ({"rate": float("nan")}, r"rate must be a number in \[0, 1\], got nan"),
        ({"schedule": 0}, "schedule must be a list of whole numbers, got 0"),
        ({"schedule": [0.5]}, "schedule must be a list of whole numbers"),
        ({"tournament": 2.5}, "tournament must be a whole number"),
        ({"inherit_noise": "maybe"}, "inherit_noise must be true or false"),
        ({"algorithm": "best_of_n", "n": "x"}, "n must be a whole number"),
        ({"reward": {"jpeg": True}}, "reward jpeg must have a number as its weight, got True"),
        ({"reward": {toy.bright: 1, _drops_a_value: 1}}, "reward _drops_a_value must return one value a sample"),
        ({"reward": lambda samples, prompts: "good"}, "reward must return one number a sample, got 'good'"),
        ({"held_out": lambda samples, prompts: samples}, "reward <lambda> must return one value a sample"),
    ],
)
def test_errors_say_what_was_expected(wrong, message):
    with pytest.raises(ValueError, match=message):
        toy.found(**wrong)


def test_a_fit_that_heeds_no_budget_is_refused():
    def waves(steps, *, n):
        return [Wave(n, steps)]

    @declared(waves=waves, fit=lambda steps, budget, **given: {"n": 3}, space="noise")
    def stubborn(sampler, reward, rng, *, n):
        yield from ()

    with pytest.raises(ValueError, match="budget of 10 NFE is too small for these knobs of stubborn"):
        toy.found(algorithm=stubborn, budget=10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"algorithm": "reno", "reward": "jpeg"}, "reward must be differentiable for reno, which climbs its gradient"),
        ({"algorithm": "svdd", "eta": 0}, "eta must be above 0 for svdd, .*; got 0"),
    ],
)
def test_what_a_search_cannot_do_without_is_missed_before_a_model_is_loaded(monkeypatch, wrong, message):
    monkeypatch.setattr(es.models, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=message):
        es.search("shapes-diffusion", "a red circle", **{"reward": "shapes", **wrong})


@pytest.mark.parametrize("wrong", [{"reward": _drops_a_value}, {"rate": "x"}, {"algorithm": "best_of_n", "n": 2.5}])
def test_wrong_arguments_leave_nothing_behind_whenever_they_are_found(tmp_path, wrong):
    with pytest.raises(ValueError):
        toy.found(run_dir=tmp_path / "new" / "run", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_one_taken_folder_stops_all_prompts(tmp_path):
    (tmp_path / "0001").mkdir()
    (tmp_path / "0001" / "notes").touch()
    with pytest.raises(ValueError, match="holds files"):
        toy.found(prompt=["one", "two"], run_dir=tmp_path)
    assert not (tmp_path / "0000").exists()


def test_a_budget_takes_numbers_alone():
    for wrong in ("20", True, float("nan")):
        with pytest.raises(ValueError, match="budget: nfe must be a number, got"):
            Budget(nfe=wrong)


def test_a_budget_must_limit_something_and_money_needs_a_price():
    with pytest.raises(ValueError, match="budget must limit something: give one of nfe, seconds, reward_calls, usd"):
        Budget(usd_per_hour=2)
    with pytest.raises(ValueError, match=r"budget: usd needs usd_per_hour=, or a reward that has a price"):
        toy.found(budget=Budget(usd=1))
