import inspect
import pickle
import sys

import diffusers
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from pipelines import CASES

import evosearch as es
from evosearch.genome import replay
from evosearch.hooks import denoisers
from evosearch.pipeline import PipelineSampler
from evosearch.scoring import preview

PROMPT, STEPS = "a red circle", 4
ONE_AT_A_TIME = ("hunyuan_video15",)
SEARCHABLE = [name for name in CASES if name != "ltx2"]
FROM_NOISE = [name for name in SEARCHABLE if name != "stable_diffusion_img2img"]
every_case = pytest.mark.parametrize("name", SEARCHABLE)


def sampler_of(name, pipe=None, batch_size=2, **kwargs):
    case = CASES[name]
    return PipelineSampler(
        case.build() if pipe is None else pipe,
        PROMPT,
        batch_size=1 if name in ONE_AT_A_TIME else batch_size,
        **{"steps": STEPS, **case.kwargs, **kwargs},
    )


def first_order(name):
    """The pipeline with a scheduler whose own sample is promised to be ours (decision 4)."""
    pipe = CASES[name].build()
    if isinstance(pipe.scheduler, UniPCMultistepScheduler):
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return pipe


def stock(sampler, p, output_type="latent"):
    """What the user's own call of the pipeline makes of the same noise, given as latents where it takes them."""
    own = {}
    if "latents" in inspect.signature(sampler.pipe.__call__).parameters and sampler.kwargs.get("strength", 1) == 1:
        noise = sampler.noise(p.key, 0, "prior")
        own["latents"] = sampler.to_grid(noise) if "Flux2" in type(sampler.pipe).__name__ else noise
    return sampler.pipe(
        prompt=[PROMPT] * len(p),
        num_inference_steps=STEPS,
        generator=[torch.Generator().manual_seed(sampler.seed) for _ in range(len(p))],
        output_type=output_type,
        return_dict=False,
        **own,
        **sampler.kwargs,
    )[0]


def distance(a, b):
    """Largest difference, relative where values are large."""
    assert a.shape == b.shape
    return float((a.float() - b.float()).abs().max() / max(1, b.abs().max()))


# Against the stock pipeline


@pytest.mark.parametrize("name", FROM_NOISE)
def test_whole_run_is_the_stock_pipelines(name):
    sampler = sampler_of(name, first_order(name))
    p = sampler.prior(sampler.batch_size)
    finished, _ = sampler.run(p, sampler.steps)
    if name != "flux2_klein":  # whose "latent" is not the state
        assert distance(finished.x, stock(sampler, p)) < 1e-4
    assert distance(sampler.decode(finished), torch.stack(list(stock(sampler, p, "pt")))) < 1e-5


def flux_img2img():
    return diffusers.FluxImg2ImgPipeline(**CASES["flux"].build().components)


PICTURE = {"image": CASES["stable_diffusion_img2img"].kwargs["image"], "strength": 0.75}
FROM_AN_IMAGE = {
    "stable_diffusion_img2img": (CASES["stable_diffusion_img2img"].build, {}, 3),
    "stable_diffusion_inpaint": (CASES["stable_diffusion_inpaint"].build, {"strength": 0.5}, 2),
    "flux": (flux_img2img, {**PICTURE, "true_cfg_scale": 1.0}, 3),
}
from_an_image = pytest.mark.parametrize(
    ("name", "build", "kwargs", "steps"), [(name, *case) for name, case in FROM_AN_IMAGE.items()], ids=FROM_AN_IMAGE
)


@from_an_image
def test_whole_run_from_an_image_is_the_stock_pipelines(name, build, kwargs, steps, monkeypatch):
    sampler = sampler_of(name, build(), **kwargs)
    p = sampler.prior(2)
    finished, _ = sampler.run(p, sampler.steps)
    noise = sampler.to_grid(sampler.noise(p.key, 0, "prior"))
    monkeypatch.setattr(sys.modules[type(sampler.pipe).__module__], "randn_tensor", lambda *args, **kwargs: noise)
    assert sampler.steps == steps
    assert distance(finished.x, stock(sampler, p)) < 1e-4
    assert distance(sampler.decode(finished), stock(sampler, p, "pt")) < 1e-5


@pytest.mark.parametrize("name", ["wan", "wan_two_stage"])
def test_unipc_is_euler_on_its_own_grid(name):
    sampler = sampler_of(name)
    p = sampler.prior(2)
    grid = {"sigmas": sampler.path.sigma[:-1].tolist(), "timesteps": sampler.path.timesteps.tolist()}

    class OnGrid(FlowMatchEulerDiscreteScheduler):
        def set_timesteps(self, num_inference_steps, device=None):
            super().set_timesteps(device=device, **grid)

    finished, _ = sampler.run(p, STEPS)
    sampler.pipe.scheduler = OnGrid()
    assert distance(finished.x, stock(sampler, p)) < 1e-4


# Runs in parts


@pytest.mark.parametrize("eta", [0.0, 0.7])
@every_case
def test_runs_in_parts_are_the_whole(name, eta):
    sampler = sampler_of(name, eta=eta)
    p = sampler.prior(2)
    finished, kept = sampler.run(p, sampler.steps, keep=range(sampler.steps + 1))
    assert torch.equal(kept[0].x, p.x) and torch.equal(kept[sampler.steps].x, finished.x)
    assert finished.x.isfinite().all()
    assert sampler.edits == (name == "stable_diffusion_inpaint")
    for level in range(1, sampler.steps):
        part, _ = sampler.run(p, level)
        assert torch.equal(part.x, kept[level].x)
        for there in (part, kept[level]):  # without and with the x0 computed there
            assert torch.equal(sampler.run(there, sampler.steps)[0].x, finished.x)


@every_case
def test_predict_is_what_a_run_keeps(name):
    sampler = sampler_of(name)
    p = sampler.prior(2)
    _, kept = sampler.run(p, sampler.steps, keep=(0, 2))
    for level, there in kept.items():
        part = p if level == 0 else sampler.run(p, level)[0]
        predicted = sampler.predict(part)
        assert torch.equal(predicted.x, there.x) and torch.equal(predicted.x0, there.x0)
        assert sampler.predict(predicted) is predicted


@every_case
def test_bf16_runs_in_parts_are_the_whole(name):
    sampler = sampler_of(name, CASES[name].build().to(torch.bfloat16), eta=0.7)
    p = sampler.prior(2)
    finished, kept = sampler.run(p, sampler.steps, keep=(2,))
    part, _ = sampler.run(p, 2)
    assert finished.x.dtype == kept[2].x0.dtype == torch.float32
    edits = name == "stable_diffusion_inpaint"
    assert torch.equal(part.x, part.x.bfloat16().float()) == edits
    for there in (part, kept[2]):
        assert torch.equal(sampler.run(there, sampler.steps)[0].x, finished.x)


@every_case
def test_bits_depend_on_no_companion(name):
    sampler = sampler_of(name, eta=0.7)
    p = sampler.prior(5)
    finished, _ = sampler.run(p, sampler.steps)
    for rows in ([4, 0, 2], [3], [1, 1, 4, 3]):
        assert torch.equal(sampler.run(p[rows], sampler.steps)[0].x, finished.x[rows])
    if name not in ONE_AT_A_TIME:
        other, _ = sampler_of(name, sampler.pipe, batch_size=3, eta=0.7).run(p, sampler.steps)
        assert distance(other.x, finished.x) < 1e-3


# The prior, the grid, the samples


@pytest.mark.parametrize("name", FROM_NOISE)
def test_prior_is_unit_gaussian_and_the_seeds_own(name):
    sampler, other, again = (sampler_of(name, seed=seed) for seed in (0, 1, 0))
    x = sampler.prior(32).x
    assert abs(x.mean()) < 5 / x.numel() ** 0.5
    assert abs(x.var() - 1) < 5 * (2 / x.numel()) ** 0.5
    assert torch.equal(again.prior(32).x, x)
    assert not torch.equal(other.prior(32).x, x)
    assert not torch.equal(sampler.prior(32).x, x)


def encoded(pipe, image):
    """The image's latents, as a pipeline with a generator of seed 0 draws them."""
    moments = pipe.vae.encode(pipe.image_processor.preprocess(image)).latent_dist
    drawn = moments.sample(torch.Generator().manual_seed(0))
    return (drawn - (pipe.vae.config.shift_factor or 0)) * pipe.vae.config.scaling_factor


@from_an_image
@torch.no_grad()
def test_prior_of_an_image_is_the_image_noised(name, build, kwargs, steps):
    sampler = sampler_of(name, build(), **kwargs)
    p, path = sampler.prior(3), sampler.path
    image = encoded(sampler.pipe, {**CASES[name].kwargs, **kwargs}["image"])
    noise = sampler.to_grid(sampler.noise(p.key, 0, "prior"))
    assert distance(sampler.to_grid(p.x), float(path.alpha[0]) * image + float(path.sigma[0]) * noise) < 1e-6


@torch.no_grad()
def test_what_steps_outside_the_pipeline_is_refused_where_it_edits_states():
    sampler = sampler_of("stable_diffusion_inpaint", eta=0.7)
    predicted = sampler.predict(sampler.prior(1))
    with pytest.raises(ValueError, match=r"edits its states .* choose a search that takes none by itself"):
        sampler.step(predicted)
    with pytest.raises(ValueError, match=r"edits its states .* preview would be paid for twice; choose"):
        preview(sampler.prior(1), sampler, lambda samples: samples.flatten(1).mean(1))


def _evolved(budget, **knobs):
    """EvoSearch on an inpainting pipeline in 10 steps, by how light its samples are."""
    sampler = sampler_of("stable_diffusion_inpaint", steps=10)
    light = lambda samples, prompts: samples.flatten(1).mean(1)  # noqa: E731
    return es.search(sampler, "a cat", light, budget=budget, progress=False, **knobs)


@pytest.mark.parametrize(("size", "finish"), [(4, 1), (6, 1), (12, 2)])
@torch.no_grad()
def test_evosearch_culls_within_its_budget_where_the_pipeline_edits_states(size, finish):
    knobs = {"schedule": [4], "sizes": [size, 3], "look": 3, "finish": finish, "elites": 0}
    budget = 4 * size + 6 * finish + 18
    result = _evolved(budget, **knobs)
    assert budget - 4 < result.cost.nfe <= budget
    assert [len(generation.ids) for generation in result.generations] == [finish, 3]


@pytest.mark.parametrize("budget", [20, 50, 120])
@torch.no_grad()
def test_drafts_keep_within_their_budget_where_the_pipeline_edits_states(budget):
    result = _evolved(budget)
    assert result.settings["knobs"]["draft_steps"] == 4
    assert budget - 10 < result.cost.nfe <= budget
    sampler = sampler_of("stable_diffusion_inpaint", steps=10)
    again = sampler.decode(replay(result.best.genome, sampler, eta=0.0))
    assert float(again.mean()) == pytest.approx(result.best.reward, abs=2e-3)


@torch.no_grad()
def test_inpainting_keeps_what_is_not_masked():
    sampler = sampler_of("stable_diffusion_inpaint", eta=0.7)
    finished, _ = sampler.run(sampler.prior(2), STEPS)
    known = encoded(sampler.pipe, CASES["stable_diffusion_inpaint"].kwargs["image"])[
        ..., :8
    ]  # the mask's left is black
    assert distance(finished.x[..., :8], known.expand(2, -1, -1, -1)) < 1e-6
    assert not torch.equal(finished.x[0, ..., 8:], finished.x[1, ..., 8:])


def unpacked(pipe, x):
    """States as the pipeline itself lays them out for its decoder."""
    match type(pipe).__name__:
        case "FluxPipeline" | "QwenImagePipeline":
            return pipe._unpack_latents(x, 32, 32, pipe.vae_scale_factor)
        case "Flux2Pipeline":
            return pipe._unpack_latents_with_ids(x, pipe._prepare_latent_ids(torch.empty(len(x), 16, 8, 8)))
        case "LTXPipeline":
            return pipe._unpack_latents(x, 3, 8, 8)
        case "CogVideoXPipeline":
            return x.permute(0, 2, 1, 3, 4)
    return x


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("stable_diffusion", (4, 16, 16)),
        ("flux", (4, 16, 16)),
        ("flux2", (16, 8, 8)),
        ("qwen_image", (4, 1, 16, 16)),
        ("ltx", (8, 3, 8, 8)),
        ("wan", (4, 3, 8, 8)),
        ("cogvideox", (4, 3, 8, 8)),
    ],
)
def test_grid_is_the_pipelines_own(name, shape):
    sampler = sampler_of(name)
    x = sampler.prior(3).x
    grid = sampler.to_grid(x)
    assert grid.shape == (3, *shape)
    assert torch.equal(grid, unpacked(sampler.pipe, x))
    assert torch.equal(sampler.from_grid(grid), x)


@every_case
def test_previews_and_samples(name):
    sampler = sampler_of(name)
    p = sampler.predict(sampler.prior(3))
    previews = sampler.decode(p)
    frames = (CASES[name].kwargs["num_frames"],) if CASES[name].video else ()
    side = CASES[name].kwargs.get("height", 32)
    assert previews.shape == (3, *frames, 3, side, side)
    assert previews.dtype == torch.float32 and previews.min() >= 0 and previews.max() <= 1
    finished = p.moved(p.x0, sampler.steps)
    assert torch.equal(previews, sampler.decode(finished))
    assert torch.equal(previews[2:], sampler.decode(finished[[2]]))


@every_case
def test_text_is_encoded_once(name):
    pipe, calls = CASES[name].build(), []
    for part, module in pipe.components.items():
        if part.startswith("text_encoder"):
            module.register_forward_hook(lambda *_, part=part: calls.append(part))
    sampler = sampler_of(name, pipe)
    assert calls
    calls.clear()
    _, kept = sampler.run(sampler.prior(2), sampler.steps, keep=(2,))
    finished, _ = sampler.run(kept[2], sampler.steps)
    sampler.decode(finished)
    assert not calls


# What is the user's stays as it was


def belongings(pipe):
    """What a user could find changed: attributes, and the state of the scheduler, the configs and the hooks."""
    # Not those of the text encoders, where transformers leaves its own.
    parts = [part for name, part in pipe.components.items() if not name.startswith("text_encoder")]
    modules = [m for part in parts if isinstance(part, torch.nn.Module) for m in part.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
    state = pickle.dumps((vars(pipe.scheduler), pipe.config, pipe._progress_bar_config, hooks))
    return {name: id(value) for name, value in vars(pipe).items()}, type(pipe.scheduler), state


def fail(*args):
    raise RuntimeError("out of memory")


@every_case
def test_pipeline_is_left_as_it_was(name):
    pipe = CASES[name].build()
    before = belongings(pipe)
    sampler = sampler_of(name, pipe)
    p = sampler.prior(sampler.batch_size)
    part, _ = sampler.run(p, 1)
    finished, _ = sampler.run(part, sampler.steps)
    sampler.decode(finished)
    assert belongings(pipe) == before

    for broken, work in [
        (getattr(pipe, "unet", None) or pipe.transformer, lambda: sampler.run(p, sampler.steps)),
        (pipe.vae.decoder, lambda: sampler.decode(finished)),
    ]:
        hook = broken.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            work()
        hook.remove()
        assert belongings(pipe) == before

    torch.manual_seed(0)
    answer = stock(sampler, p)
    torch.manual_seed(0)
    assert torch.equal(answer, stock(sampler_of(name), p))


def test_offload_waits_for_the_end(monkeypatch):
    pipe, freed = CASES["stable_diffusion"].build(), []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append(True))
    sampler = sampler_of("stable_diffusion", pipe)
    finished, _ = sampler.run(sampler.prior(3), STEPS)
    sampler.decode(finished)
    assert not freed
    sampler.close()
    assert freed == [True]


# Cost


@pytest.mark.parametrize(
    ("name", "kwargs", "passes"),
    [
        ("stable_diffusion", {"guidance_scale": 1.0}, 1),
        ("stable_diffusion", {}, 2),  # one doubled batch
        ("stable_diffusion_controlnet", {}, 2),
        ("flux", {"true_cfg_scale": 1.0}, 1),
        ("flux", {}, 2),  # two calls
        ("z_image", {"guidance_scale": 0.0}, 1),  # lists of states
        ("z_image", {}, 2),
        ("wan", {"guidance_scale": 1.0}, 1),
        ("wan", {}, 2),
        ("wan_two_stage", {}, 2),
        ("hunyuan_video15", {}, 2),
    ],
)
def test_model_passes(name, kwargs, passes):
    sampler = sampler_of(name, **kwargs)
    p = sampler.prior(3)
    assert sampler.model_passes == 0
    _, kept = sampler.run(p, 2, keep=(1,))
    assert sampler.model_passes == passes * sampler.cost(p, 2) == passes * 3 * 2
    sampler.run(kept[1], STEPS)  # its x0 is there
    assert sampler.model_passes == passes * 3 * (2 + 2)
    sampler.decode(sampler.predict(kept[1]))
    assert sampler.model_passes == passes * 3 * (2 + 2)


# Refusals


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("ltx2", {}, "LTX2Pipeline denoises two latents at once"),
        ("stable_diffusion", {"latents": torch.zeros(2, 4, 16, 16)}, "latents must not be among"),
        ("stable_diffusion", {"generator": torch.Generator()}, "generator must not be among .* set seed="),
        ("stable_diffusion", {"num_inference_steps": 4}, "num_inference_steps must not be among .* set steps="),
        ("stable_diffusion", {"output_type": "pil"}, r"output_type must not be among .* use decode\(\)"),
        (
            "stable_diffusion",
            {"guidance": 3.0},
            "takes no argument 'guidance'; it takes prompt, ",
        ),
        ("stable_diffusion_controlnet", {"control_guidance_end": 0.5}, "control_guidance_end cannot be searched with"),
        ("stable_diffusion_3", {"skip_guidance_layers": [0]}, "skip_guidance_layers cannot be searched with"),
        ("stable_diffusion_xl", {"denoising_end": 0.5}, "denoising_end cannot be searched with"),
        ("stable_diffusion", {"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ("stable_diffusion", {"steps": 2.5}, "steps must be a whole number of at least 1, got 2.5"),
        ("stable_diffusion", {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ("stable_diffusion", {"eta": 2}, "eta must be from 0 .* to 1 .*, got 2"),
        ("stable_diffusion", {"order": 3}, "order must be 1 or 2, got 3"),
    ],
)
def test_refuses_arguments(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        sampler_of(name, **kwargs)


def test_refuses_what_is_no_pipeline():
    with pytest.raises(ValueError, match="pipe must be a diffusers pipeline with a scheduler, got Linear"):
        PipelineSampler(torch.nn.Linear(1, 1), PROMPT)


def test_refuses_several_at_a_time_where_the_decoder_cannot():
    case = CASES["hunyuan_video15"]
    with pytest.raises(ValueError, match="batch_size must be 1 for HunyuanVideo15Pipeline"):
        PipelineSampler(case.build(), PROMPT, batch_size=2, **case.kwargs)


def test_a_search_takes_one_at_a_time_there_by_itself():
    case = CASES["hunyuan_video15"]
    result = es.search(
        case.build(), PROMPT, "jpeg", "best_of_n", n=2, steps=2, pipeline_kwargs=case.kwargs, progress=False
    )
    assert result.settings["batch_size"] == 1 and result.cost.nfe == 4


def test_refuses_free_init():
    pipe = CASES["animatediff"].build()
    pipe.enable_free_init()
    with pytest.raises(ValueError, match="AnimateDiffPipeline denoises several times with FreeInit"):
        sampler_of("animatediff", pipe)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("name", ["ltx", "qwen_image"])
def test_refuses_one_step_of_a_stretched_schedule(name):
    with pytest.raises(ValueError, match=r"scheduler must lead from noise to data, .* \[nan, 0.0\] in 1 steps"):
        sampler_of(name, steps=1)


# Gradients


@pytest.mark.parametrize("name", ["stable_diffusion", "flux", "wan"])
def test_gradients_are_those_of_finite_differences(name):
    s = sampler_of(name, batch_size=1)
    p = s.prior(1)
    way = torch.randn(p.x.shape, generator=torch.Generator().manual_seed(0))

    def value(x):
        finished, _ = s.run(p.moved(x), STEPS)
        return (s.decode(finished) * torch.linspace(0, 1, 3).view(3, 1, 1)).mean()

    with s.grad():
        x = p.x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(x), x)
    assert not value(p.x.clone().requires_grad_()).requires_grad  # nothing is kept outside
    assert all(weight.requires_grad for weight in denoisers(s.pipe)[0].parameters())
    step = 1e-2
    slope = (value(p.x + step * way) - value(p.x - step * way)) / (2 * step)
    assert float((gradient * way).sum()) == pytest.approx(float(slope), rel=0.05, abs=1e-6)


@pytest.mark.parametrize("broken", ["offloaded", "quantised"])
def test_gradients_are_refused_where_there_are_none(broken):
    s = sampler_of("stable_diffusion")
    if broken == "offloaded":
        add_hook_to_module(s.pipe.unet, ModelHook())
    else:
        s.pipe.unet.is_quantized = True
    message = f"the pipeline's unet is {broken}, which lets no gradient through; load it"
    with pytest.raises(ValueError, match=message), s.grad():
        pass


@torch.no_grad()
def test_a_feature_cache_of_the_users_forgets_one_micro_batch_before_the_next():
    sampler = sampler_of("flux")
    p, others = sampler.prior(2), sampler.prior(2)
    plain = sampler.run(others, STEPS)[0].x
    cache = diffusers.FirstBlockCacheConfig(threshold=1e9)  # reuses whatever it holds

    def drawn(*runs):
        sampler.pipe.transformer.enable_cache(cache)
        found = [sampler.run(q, STEPS)[0].x for q in runs][-1]
        sampler.pipe.transformer.disable_cache()
        return found

    assert torch.equal(drawn(p, others), drawn(others))
    assert not torch.equal(drawn(others), plain)
