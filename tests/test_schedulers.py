import sys
from dataclasses import dataclass, field
from typing import Any

import diffusers
import pytest
import torch
from pipelines import CASES as PIPELINES

from evosearch.path import NoisePath
from evosearch.pipeline import PipelineSampler

PROMPT, STEPS = "a red circle", 4
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OFFSET = {"steps_offset": 1, "timestep_spacing": "leading"}
V, SAMPLE, FLOW = ({"prediction_type": kind} for kind in ("v_prediction", "sample", "flow_prediction"))
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **V}
THRESHOLDS = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
FLOW_SIGMAS = {"use_flow_sigmas": True, "flow_shift": 3.0, **FLOW}


@dataclass(frozen=True)
class Case:
    """A scheduler on a tiny pipeline, and whether its own sample is promised to be ours (decision 4)."""

    scheduler: str
    config: dict[str, Any] = field(default_factory=dict)
    stock: bool = False
    pipeline: str = "stable_diffusion"
    steps: int = STEPS

    @property
    def flows(self):
        return self.pipeline == "stable_diffusion_3"

    def sampler(self, **kwargs):
        pipe = PIPELINES[self.pipeline].build()
        pipe.scheduler = getattr(diffusers, self.scheduler + "Scheduler")(**self.config)
        return PipelineSampler(pipe, PROMPT, steps=STEPS, batch_size=2, **PIPELINES[self.pipeline].kwargs, **kwargs)


def cases(scheduler, stock, common, pipeline="stable_diffusion", **configs):
    return {f"{scheduler} {k}": Case(scheduler, {**common, **config}, stock, pipeline) for k, config in configs.items()}


KARRAS = {"use_karras_sigmas": True}
TRAILING, LINSPACE = ({"timestep_spacing": spacing} for spacing in ("trailing", "linspace"))
UNCLIPPED = {**SD, "clip_sample": False}
CASES = {
    **cases(
        "DDIM",
        True,
        UNCLIPPED,
        leading={"set_alpha_to_one": False, **OFFSET},
        trailing=TRAILING,
        v=V,
        sample=SAMPLE,
        zero_snr=ZERO_SNR,
        clips={"clip_sample": True, "clip_sample_range": 1.5},
        thresholds=THRESHOLDS,
    ),
    # Its own step goes to t - 250, wherever the next timestep is.
    **cases("DDIM", False, UNCLIPPED, linspace=LINSPACE),
    # The last timestep is 0, which is where it ends.
    "DDIM short": Case("DDIM", {**UNCLIPPED, **LINSPACE, "set_alpha_to_one": False}, steps=STEPS - 1),
    **cases(
        "EulerDiscrete",
        True,
        SD,
        leading=OFFSET,
        linspace=LINSPACE,
        trailing=TRAILING,
        karras=KARRAS,
        exponential={"use_exponential_sigmas": True},
        last_sigma={"final_sigmas_type": "sigma_min", **OFFSET},
        v=V,
        sample=SAMPLE,
        zero_snr=ZERO_SNR,
    ),
    **cases(
        "DPMSolverMultistep",
        True,
        SD,
        plain={},
        leading=OFFSET,
        karras=KARRAS,
        lu={"use_lu_lambdas": True},
        last_sigma={"final_sigmas_type": "sigma_min", **OFFSET},
        last_sigma_high_order={"final_sigmas_type": "sigma_min", "lower_order_final": False, **OFFSET},
        euler_at_final={"euler_at_final": True, "final_sigmas_type": "sigma_min", **OFFSET},
        first_order={"solver_order": 1},
        v=V,
        sample=SAMPLE,
        thresholds=THRESHOLDS,
    ),
    **cases(
        "DPMSolverMultistep",
        False,
        SD,
        third_order={"solver_order": 3},
        sde={"algorithm_type": "sde-dpmsolver++"},
    ),
    **cases("EDMEuler", True, {}, plain={}, v=V, spread={"sigma_data": 0.8}),
    **cases("EDMDPMSolverMultistep", False, {}, plain={}),
    **cases("DDPM", False, UNCLIPPED, plain={}, v=V, clips={"clip_sample": True, "clip_sample_range": 1.5}),
    **cases("PNDM", False, SD, plms={"skip_prk_steps": True, **OFFSET}),
    "PNDM runge_kutta": Case("PNDM", SD, steps=6),
    **cases("EulerAncestralDiscrete", False, SD, plain={}, zero_snr=ZERO_SNR),
    **cases("HeunDiscrete", False, SD, plain={}, karras=KARRAS),
    **cases("LMSDiscrete", False, SD, plain={}, karras=KARRAS),
    **cases("UniPCMultistep", False, SD, plain={}, karras=KARRAS, v=V),
    **cases("DPMSolverSinglestep", False, SD, plain={}),
    **cases("DEISMultistep", False, SD, plain={}),
    **cases("SASolver", False, SD, plain={}),
    **cases("LCM", False, SD, plain={}),
    **cases("TCD", False, SD, plain={}),
    **cases(
        "FlowMatchEulerDiscrete",
        True,
        {},
        "stable_diffusion_3",
        plain={},
        shift={"shift": 3.0},
        dynamic={"use_dynamic_shifting": True},
        karras=KARRAS,
        terminal={"shift_terminal": 0.1},
        backwards={"invert_sigmas": True},
    ),
    **cases("DPMSolverMultistep", True, {}, "stable_diffusion_3", flow=FLOW_SIGMAS),
    **cases("UniPCMultistep", False, {}, "stable_diffusion_3", flow=FLOW_SIGMAS),
    **cases("FlowMatchHeunDiscrete", False, {}, "stable_diffusion_3", plain={}),
    **cases("FlowMatchLCM", False, {}, "stable_diffusion_3", plain={}),
    **cases("CogVideoXDDIM", True, {**TRAILING, **V}, "cogvideox", plain={}),
    **cases("CogVideoXDPM", False, {**TRAILING, **V}, "cogvideox", plain={}),
}
PROMISED = [name for name, case in CASES.items() if case.stock]
OTHERS = [name for name, case in CASES.items() if not case.stock]


def distance(a, b):
    """Largest difference, relative where values are large."""
    assert a.shape == b.shape
    return float((a - b).abs().max() / max(1, b.abs().max()))


def stock(sampler, latents):
    return sampler.pipe(
        prompt=[PROMPT] * len(latents),
        latents=latents,
        num_inference_steps=STEPS,
        output_type="latent",
        return_dict=False,
        **sampler.kwargs,
    )[0]


@pytest.mark.parametrize("name", CASES)
def test_path_leads_from_noise_to_data(name):
    case = CASES[name]
    path = case.sampler().path
    total = path.alpha + path.sigma if case.flows else path.alpha**2 + path.sigma**2
    assert path.steps == case.steps == len(path.timesteps)
    assert path.alpha.isfinite().all() and (path.alpha.diff() >= 0).all()
    assert path.sigma.isfinite().all() and (path.sigma.diff() < 0).all()
    assert path.sigma[0] > 0.9 and path.sigma[-1] < 0.1
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("name", CASES)
def test_runs_in_parts_are_the_whole(name):
    sampler = CASES[name].sampler(eta=0.7)
    p = sampler.prior(2)
    finished, kept = sampler.run(p, sampler.steps, keep=range(sampler.steps))
    for level in range(1, sampler.steps):
        part, _ = sampler.run(p, level)
        for there in (part, kept[level]):
            assert torch.equal(sampler.run(there, sampler.steps)[0].x, finished.x)


@pytest.mark.parametrize("name", PROMISED)
def test_whole_run_is_the_stock_pipelines(name):
    sampler = CASES[name].sampler()
    p = sampler.prior(2)
    finished, _ = sampler.run(p, sampler.steps)
    scheduler, scale = sampler.pipe.scheduler, sampler.path.scale
    scheduler.set_timesteps(STEPS, **{"mu": 0.5} if CASES[name].config.get("use_dynamic_shifting") else {})
    # Some start from sigma times the noise, where the image's share is left out.
    start = float(scale[0]) / float(getattr(scheduler, "init_noise_sigma", 1.0))
    assert distance(finished.x * float(scale[-1]), stock(sampler, p.x * start)) < 1e-4


class ByHand:
    """DDIM, which for flows is Euler, in another scheduler's place and on its grid."""

    order, init_noise_sigma = 1, 1.0

    def __init__(self, own, flows):
        self.own, self.config = own, own.config
        self.prediction = getattr(own.config, "prediction_type", "flow_prediction")
        timesteps = torch.as_tensor(list(dict.fromkeys(own.timesteps.tolist())))
        if getattr(own, "sigmas", None) is None:
            last = getattr(own, "final_alpha_cumprod", torch.ones(()))
            cumprod = torch.cat([own.alphas_cumprod[timesteps], last.view(1)]).double()
            alpha, sigma = cumprod.sqrt(), (1 - cumprod).sqrt()
        else:
            sigma = own.sigmas.double()
            alpha = 1 - sigma if flows else (1 + sigma**2) ** -0.5
            sigma = sigma if flows else sigma * alpha
        self.levels = list(dict.fromkeys(zip(alpha.tolist(), sigma.tolist(), strict=True)))
        self.timesteps = timesteps[: len(self.levels) - 1]

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None):
        self.i = 0

    def scale_model_input(self, sample, timestep):
        alpha, sigma = self.levels[self.i]
        edm = hasattr(self.own, "precondition_inputs")
        return self.own.precondition_inputs(sample / alpha, sigma / alpha) if edm else sample

    def step(self, output, timestep, sample, return_dict=False):
        (alpha, sigma), (to_alpha, to_sigma) = self.levels[self.i : self.i + 2]
        self.i += 1
        if hasattr(self.own, "precondition_outputs"):
            x0 = self.own.precondition_outputs(sample / alpha, output, torch.tensor(sigma / alpha))
        elif self.prediction == "epsilon":
            x0 = (sample - sigma * output) / alpha
        elif self.prediction == "v_prediction":
            x0 = alpha * sample - sigma * output
        else:
            x0 = sample - sigma * output
        eps = (sample - alpha * x0) / sigma
        if self.config.get("clip_sample") and hasattr(self.own, "_threshold_sample"):
            x0 = x0.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        return (to_alpha * x0 + to_sigma * eps,)


@pytest.mark.parametrize("name", OTHERS)
def test_first_order_run_is_ddim_on_the_same_grid(name):
    sampler = CASES[name].sampler(order=1)
    p = sampler.prior(2)
    finished, _ = sampler.run(p, sampler.steps)
    sampler.pipe.scheduler.set_timesteps(STEPS)
    sampler.pipe.scheduler = ByHand(sampler.pipe.scheduler, CASES[name].flows)
    assert distance(finished.x, stock(sampler, p.x)) < 1e-4


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DDIM", UNCLIPPED),
        ("DDPM", UNCLIPPED),
        ("EulerAncestralDiscrete", SD),
        ("DPMSolverMultistep", {**SD, "algorithm_type": "sde-dpmsolver++", "solver_order": 1}),
        ("DPMSolverMultistep", {**SD, "algorithm_type": "sde-dpmsolver++"}),
    ],
    ids=["DDIM", "DDPM", "EulerAncestral", "SDE-DPM-Solver++ 1", "SDE-DPM-Solver++ 2M"],
)
def test_ancestral_steps_are_the_stock_schedulers(name, config, monkeypatch):
    scheduler = getattr(diffusers, name + "Scheduler")(**config)
    scheduler.set_timesteps(STEPS)
    path, draw = NoisePath.from_scheduler(scheduler), torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=draw)
    theirs, memory = x * float(path.scale[0]), None
    for i, t in enumerate(scheduler.timesteps):
        output, z = torch.randn(2, 2, 4, 8, 8, generator=draw)
        monkeypatch.setattr(sys.modules[scheduler.__module__], "randn_tensor", lambda *args, z=z, **kwargs: z)
        theirs = scheduler.step(output, t, theirs, return_dict=False, **({"eta": 1.0} if name == "DDIM" else {}))[0]
        x0, eps = path.split(x, output, i)
        x, memory = path.step(x, x0, i, eta=1.0, noise=z, eps=eps, memory=memory), x0
        assert distance(x * float(path.scale[i + 1]), theirs) < 1e-4


# Refusals


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("FlowMapEulerDiscrete", {}),
        ("KDPM2Discrete", {}),
        ("KDPM2AncestralDiscrete", {}),
        ("IPNDM", {}),
        ("DDIMInverse", {}),
        ("DPMSolverMultistepInverse", {}),
        ("DDPMWuerstchen", {}),
        ("UnCLIP", {"beta_schedule": "squaredcos_cap_v2"}),
        ("RePaint", {}),
        ("KarrasVe", {}),
        ("CMStochasticIterative", {}),
        ("Piflow", {}),
        ("MiniMaxH3", {}),
    ],
)
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
def test_refuses_schedulers_without_such_a_path(name, config):
    with pytest.raises(ValueError, match=f"scheduler.* {name}Scheduler"):
        Case(name, config).sampler()


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("DDIM", {**UNCLIPPED, **ZERO_SNR, "prediction_type": "epsilon"}, "predicts epsilon and level 0 is pure noise"),
        ("CogVideoXDPM", {}, "the pipeline calls its scheduler's step without sample"),
    ],
)
def test_refuses_at_the_first_step(name, config, message):
    sampler = Case(name, config).sampler()
    with pytest.raises(ValueError, match=message):
        sampler.run(sampler.prior(2), STEPS)
