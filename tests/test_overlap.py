"""A reward that computes elsewhere scores one micro-batch while the next is denoised, and nothing else changes."""

import json
import threading
import time

import judges
import pytest
import torch
import toy
from test_rewards_judge import judge_of

import evosearch as es
from evosearch.budget import Budget
from evosearch.judging import elsewhere
from evosearch.rewards.judge import JudgeError
from evosearch.scoring import roll_out
from evosearch.types import concat

OVERLAPPING = ["evosearch", "paper_evosearch", "planned_evosearch", "zero_order", "trust_region"]


class Far:
    """Lightness, told from afar.

    Args:
        before: Called with the number of each batch before it is scored.
        remote: Whether it says that it is far.
    """

    def __init__(self, before=lambda k: None, remote=True):
        self.before, self.remote, self.batches, self.cancelled, self.threads = before, remote, 0, False, set()

    def __call__(self, samples, prompts):
        self.before(self.batches)
        self.batches += 1
        self.threads.add(threading.current_thread())
        return toy.bright(samples, prompts)

    def cancel(self):
        self.cancelled = True


class Model(es.DenoiserSampler):
    """The toy, which calls back before each micro-batch is denoised."""

    def __init__(self, before=lambda k: None, batch_size=4):
        own = toy.sampler()
        super().__init__(
            lambda x, alpha, sigma: alpha * x, own.path, own.shape, decode=own._decode, batch_size=batch_size
        )
        self.before, self.batches = before, 0

    def _denoise(self, trajectory, until):
        self.before(self.batches)
        self.batches += 1
        return super()._denoise(trajectory, until)


def waves(sampler, reward, rng, *, n: int = 16):
    """Some micro-batches in one wave."""
    finished, _ = roll_out(sampler.prior(n), sampler, reward)
    yield finished


def found(reward, **kwargs):
    return toy.found(reward=reward, **kwargs)


def told(result):
    """All but when things were found, and how many were shown together."""
    kept = [(s.id, s.reward, s.genome) for s in result.kept]
    shown = [row for g in result.generations for row in zip(g.ids, g.parents, g.rewards, strict=True)]
    return kept, shown, result.cost.nfe, result.cost.reward_calls


@pytest.mark.parametrize("algorithm", es.searches.__all__)
def test_a_far_reward_changes_no_result(algorithm):
    knobs = {"guidance": 0.0} if algorithm == "particles" else {}
    if "gradient" in getattr(getattr(es.searches, algorithm), "needs", ()):
        pytest.skip("its reward has a gradient, which does not overlap")
    near, far = (found(Far(remote=remote), algorithm=algorithm, **knobs) for remote in (False, True))
    assert told(near) == told(far)


@pytest.mark.parametrize("algorithm", OVERLAPPING)
def test_the_next_micro_batch_is_denoised_while_one_is_scored(algorithm):
    """Scores wait for one more to begin, until that has happened once; the last of a wave does so in vain."""
    denoised, met = [], []

    def denoise(k):
        time.sleep(0.01)  # so that there is a before
        denoised.append(k)

    def score(k):
        before, until = len(denoised), time.monotonic() + 0.2
        while True not in met and time.monotonic() < until:
            met.append(len(denoised) > before)
            time.sleep(0.002)

    sampler = Model(denoise, batch_size=1)
    reward = Far(score)
    found(reward, pipe=sampler, algorithm=algorithm)
    assert True in met
    assert reward.threads - {threading.main_thread()}


def test_a_near_reward_is_asked_by_the_thread_that_searches():
    for reward in (Far(remote=False), toy.bright):
        found(reward)
    plain = Far(remote=False)
    found(plain)
    assert plain.threads == {threading.main_thread()}


def test_time_is_saved():
    """Eight micro-batches of 50 ms and their scores of 50 ms: 0.8 s one after the other, 0.45 s overlapping."""
    seconds = []
    for remote in (False, True):
        start = time.perf_counter()
        found(
            Far(lambda k: time.sleep(0.05), remote),
            pipe=Model(lambda k: time.sleep(0.05)),
            algorithm=waves,
            n=32,
            budget=1000,
        )
        seconds.append(time.perf_counter() - start)
    assert seconds[1] < 0.8 * seconds[0]


def test_the_time_of_scoring_is_told_though_it_is_nobodys_wait():
    cost = found(Far(lambda k: time.sleep(0.02)), algorithm=waves, budget=1000).cost
    assert cost.reward_seconds >= 4 * 0.02


# What goes wrong


@pytest.mark.parametrize("batch", [0, 2, 3])
def test_a_rewards_own_error_comes_through(batch, tmp_path):
    def fail(k):
        if k == batch:
            raise RuntimeError("own")

    with pytest.raises(RuntimeError, match="own"):
        found(Far(fail), algorithm=waves, run_dir=tmp_path / "run", budget=1000)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert len(manifest.get("kept", [])) == 4 * batch  # what was scored before is kept


def test_a_reward_of_the_wrong_shape_is_refused():
    reward = Far()
    reward.__class__ = type("Wrong", (Far,), {"__call__": lambda self, samples, prompts: torch.zeros(3)})
    with pytest.raises(ValueError, match="one value a sample"):
        found(reward, algorithm=waves, budget=1000)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_being_scored_when_the_model_stops_is_kept(error, tmp_path):
    def stop(k):
        if k == 2:
            raise error("stop")

    reward = Far(lambda k: time.sleep(0.1))
    with pytest.raises(error, match="stop"):
        found(reward, pipe=Model(stop), algorithm=waves, run_dir=tmp_path / "run", budget=1000)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == {KeyboardInterrupt: "interrupted", RuntimeError: "failed"}[error]
    assert len(manifest["kept"]) == 8
    assert reward.cancelled == (error is KeyboardInterrupt)


def test_a_judge_that_is_interrupted_gives_up_soon(tmp_path):
    with judges.FakeJudge(lambda picture, attempt: "429") as server:
        judge = judge_of(server.url, deadline=60, retries=1000, extra={"seed": 1})

        def stop(k):
            if k == 1:
                raise KeyboardInterrupt

        start = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            found(judge, pipe=Model(stop), algorithm=waves, budget=1000)
        assert time.perf_counter() - start < 5


def test_a_judge_that_refuses_ends_the_search_with_its_sentence():
    with (
        judges.FakeJudge(lambda picture, attempt: (401, b"", {})) as server,
        pytest.raises(JudgeError, match="refuses calls, HTTP 401"),
    ):
        found(judge_of(server.url), algorithm=waves, budget=1000)


@pytest.mark.parametrize("algorithm", ["best_of_n", "evosearch", "zero_order"])
@pytest.mark.parametrize("budget", [Budget(reward_calls=10), Budget(usd=1.0), Budget(nfe=60)])
def test_budgets_hold(algorithm, budget):
    reward = Far()
    reward.usd_per_call = 0.1
    cost = found(reward, algorithm=algorithm, budget=budget).cost
    assert cost.reward_calls <= (budget.reward_calls or 12) and cost.usd <= (budget.usd or 10) + 1e-9
    assert cost.nfe <= (budget.nfe or 1000)
    assert cost.reward_calls > 4


def test_a_sample_is_asked_about_once_though_its_twin_is_being_scored():
    def twins(sampler, reward, rng):
        p = sampler.prior(4)
        yield roll_out(concat(p, p), sampler, reward)[0]

    reward = Far(lambda k: time.sleep(0.05))
    result = found(reward, algorithm=twins, budget=1000)
    assert reward.batches == 1
    assert (result.cost.reward_calls, result.cost.hits) == (4, 4)


# Where things are


@pytest.mark.parametrize(
    ("own", "model", "other"),
    [
        ("cpu", "cuda:0", True),
        ("cuda:1", "cuda:0", True),
        ("cuda:0", "cuda:0", False),
        ("cuda", "cuda:0", False),
        ("cpu", "cpu", False),
        (None, "cpu", False),
        (torch.device("cuda", 1), "cuda:0", True),
    ],
)
def test_a_reward_is_elsewhere_by_its_device(own, model, other):
    reward = Far(remote=False)
    assert elsewhere(reward, torch.device(model)) is False
    reward.device = own
    assert elsewhere(reward, torch.device(model)) is other
    assert elsewhere(Far(), torch.device(model))


def test_of_a_combination_all_must_be_elsewhere():
    for near, overlaps in ((Far(remote=False), False), (Far(), True)):
        far = Far()
        found({far: 1, near: 2}, algorithm=waves, budget=1000)
        assert bool(far.threads - {threading.main_thread()}) == overlaps
