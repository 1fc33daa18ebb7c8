"""Feature caches: drafts reuse what diffusers lets them, pay for what they compute, and leave the pipeline alone."""

import copy
import json
import math

import diffusers
import numpy as np
import pytest
import torch
from pipelines import CASES
from vectors import nearness
from vectors import sampler as vectors

import evosearch as es
from evosearch import features, searches
from evosearch.budget import Budget, Meter
from evosearch.drafts import levels_of
from evosearch.genome import replay
from evosearch.metered import MeteredSampler
from evosearch.pipeline import PipelineSampler

STEPS = 6
NEVER, ALWAYS = diffusers.FirstBlockCacheConfig(threshold=0.0), diffusers.FirstBlockCacheConfig(threshold=1e9)
CACHED = pytest.mark.parametrize("name", ["flux", "wan", "hunyuan_video", "qwen_image"])


def _pipe(name):
    """With three blocks, so that there is something to leave out."""
    pipe = CASES[name].build()
    network = getattr(pipe, "transformer", None)
    if network is not None:
        torch.manual_seed(0)
        pipe.transformer = type(network).from_config({**network.config, "num_layers": 3}).eval()
    return pipe


def _sampler(name):
    return PipelineSampler(_pipe(name), "two red circles", steps=STEPS, batch_size=2, **CASES[name].kwargs)


def _leaf_weights(module):
    return sum(p.numel() for part in module.modules() if not list(part.children()) for p in part.parameters())


def _state(pipe):
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in pipe.transformer.modules()]
    return pipe.transformer.is_cache_enabled, hooks, [m.forward.__qualname__ for m in pipe.transformer.modules()]


@torch.no_grad()
@CACHED
def test_a_cache_that_never_holds_changes_nothing(name):
    s = _sampler(name)
    p = s.prior(3)
    whole, found = s.run(p, STEPS)[0], s.cached(NEVER).run(p, STEPS)[0]
    assert torch.equal(found.x, whole.x)
    assert s.cached(NEVER).prices(range(STEPS + 1)) == [1.0] * STEPS


@torch.no_grad()
@CACHED
def test_a_step_is_charged_the_share_of_the_weights_that_it_used(name):
    """Where the first block decides to reuse, all other blocks are left out."""
    s = _sampler(name)
    network, own = s.pipe.transformer, _state(s.pipe)
    blocks = [b for part in network.children() if isinstance(part, torch.nn.ModuleList) for b in part]
    blocks = [block for block in blocks if "Block" in type(block).__name__]
    share = 1 - sum(map(_leaf_weights, blocks[1:])) / _leaf_weights(network)
    cached = s.cached(ALWAYS)
    prices = cached.prices(range(STEPS + 1))
    assert prices == pytest.approx([1.0, *[share] * (STEPS - 1)], rel=0.02)
    assert share < 0.9
    assert cached.computed == 0
    passes = s.model_passes
    s.run(s.prior(2), STEPS)
    a_step = (s.model_passes - passes) / STEPS / 2
    cached.model_passes = 0
    cached.run(s.prior(3), STEPS)
    assert cached.computed == math.ceil(2 * sum(prices)) + math.ceil(sum(prices))
    assert cached.model_passes == pytest.approx(3 * a_step * sum(prices), abs=2)
    assert _state(s.pipe) == own


@torch.no_grad()
def test_what_it_costs_is_foreseen_by_its_prices_and_charged_as_it_is():
    s = _sampler("flux")
    meter = Meter(Budget(nfe=100))
    cached = MeteredSampler(s, meter).cached(ALWAYS, [1.0, 0.5])
    p = s.prior(3)
    assert cached.cost(p, STEPS) == math.ceil(3 * (1 + 5 * 0.5))
    assert cached.cost(p, STEPS, through=[3]) == math.ceil(3 * 1.5)
    end, _ = cached.run(p, STEPS)
    prices = s.cached(ALWAYS).prices(range(STEPS + 1))
    assert meter.nfe == cached.computed == math.ceil(2 * sum(prices)) + math.ceil(sum(prices))
    assert not torch.equal(end.x, s.run(p, STEPS)[0].x)
    assert torch.equal(s.run(p, STEPS)[0].x, s.run(p, STEPS)[0].x)


@torch.no_grad()
def test_one_micro_batch_reuses_nothing_of_another():
    s = _sampler("flux")
    p, others = s.prior(2), s.prior(2)
    cached = s.cached(ALWAYS)
    alone = cached.run(others, STEPS)[0].x
    cached.run(p, STEPS)
    assert torch.equal(cached.run(others, STEPS)[0].x, alone)


@torch.no_grad()
@pytest.mark.parametrize("name", ["flux", "wan"])
@pytest.mark.parametrize("cache", ["first_block", "taylor-seer"])
def test_named_caches_compute_less_and_foretell_the_sample(name, cache):
    s = _sampler(name)
    p = s.prior(2)
    cached, plain = s.cached(cache), s.run(p, STEPS)[0].x
    assert sum(cached.prices(range(STEPS + 1))) < STEPS
    apart = (cached.run(p, STEPS)[0].x - plain).norm() / (p.x - plain).norm()
    assert 0 < apart < 0.3


@torch.no_grad()
def test_mag_cache_is_told_which_part_of_the_trajectory_it_is_in():
    ratios = torch.linspace(1.0, 1.5, STEPS)
    config = diffusers.MagCacheConfig(mag_ratios=ratios, num_inference_steps=STEPS, retention_ratio=0.5, threshold=9.0)
    late = features._for_levels(config, STEPS, [2, 3, 5])
    assert late.mag_ratios.tolist() == pytest.approx([1.0, float(ratios[3]), float(ratios[4] * ratios[5])])
    assert late.num_inference_steps == 3
    assert late.retention_ratio == pytest.approx((0.5 * STEPS - 2) / (STEPS - 2))
    s = _sampler("flux")
    cached = s.cached(config)
    assert cached.prices(range(STEPS + 1))[:3] == [1.0] * 3
    assert cached.prices(range(STEPS + 1))[3] < 0.9
    begun = s.run(s.prior(2), 4)[0]
    assert cached.run(begun, STEPS)[0].i == STEPS


@pytest.mark.parametrize(
    ("name", "cache", "message"),
    [
        ("stable_diffusion", "first_block", "StableDiffusionPipeline's UNet2DConditionModel has none; use draft_steps"),
        ("flux", "first-blok", "draft_cache must be 'first_block' or 'taylor_seer', or a cache config .* 'first-blok'"),
        ("flux", 3, "draft_cache must be .* got 3"),
        ("flux", diffusers.FirstBlockCacheConfig, "draft_cache must be"),
    ],
)
def test_what_has_no_such_cache_is_refused(name, cache, message):
    with pytest.raises(ValueError, match=message):
        _sampler(name).cached(cache)


def test_a_cache_that_is_on_already_is_left_alone():
    s = _sampler("flux")
    s.pipe.transformer.enable_cache(ALWAYS)
    with pytest.raises(ValueError, match="FluxPipeline has one on already; call disable_cache"):
        s.cached(ALWAYS)
    assert s.pipe.transformer.is_cache_enabled


def test_a_compiled_network_is_refused():
    s = _sampler("flux")
    s.pipe.transformer.transformer_blocks[0]._compiled_call_impl = s.pipe.transformer.forward
    with pytest.raises(ValueError, match="draft_cache goes with a network that is not compiled, which FluxPipeline"):
        s.cached(ALWAYS)


@torch.no_grad()
def test_the_cache_is_off_again_after_an_error():
    s = _sampler("flux")
    own = _state(s.pipe)
    cached = s.cached(ALWAYS)

    def failing(module, args):
        raise RuntimeError("out of memory")

    handle = s.pipe.transformer.transformer_blocks[0].register_forward_pre_hook(failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        cached.run(s.prior(2), STEPS)
    handle.remove()
    assert _state(s.pipe) == own


def _brightness(samples, prompts):
    return samples.flatten(1).mean(1)


@pytest.mark.parametrize(("algorithm", "knobs"), [("evosearch", {}), ("drafts", {"of": "zero_order"})])
def test_a_search_by_cached_drafts_keeps_to_its_budget_and_finishes_without_the_cache(algorithm, knobs, tmp_path):
    case = CASES["flux"]
    pipe, budget = _pipe("flux"), 12 * 8
    found = es.search(
        pipe, "two red circles", _brightness, algorithm, budget, steps=8, batch_size=2, draft_cache="taylor_seer",
        pipeline_kwargs=case.kwargs, progress=False, run_dir=tmp_path / "run", **knobs,
    )  # fmt: skip
    assert found.cost.nfe <= budget
    assert found.cost.nfe > 0.8 * budget
    settings = json.loads((tmp_path / "run" / "manifest.json").read_text())["settings"]
    assert settings["knobs"]["draft_cache"] == "taylor_seer"
    assert min(settings["knobs"]["draft_prices"]) < 0.9
    s = PipelineSampler(pipe, "two red circles", steps=8, batch_size=2, **case.kwargs)
    again = s.decode(replay(found.best.genome, s))[0]
    shown = torch.tensor(np.array(found.best.sample), dtype=torch.float32).reshape(-1, 3)
    assert torch.equal((again * 255).round().movedim(0, -1).reshape(-1, 3), shown)
    assert not pipe.transformer.is_cache_enabled


def test_a_config_of_diffusers_goes_into_the_manifest(tmp_path):
    case = CASES["wan"]
    es.search(
        _pipe("wan"), "two red circles", _brightness, budget=8 * 6, steps=8, batch_size=2, draft_steps=8,
        draft_cache=diffusers.FirstBlockCacheConfig(threshold=0.25), pipeline_kwargs=case.kwargs, progress=False,
        run_dir=tmp_path / "run",
    )  # fmt: skip
    settings = json.loads((tmp_path / "run" / "manifest.json").read_text())["settings"]
    assert settings["knobs"]["draft_cache"] == {"config": "FirstBlockCacheConfig", "threshold": 0.25}


class _Half(es.DenoiserSampler):
    """Vectors whose cached steps compute a share that is not what their prices say."""

    share = 1.0

    def cached(self, cache, prices=()):
        other = copy.copy(self)
        other.share, other._prices = float(cache), list(prices)
        return other

    def cost(self, p, until, through=None):
        steps = super().cost(p, until, through)
        return steps if self.share == 1.0 else math.ceil(steps * self._prices[0])

    def _denoise(self, trajectory, until):
        return self.share * super()._denoise(trajectory, until)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_drafts_that_cost_other_than_foreseen_neither_overrun_nor_waste(share):
    """What they leave finishes more winners; where they take more, exploring ends early, and winners are finished."""
    plain = vectors(12)
    s = _Half(plain._denoiser, plain.path, (3,))
    knobs = {"draft_steps": 6, "draft_cache": share, "draft_prices": [0.5], "rate": 0.6, "parents": 3, "elites": 0}
    knobs |= {"schedule": (3, 3, 4), "sizes": (8, 8, 8, 8), "finals": 3}
    waves = searches.evosearch.waves(12, **knobs)
    total = sum(wave.particles * wave.steps for wave in waves)
    meter = Meter(Budget(nfe=round(total)))
    metered, calls = MeteredSampler(s, meter), []

    def counted(samples):
        calls.append(len(samples))
        return nearness(samples)

    rng = torch.Generator().manual_seed(0)
    finished = [p for p in searches.evosearch(metered, counted, rng, **knobs) if p.i == 12]
    assert sum(map(len, finished)) >= 3
    assert 0.9 * total < meter.nfe <= total
    drafts = sum(calls) - sum(map(len, finished))
    assert drafts == 32 if share < 0.5 else drafts < 32


def test_prices_go_with_a_cache_and_a_cache_with_drafts():
    for knobs, message in [
        ({"draft_prices": [0.5]}, "draft_prices goes with draft_cache"),
        ({"draft_prices": [0.0], "draft_cache": "first_block"}, "draft_prices must be a number above 0"),
        ({"draft_steps": None, "draft_cache": "first_block"}, "draft_cache goes with draft_steps"),
        ({"rungs": 0}, "rungs must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            es.search(vectors(12), "toy", lambda samples, prompts: samples.sum(1), budget="20x", **knobs)


def test_levels_of_cached_drafts_are_half_of_all():
    knobs = searches.evosearch.fit(12, 240, draft_cache="first_block", draft_prices=[1.0, 0.3])
    assert knobs["draft_steps"] == 6
    assert levels_of(12, 6)[1] == 2
    waves = searches.evosearch.waves(12, **knobs, draft_cache="first_block", draft_prices=[1.0, 0.3])
    assert waves[0].steps == pytest.approx(1 + 5 * 0.3)
    assert 0.9 * 240 < sum(wave.particles * wave.steps for wave in waves) <= 240
