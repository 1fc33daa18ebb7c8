"""Bundled pipelines: stock, small, and as good as their card says; the loader's errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import evosearch as es
from evosearch.bench.prompts import held_out_prompts
from evosearch.rewards.shapes import ShapesReward, detect
from evosearch.shapes import layout, render, sample_scene

FOLDER = Path(es.models.__file__).parent / "shapes-diffusion"


@pytest.fixture(scope="module")
def pipe():
    return es.load("shapes-diffusion")


def test_bundled_pipeline_is_a_stock_folder():
    pipe = StableDiffusionPipeline.from_pretrained(FOLDER, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red circle", num_inference_steps=2).images[0]
    assert image.size == (64, 64)


def test_bundled_pipeline_is_small_and_safe():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".txt"}


def test_every_word_of_the_world_is_one_token(pipe):
    words = (
        "a two three four red yellow green cyan blue purple circle squares triangles star left of right above below and"
    )
    ids = pipe.tokenizer(words, truncation=False).input_ids
    assert len(ids) == len(words.split()) + 2
    assert len(set(ids)) == len(ids) or pipe.tokenizer.bos_token_id == pipe.tokenizer.eos_token_id


def test_autoencoder_keeps_objects(pipe):
    rng = np.random.default_rng(5)
    pictures = [render(layout(sample_scene(rng), rng), rng) for _ in range(64)]
    pixels = torch.from_numpy(np.stack(pictures)).movedim(-1, 1) / 127.5 - 1
    with torch.no_grad():
        decoded = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample
    images = ((decoded + 1) * 127.5).round().clamp(0, 255).byte().movedim(1, -1).numpy()
    kinds = [[sorted((d.colour, d.shape) for d in detect(image)) for image in both] for both in (pictures, images)]
    kept = sum(sum(kind in after for kind in before) for before, after in zip(*kinds, strict=True))
    assert kept / sum(map(len, kinds[0])) >= 0.99


def test_plain_sampling_often_satisfies_the_prompt_and_often_fails():
    prompts = held_out_prompts(48, objects=(2, 3, 4))
    pipe = es.load("shapes-diffusion")
    pipe.set_progress_bar_config(disable=True)
    guidance = es.models.DEFAULTS["shapes-diffusion"]["guidance_scale"]
    generators = [torch.Generator().manual_seed(k) for k in range(len(prompts))]
    samples = pipe(
        prompts, num_inference_steps=20, guidance_scale=guidance, generator=generators, output_type="pt"
    ).images
    share = ShapesReward().exact(samples, prompts).float().mean()
    assert 0.15 <= share <= 0.75  # the card has the figure over 200 prompts, and its interval


def test_loader_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"shapes-difusion.*did you mean 'shapes-diffusion'"):
        es.load("shapes-difusion")
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        es.load(str(tmp_path))
    with pytest.raises(ValueError, match="existing folder"):
        es.load(str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="cannot be loaded"):
        es.load("nobody/nothing")


def test_defaults_go_with_bundled_pipelines_alone(pipe, tmp_path):
    assert es.models.defaults(pipe)["steps"] == 20
    pipe.save_pretrained(tmp_path / "shapes-diffusion")
    assert es.models.defaults(es.load(str(tmp_path / "shapes-diffusion"))) == {}
