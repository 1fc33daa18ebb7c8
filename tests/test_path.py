"""The noise path: algebra, the stock solvers' own steps, and the marginals that theory asks for."""

from dataclasses import replace
from itertools import combinations_with_replacement

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    PNDMScheduler,
)
from vectors import gaussian

from evosearch.path import NoisePath

STEPS = 20
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DDIM_SD = {**SD, "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}
DPM_ZERO = {**SD, "final_sigmas_type": "zero"}
PATHS = {
    "flow": NoisePath.flow(STEPS),
    "shifted flow": NoisePath.flow(STEPS, shift=3),
    "cosine": NoisePath.cosine(STEPS),
}
ON_EVERY_PATH = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=_rng(seed), dtype=torch.float64)


def _path(scheduler, steps=STEPS, order=None):
    scheduler.set_timesteps(steps)
    return NoisePath.from_scheduler(scheduler, order)


# (x, model output) -> (x0, eps)


def _edm(path, x0, eps, i):
    sigma, data = path.sigma[i] * path.scale[i], path.sigma_data
    total = sigma**2 + data**2
    return (x0 - data**2 / total * (x0 + sigma * eps)) / (sigma * data / total.sqrt())


OUTPUTS = {
    "epsilon": lambda path, x0, eps, i: eps,
    "v": lambda path, x0, eps, i: path.alpha[i] * eps - path.sigma[i] * x0,
    "sample": lambda path, x0, eps, i: x0,
    "flow": lambda path, x0, eps, i: eps - x0,
    "flow to data": lambda path, x0, eps, i: x0 - eps,
    "edm": _edm,
    "edm v": lambda path, x0, eps, i: -_edm(path, x0, eps, i),
}


@pytest.mark.parametrize("prediction", OUTPUTS)
def test_an_output_is_split_into_the_pair_that_made_it(prediction):
    path = replace(NoisePath.flow(STEPS) if "flow" in prediction else NoisePath.cosine(STEPS), prediction=prediction)
    if prediction.startswith("edm"):
        path = replace(path, scale=1 / path.alpha.clamp(min=1e-3), sigma_data=0.5)
    x0, eps = _normal(4, 3), _normal(4, 3, seed=1)
    for i in range(1, STEPS):
        x = path.alpha[i] * x0 + path.sigma[i] * eps
        found, clipped = path.split(x, OUTPUTS[prediction](path, x0, eps, i), i)
        assert clipped is None
        torch.testing.assert_close(found, x0, atol=1e-5, rtol=0, check_dtype=False)
        torch.testing.assert_close(path.eps(x, found, i), eps, atol=1e-4, rtol=0, check_dtype=False)


def test_learned_variances_are_left_aside():
    path = replace(NoisePath.cosine(STEPS), prediction="sample")
    output = _normal(2, 6, 4, 4)
    assert torch.equal(path.split(_normal(2, 3, 4, 4), output, 1)[0], output[:, :3].float())


def test_edm_grid_is_karras_own():
    path = _path(EDMEulerScheduler(sigma_min=0.002, sigma_max=80, sigma_data=0.5))
    assert (path.prediction, path.sigma_data) == ("edm", 0.5)
    assert float(path.sigma[0] / path.alpha[0]) == pytest.approx(80)
    assert float(path.scale[0] * path.alpha[0]) == pytest.approx(1)


def _pndm(**config):
    return PNDMScheduler(skip_prk_steps=True, steps_offset=1, **config)


@pytest.mark.parametrize("make", [HeunDiscreteScheduler, _pndm])
def test_levels_named_twice_are_one(make):
    path = _path(make(**SD))
    assert (path.sigma.diff() < 0).all()
    assert len(path.timesteps) == path.steps == STEPS


# The stock solvers


def _model(x, t):
    return (1.5 * x).tanh() * 0.7 + 0.3 * torch.sin(t / 150)


def _stock(scheduler, x, noises=None):
    """Where the scheduler's own steps lead, from its state at the first level."""
    for k, t in enumerate(scheduler.timesteps):
        output = _model(scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x, t)
        extra = {} if noises is None else {"variance_noise": noises[k]}
        x = scheduler.step(output, t, x, **extra).prev_sample
    return x


def _ours(path, x, eta=0.0, noises=None):
    memory = None
    for i in range(path.steps):
        x0, eps = path.split(x, _model(x, path.timesteps[i]), i)
        noise = None if noises is None else noises[i]
        x = path.step(x, x0, i, eta=eta, noise=noise, eps=eps, memory=memory)
        memory = x0 if path.order == 2 else None
    return x


FIRST_ORDER = {
    "ddim epsilon": lambda: DDIMScheduler(**DDIM_SD),
    "ddim v": lambda: DDIMScheduler(**DDIM_SD, prediction_type="v_prediction"),
    "ddim sample": lambda: DDIMScheduler(**DDIM_SD, prediction_type="sample"),
    "ddim zero snr": lambda: DDIMScheduler(
        **SD, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    "ddim clipped": lambda: DDIMScheduler(clip_sample=True, clip_sample_range=0.8),
    "ddim thresholded": lambda: DDIMScheduler(clip_sample=False, thresholding=True, sample_max_value=1.2),
    "euler epsilon": lambda: EulerDiscreteScheduler(**SD),
    "euler v": lambda: EulerDiscreteScheduler(**SD, prediction_type="v_prediction"),
    "euler karras": lambda: EulerDiscreteScheduler(**SD, use_karras_sigmas=True),
    "flow": FlowMatchEulerDiscreteScheduler,
    "flow shifted": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow to data": lambda: FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
}


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_eta_0_is_the_stock_solver(name):
    scheduler = FIRST_ORDER[name]()
    path = _path(scheduler)
    x = torch.randn(4, 3, 6, 6, generator=_rng())
    stock = _stock(scheduler, x * float(path.scale[0])) / float(path.scale[-1])
    torch.testing.assert_close(_ours(path, x), stock, atol=1e-5, rtol=1e-6)


DPM = {
    "final sigma 0": DPM_ZERO,
    "final sigma min": {**SD, "final_sigmas_type": "sigma_min"},
    "second order to the end": {**SD, "final_sigmas_type": "sigma_min", "lower_order_final": False},
    "euler at final": {**SD, "final_sigmas_type": "sigma_min", "euler_at_final": True},
    "v": {**DPM_ZERO, "prediction_type": "v_prediction"},
    "karras": {**DPM_ZERO, "use_karras_sigmas": True},
    "flow": {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
}


@pytest.mark.parametrize("steps", [8, 20])
@pytest.mark.parametrize("sde", [False, True], ids=["ode", "sde"])
@pytest.mark.parametrize("config", DPM.values(), ids=DPM)
def test_second_order_is_dpm_solver_plus_plus_2m(config, sde, steps):
    scheduler = DPMSolverMultistepScheduler(**config, algorithm_type=f"{'sde-' * sde}dpmsolver++")
    path = _path(scheduler, steps)
    assert path.order == 2
    x, noises = torch.randn(4, 3, generator=_rng()), torch.randn(steps, 4, 3, generator=_rng(1))
    stock = _stock(scheduler, x, noises if sde else None)
    torch.testing.assert_close(_ours(path, x, float(sde), noises), stock, atol=1e-5, rtol=1e-6)


def test_first_order_differs_from_second():
    x = torch.randn(4, 3, generator=_rng())
    first, second = (_ours(_path(DPMSolverMultistepScheduler(**DPM_ZERO), order=order), x) for order in (1, 2))
    assert (first - second).abs().max() > 1e-3


@ON_EVERY_PATH
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_steps_do_not_depend_on_the_paths_scale(path, eta):
    norm = (path.alpha**2 + path.sigma**2).sqrt()
    preserving = replace(path, alpha=path.alpha / norm, sigma=path.sigma / norm, prediction="sample")
    x, noises = _normal(4, 3), _normal(STEPS, 4, 3, seed=1)
    y = x / norm[0]
    for i in range(STEPS):
        x0, y0 = (_model(state, path.timesteps[i]) for state in (x, y * norm[i]))
        torch.testing.assert_close(x0, y0, atol=1e-10, rtol=0)
        x = path.step(x, x0, i, eta=eta, noise=noises[i])
        y = preserving.step(y, y0, i, eta=eta, noise=noises[i])
    torch.testing.assert_close(x, y * norm[-1], atol=1e-10, rtol=0)


# Marginals


@ON_EVERY_PATH
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_steps_with_true_pairs_keep_the_marginal_of_every_level(path, eta):
    n, x0 = 100_000, torch.tensor(0.7, dtype=torch.float64)
    x = path.alpha[0] * x0 + path.sigma[0] * _normal(n)
    for i in range(STEPS):
        x = path.step(x, x0, i, eta=eta, noise=_normal(n, seed=i + 1))
        rest, sigma = x - path.alpha[i + 1] * x0, path.sigma[i + 1]
        assert abs(rest.mean()) <= 5 * sigma / n**0.5 + 1e-12
        assert abs(rest.var() - sigma**2) <= 5 * sigma**2 * (2 / n) ** 0.5 + 1e-12


@ON_EVERY_PATH
def test_eta_1_forgets_and_eta_0_remembers(path):
    for i in range(STEPS - 1):
        assert path.tau(i, 0.0) == 0
        assert path.tau(i, 0.5) == path.tau(i, 1.0) / 2
        assert 0 < path.tau(i, 1.0) <= float(path.sigma[i + 1])
    assert path.tau(STEPS - 1, 1.0) == 0
    assert path.tau(0, 1.0) == float(path.sigma[1])  # level 0 is pure noise, of which nothing stays


def _forward(path, i, level):
    """What renoise makes of the state (ratio) and of fresh noise (spread)."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return float(path.renoise(one, i, level, zero)), float(path.renoise(zero, i, level, one))


@ON_EVERY_PATH
def test_renoise_keeps_the_marginal_of_every_pair_of_levels(path):
    for level, i in combinations_with_replacement(range(STEPS + 1), 2):
        ratio, spread = _forward(path, i, level)
        alpha, sigma = ratio * path.alpha[i], (ratio**2 * path.sigma[i] ** 2 + spread**2).sqrt()
        if i > 0:
            assert float(alpha) == pytest.approx(float(path.alpha[level]), abs=1e-12)
        assert float(sigma) == pytest.approx(float(path.sigma[level]), abs=1e-12)


@ON_EVERY_PATH
def test_renoise_in_two_legs_is_renoise_in_one(path):
    for level, between, i in [(0, 5, 20), (3, 3, 9), (2, 10, 15), (7, 19, 20)]:
        whole = _forward(path, i, level)
        first, second = _forward(path, i, between), _forward(path, between, level)
        assert first[0] * second[0] == pytest.approx(whole[0], abs=1e-12)
        assert (second[0] ** 2 * first[1] ** 2 + second[1] ** 2) ** 0.5 == pytest.approx(whole[1], abs=1e-12)


def test_renoise_adds_unit_noise():
    path, n = NoisePath.flow(STEPS), 100_000
    x = path.renoise(path.alpha[15] * 0.7 + path.sigma[15] * _normal(n), 15, 5, _normal(n, seed=1))
    assert abs(x.mean() - 0.7 * path.alpha[5]) < 5 * path.sigma[5] / n**0.5
    assert abs(x.var() / path.sigma[5] ** 2 - 1) < 5 * (2 / n) ** 0.5


# Predicted pairs


def _final_variance(path, variance, eta):
    """Variance of what sampling makes of data N(0, variance) with its exact denoiser, every step being linear."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    denoise, now = gaussian(variance), float(path.alpha[0] ** 2 * variance + path.sigma[0] ** 2)
    for i in range(path.steps):
        alpha, sigma = float(path.alpha[i]), float(path.sigma[i])
        factor = float(path.step(one, denoise(one, alpha, sigma), i, eta=eta, noise=zero))
        fresh = float(path.step(zero, zero, i, eta=eta, noise=one))
        now = factor**2 * now + fresh**2
    return now


@pytest.mark.parametrize("make", [NoisePath.flow, NoisePath.cosine], ids=["flow", "cosine"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("variance", [1.0, 0.25])
def test_the_samplers_bias_vanishes_with_the_step(make, eta, variance):
    coarse, fine = (1 - _final_variance(make(steps), variance, eta) / variance for steps in (160, 640))
    assert 0 < fine < 0.015
    assert coarse / fine == pytest.approx(4, rel=0.1)


def test_ancestral_sampling_in_20_steps_ends_at_four_fifths_of_the_variance():
    assert _final_variance(NoisePath.cosine(20), 1.0, 1.0) == pytest.approx(0.81, abs=0.005)
    assert _final_variance(NoisePath.cosine(20), 1.0, 0.0) == pytest.approx(0.88, abs=0.005)


# Errors


def _unsearchable():
    return NoisePath.from_scheduler(IPNDMScheduler())


def _unknown_prediction():
    scheduler = DDIMScheduler()
    scheduler.register_to_config(prediction_type="score")
    return _path(scheduler)


def _no_grid():
    return NoisePath.from_scheduler(type("Odd", (), {"config": DDIMScheduler().config})())


FLOW = PATHS["flow"]
X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FLOW.step(X, X, 3, eta=0.5), r"noise must be given where eta is above 0 \(eta = 0.5, level 3\)"),
        (lambda: FLOW.renoise(X, 3, 4, X), "level must be from 0 to the population's own 3, got 4"),
        (lambda: FLOW.renoise(X, 3, -1, X), "level must be from 0 to the population's own 3, got -1"),
        (lambda: replace(FLOW, prediction="score").split(X, X, 1), "prediction must be epsilon, .* got 'score'"),
        (lambda: replace(FLOW, prediction="epsilon").split(X, X, 0), "alpha = 0.*without rescale_betas_zero_snr"),
        (lambda: _path(DDIMScheduler(), order=3), "order must be 1 or 2, got 3"),
        (_unsearchable, "got IPNDMScheduler, which does not; give the pipeline another"),
        (_unknown_prediction, "prediction_type must be one of epsilon, .*'score'"),
        (_no_grid, "scheduler must have sigmas or alphas_cumprod .* got Odd"),
    ],
    ids=[
        "no noise", "renoise forwards", "renoise below 0", "prediction", "epsilon of nothing", "order", "unsearchable",
        "unknown prediction", "no grid",
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
