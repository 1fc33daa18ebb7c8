"""Measure the bundled pipeline `shapes-diffusion` and write the figures into its model card.

python training/evaluate_shapes_diffusion.py
"""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors import safe_open
from shapes_data import pictures
from torch import Tensor
from train_shapes_diffusion import ROOT

from evosearch.rewards.shapes import ShapesReward, detect
from evosearch.shapes import HELD_OUT_PAIRS, MAX_OBJECTS, Scene, held_out, parse, sample_scene

CARD = Path(__file__).with_name("shapes_diffusion_card.md")
GUIDANCE = (1.0, 2.0, 3.0, 5.0, 7.5)
STEPS = 20
PROMPTS = 200
PAIR_PROMPTS = 60
ROUND_TRIPS = 1000
BATCH = 50


def main() -> None:
    """Measure, print and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "src/evosearch/models/shapes-diffusion")
    parser.add_argument("--runs", type=Path, default=ROOT / "training/runs/shapes-diffusion")
    parser.add_argument("--hardware", default="two CPU cores", help="what it was trained on, for the card")
    args = parser.parse_args()
    pipeline = StableDiffusionPipeline.from_pretrained(args.model)
    pipeline.set_progress_bar_config(disable=True)
    scenes = held_out_scenes(PROMPTS, pairs=False) + held_out_scenes(PAIR_PROMPTS, pairs=True)
    exact = {guidance: sample_exact(pipeline, scenes, guidance) for guidance in GUIDANCE}
    card = CARD.read_text().format(
        parameters="\n".join(
            f"| {name} | {sum(p.numel() for p in getattr(pipeline, name).parameters()) / 1e6:.2f} M |"
            for name in ("unet", "vae", "text_encoder")
        ),
        training=training_table(args.runs),
        hardware=args.hardware,
        pairs=", ".join(" ".join(pair) for pair in HELD_OUT_PAIRS),
        prompts=PROMPTS,
        pair_prompts=PAIR_PROMPTS,
        steps=STEPS,
        header=" | ".join(f"guidance {guidance:g}" for guidance in GUIDANCE),
        rule="|---" * (len(GUIDANCE) + 2) + "|",
        rows="\n".join(rows(scenes, exact)),
        round_trip=round_trip(pipeline.vae),
    )
    (args.model / "README.md").write_text(card)
    print(card)


def held_out_scenes(count: int, pairs: bool) -> list[Scene]:
    """Scenes that training never showed, as many of each number of objects, with or without a held-out pair."""
    rng = np.random.default_rng(11)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng, objects=1 + len(scenes) * MAX_OBJECTS // count)
        if held_out(scene) and has_held_out_pair(scene) == pairs:
            scenes.append(scene)
    return scenes


def has_held_out_pair(scene: Scene) -> bool:
    """Whether a colour and a shape meet that never met in training."""
    return any((group.colour, group.shape) in HELD_OUT_PAIRS for group in scene.groups)


def sample_exact(pipeline: StableDiffusionPipeline, scenes: list[Scene], guidance: float) -> np.ndarray:
    """Whether one plain sample of each scene shows it exactly, (N,) bool."""
    reward = ShapesReward()
    found: list[Tensor] = []
    for start in range(0, len(scenes), BATCH):
        prompts = [scene.caption for scene in scenes[start : start + BATCH]]
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(prompts))]
        samples = pipeline(
            prompts,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            generator=generators,
            output_type="pt",
        ).images
        found.append(reward.exact(samples, prompts))
    return torch.cat(found).numpy()


def rows(scenes: list[Scene], exact: dict[float, np.ndarray]) -> Iterable[str]:
    """Lines of the table of exact pictures: all prompts of known pairs, parts of them, and the held-out pairs."""
    known = np.array([not has_held_out_pair(scene) for scene in scenes])
    objects = np.array([scene.objects for scene in scenes])
    related = np.array([bool(scene.relations) for scene in scenes])
    parts = {
        "all": known,
        **{f"{n} object{'s' if n > 1 else ''}": known & (objects == n) for n in range(1, MAX_OBJECTS + 1)},
        "with a relation": known & related,
        "held-out pairs": ~known,
    }
    for name, members in parts.items():
        shares = " | ".join(share(int(found[members].sum()), int(members.sum())) for found in exact.values())
        yield f"| {name} | {members.sum()} | {shares} |"


def share(successes: int, trials: int) -> str:
    """A percentage and its 95 % interval (Wilson's)."""
    z = 1.96
    centre = (successes + z * z / 2) / (trials + z * z)
    half = z * math.sqrt(successes * (trials - successes) / trials + z * z / 4) / (trials + z * z)
    return f"{100 * successes / trials:.0f} % ({100 * (centre - half):.0f}–{100 * (centre + half):.0f})"


def round_trip(autoencoder: AutoencoderKL) -> str:
    """How much of fresh pictures survives encoding and decoding."""
    survived = objects = 0
    whole: list[Tensor] = []
    for start in range(0, ROUND_TRIPS, BATCH):
        images, captions = pictures(seed=3, start=start, count=BATCH)
        with torch.inference_mode():
            decoded = autoencoder.decode(autoencoder.encode(images).latent_dist.mean).sample
        samples = (decoded / 2 + 0.5).clamp(0, 1)
        whole.append(ShapesReward().exact(samples, captions))
        for sample, caption in zip(samples, captions, strict=True):
            found = [(item.colour, item.shape) for item in detect(to_pixels(sample))]
            for group in parse(caption).groups:
                objects += group.count
                survived += min(group.count, found.count((group.colour, group.shape)))
    return (
        f"{share(survived, objects)} of {objects} objects keep colour and shape, "
        f"{share(int(torch.cat(whole).sum()), ROUND_TRIPS)} of {ROUND_TRIPS} pictures stay exact"
    )


def to_pixels(sample: Tensor) -> np.ndarray:
    """A sample (3, H, W) in [0, 1] as a picture (H, W, 3) of uint8."""
    return (sample.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def training_table(runs: Path) -> str:
    """Steps and minutes of each stage, as its checkpoint tells."""
    lines: list[str] = []
    for stage in ("autoencoder", "denoiser"):
        with safe_open(runs / f"{stage}.safetensors", "pt") as file:
            facts = file.metadata()
        lines.append(f"| {stage} | {int(facts['step']):,} | {float(facts['seconds']) / 60:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
