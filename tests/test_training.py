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
    optimiser = scripts("loop").Optimiser(
        nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Conv2d(3, 8, 3), nn.LayerNorm(4)), muon=10
    )
    matrices = {name for name, own in optimiser._own.items() if own is not optimiser._parameters[name]}
    assert matrices == {"1.weight", "2.weight"}


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # autocast, on its slower path
@pytest.mark.parametrize(
    "name", ["shapes-diffusion", "shapes-flow", "shapes-video", "shapes-diffusion-large", "shapes-clip"]
)
def test_every_script_trains_and_writes_a_model_that_loads(scripts, tmp_path, monkeypatch, name):
    script = scripts(f"train_{name.replace('-', '_')}")
    for module in ("latents", "video_transformer"):
        if module in sys.modules:
            monkeypatch.setattr(sys.modules[module], "EXAMPLES", 64)
    out = tmp_path / "models" / name
    monkeypatch.setattr(sys, "argv", ["train", "--steps", "2", "--runs", str(tmp_path / "runs"), "--out", str(out)])
    (tmp_path / "runs").mkdir()
    script.main()
    if name == "shapes-clip":
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in out.iterdir()}
        assert all(value.isfinite().all() for value in CLIPModel.from_pretrained(out).parameters())
    else:
        parts = [
            part for part in DiffusionPipeline.from_pretrained(out).components.values() if isinstance(part, nn.Module)
        ]
        assert len(parts) >= 3
        assert all(value.isfinite().all() for part in parts for value in part.parameters())
    assert '"steps": 2' in (out / "training.json").read_text()


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
    assert after["autoencoder"] == facts["stages"]["autoencoder"] and after["denoiser"]["steps"] == 1
    kept = load_file(out / "vae/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(kept[name], before[name]) for name in before)
    trained = load_file(out / "unet/diffusion_pytorch_model.safetensors")
    assert all((trained[name] - unet[name]).abs().max() < 0.01 for name in unet)
