"""The training scripts: they resume, repeat, and write what loads. Not how good the models are."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPModel

import evosearch

TRAINING = Path(__file__).parents[1] / "training"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """Import the scripts as they import each other, and forget them."""
    monkeypatch.syspath_prepend(str(TRAINING))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and TRAINING in Path(sys.modules[name].__file__ or "").parents:
            del sys.modules[name]


def trained(loop, folder, muon, stop=None):
    """Weights after six steps of a small network; the run is broken off and resumed where `stop` says."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 3, 3))
    checkpoint = folder / f"small-{muon}-{stop}.safetensors"

    def batch(step):
        if step == stop and not checkpoint.with_suffix(".stopped").exists():
            checkpoint.with_suffix(".stopped").touch()
            raise KeyboardInterrupt
        return torch.from_numpy(np.random.default_rng(step).normal(size=(4, 3, 8, 8))).float()

    def loss(images):
        noisy = images + torch.randn_like(images)
        return {"loss": (model(noisy) - images[:, :, 2:-2, 2:-2]).square().mean()}

    plan = loop.Plan(1e-2, steps=6, warm_up=2, muon=muon)
    for _ in range(1 if stop is None else 2):
        try:
            loop.train(model, loss, batch, plan, checkpoint)
        except KeyboardInterrupt:
            model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 3, 3))
    return load_file(checkpoint)


@pytest.mark.parametrize("muon", [0, 10])
def test_a_resumed_run_ends_like_an_unbroken_one(scripts, tmp_path, monkeypatch, muon):
    loop = scripts("loop")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    whole, resumed = trained(loop, tmp_path, muon), trained(loop, tmp_path, muon, stop=4)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(name.startswith("momentum_buffer/") for name in whole) == bool(muon)


def test_muon_takes_kernels_and_leaves_the_rest(scripts):
    parts = (nn.Embedding(5, 4), nn.Linear(4, 4), nn.Conv2d(3, 8, 3), nn.LayerNorm(4))
    model = nn.Sequential(*parts)
    model.gains = nn.Parameter(torch.ones(8, 1, 1, 1))  # as some norms of videos have them
    model.scale = nn.Parameter(torch.ones(()))
    optimiser = scripts("loop").Optimiser(model, muon=10)
    matrices = {name for name, own in optimiser._own.items() if own is not optimiser._parameters[name]}
    assert matrices == {"1.weight", "2.weight"}


@pytest.fixture
def small(scripts, monkeypatch):
    """Few examples to train on and to measure by."""
    few = {"EXAMPLES": 64, "PROMPTS": 4, "PAIR_PROMPTS": 4, "ROUND_TRIPS": 4, "BATCH": 4, "SAMPLES": 3, "RETRIEVED": 8}
    for name in ("latents", "video_transformer", "evaluate", "evaluate_clip"):
        module = scripts(name)
        for constant in few.keys() & vars(module).keys():
            monkeypatch.setattr(module, constant, few[constant])
    monkeypatch.setattr(scripts("evaluate_clip"), "PIPELINES", ("shapes-diffusion",))
    monkeypatch.setattr(scripts("evaluate"), "WAYS", {name: {"plain": {}} for name in scripts("evaluate").WAYS})


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # autocast, on its slower path
@pytest.mark.filterwarnings("ignore:An input array is constant")  # what was hardly trained scores all alike
@pytest.mark.parametrize(
    "name", ["shapes-diffusion", "shapes-flow", "shapes-video", "shapes-diffusion-large", "shapes-clip"]
)
def test_every_script_trains_and_writes_a_model_that_loads_with_its_card(scripts, small, tmp_path, monkeypatch, name):
    script = scripts(f"train_{name.replace('-', '_')}")
    out = tmp_path / "models" / name
    monkeypatch.setattr(sys, "argv", ["train", "--steps", "2", "--runs", str(tmp_path / "runs"), "--out", str(out)])
    (tmp_path / "runs").mkdir()
    script.main()
    if name == "shapes-clip":
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in out.iterdir()}
        parts = [CLIPModel.from_pretrained(out)]
    else:
        loaded = DiffusionPipeline.from_pretrained(out).components.values()
        parts = [part for part in loaded if isinstance(part, nn.Module)]
        assert len(parts) >= 3
    assert all(value.isfinite().all() for part in parts for value in part.parameters())
    stages = json.loads((out / "training.json").read_text())["stages"]
    assert {done["steps"] for done in stages.values()} == {2}
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0") and "{" not in card.split("```")[2]
    assert all(f"| {stage} | 2 | {done['minutes']} | {done['hardware']} |" in card for stage, done in stages.items())


@pytest.mark.parametrize(
    ("name", "stage", "lacking"),
    [
        ("shapes-diffusion", "denoiser", "autoencoder"),
        ("shapes-diffusion", "export", "denoiser"),
        ("shapes-flow", "export", "transformer"),
        ("shapes-video", "transformer", "films"),
        ("shapes-video", "export", "transformer"),
        ("shapes-diffusion-large", "export", "denoiser"),
        ("shapes-clip", "export", "clip"),
    ],
)
def test_a_stage_says_which_stage_it_needs(scripts, tmp_path, monkeypatch, name, stage, lacking):
    runs, out = tmp_path / "runs", tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["train.py", stage, "--runs", str(runs), "--out", str(out)])
    with pytest.raises(SystemExit, match=rf"^stage {lacking} must .* run it first: python train\.py {lacking}$"):
        scripts(f"train_{name.replace('-', '_')}").main()
    assert not out.exists()


def test_a_stage_that_was_left_out_has_no_facts(scripts, tmp_path):
    stills, films = tmp_path / "stills.safetensors", tmp_path / "films.safetensors"
    scripts("loop").save_tensors(films, {"weight": torch.zeros(1)}, {"step": "3", "seconds": "60"})
    scripts("export").write(Path.mkdir, tmp_path / "out", [stills, films])
    facts = scripts("export").stages(tmp_path / "out")
    assert {stage: (done["steps"], done["minutes"]) for stage, done in facts.items()} == {"films": (3, 1)}


def test_the_large_model_has_four_times_the_parameters_and_compute(scripts):
    denoiser, large = scripts("denoiser"), scripts("train_shapes_diffusion_large")
    folder = Path(evosearch.models.__file__).parent / "shapes-diffusion"
    steps = json.loads((folder / "training.json").read_text())["stages"]["denoiser"]["steps"]
    autoencoder = sum(value.numel() for value in load_file(folder / "vae/diffusion_pytorch_model.safetensors").values())
    size, cost = [], []
    for width in (denoiser.WIDTH, large.WIDTH):
        model = denoiser.Denoiser(width)
        size.append(autoencoder + sum(value.numel() for value in model.parameters()))
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(2, 8, 8, 8), torch.zeros(2), torch.zeros(2, 32, dtype=torch.long)).sum().backward()
        cost.append(counter.get_total_flops())
    assert size[1] >= 4 * size[0]
    assert cost[1] / cost[0] == pytest.approx(6.4, abs=0.05)
    assert cost[1] * large.STEPS >= 4 * cost[0] * steps


def test_a_plan_ends_as_asked(scripts, tmp_path, monkeypatch):
    command = scripts("command")

    def limits(*arguments):
        monkeypatch.setattr(sys, "argv", ["train", "--runs", str(tmp_path), *arguments])
        plan = command.Command("", "any", ("one",)).plan(1e-3, steps=100)
        return plan.steps, plan.minutes

    assert limits() == (100, None)
    assert limits("--steps", "7") == (7, None)
    assert limits("--minutes", "2") == (None, 2)
    assert limits("--steps", "7", "--minutes", "2") == (7, 2)


def test_latents_are_kept_and_made_anew_for_another_autoencoder_seed_or_number(scripts, tmp_path):
    calls = []

    def draw(seed, start, count):
        calls.append(start)
        return torch.full((count, 1), float(seed)), ["a red circle"] * count

    def made(bias, seed=0, count=64):
        autoencoder = nn.Linear(1, 1)
        nn.init.ones_(autoencoder.weight), nn.init.constant_(autoencoder.bias, bias)
        calls.clear()
        latents, tokens = scripts("latents").examples(
            tmp_path / "latents.safetensors", seed, draw, autoencoder, lambda model, samples: model(samples),
            lambda texts: {"words": [[len(text)] for text in texts]}, count,
        )  # fmt: skip
        assert tokens["words"].shape == latents.shape == (count, 1)
        return latents[0].item(), bool(calls)

    assert made(0.0) == (0, True)
    assert made(0.0) == (0, False)
    assert made(0.5) == (0.5, True)
    assert made(0.5, seed=3) == (3.5, True)
    assert made(0.5, seed=3, count=128) == (3.5, True)
    assert made(0.5, seed=3, count=128) == (3.5, False)


def test_training_goes_on_from_the_finished_weights_alone(scripts, tmp_path, monkeypatch):
    out = tmp_path / "shapes-diffusion"
    shutil.copytree(Path(evosearch.models.__file__).parent / "shapes-diffusion", out)
    before = load_file(out / "vae/diffusion_pytorch_model.safetensors")
    facts = json.loads((out / "training.json").read_text())
    script = scripts("train_shapes_diffusion")
    monkeypatch.setattr(scripts("latents"), "EXAMPLES", 64)
    (tmp_path / "runs").mkdir()
    arguments = f"denoiser export --continued --steps 1 --runs {tmp_path / 'runs'} --out {out}"
    monkeypatch.setattr(sys, "argv", ["train", *arguments.split()])
    unet = load_file(out / "unet/diffusion_pytorch_model.safetensors")
    script.main()
    after = json.loads((out / "training.json").read_text())["stages"]
    assert after["autoencoder"] == facts["stages"]["autoencoder"]
    assert after["denoiser"]["steps"] == facts["stages"]["denoiser"]["steps"] + 1
    script.main()  # exported again, with nothing left to train
    assert json.loads((out / "training.json").read_text())["stages"] == after
    kept = load_file(out / "vae/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(kept[name], before[name]) for name in before)
    trained = load_file(out / "unet/diffusion_pytorch_model.safetensors")
    assert all((trained[name] - unet[name]).abs().max() < 0.01 for name in unet)
