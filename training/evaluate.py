"""Measure a bundled pipeline and write the figures into its model card.

python training/evaluate.py shapes-diffusion
"""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import LARGE, MODELS
from diffusers import DiffusionPipeline
from export import table
from torch import Tensor

from evosearch.bench import saturation
from evosearch.models import defaults
from evosearch.rewards.shapes import ShapesReward, detect
from evosearch.shapes import HELD_OUT_PAIRS, MAX_OBJECTS, Scene, held_out, sample_scene

_GUIDED = {f"guidance {scale:g}": {"guidance_scale": scale} for scale in (1.0, 2.0, 3.0, 5.0)}
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "shapes-diffusion": _GUIDED | {"guidance 7.5": {"guidance_scale": 7.5}},
    "shapes-diffusion-large": _GUIDED,
    "shapes-flow": {
        "no guidance": {"true_cfg_scale": 1.0},
        **{f"true CFG {scale:g}": {"true_cfg_scale": scale} for scale in (2.0, 3.0, 5.0)},
    },
    "shapes-video": {f"guidance {scale:g}": {"guidance_scale": scale} for scale in (1.0, 2.0, 4.0, 6.0)},
}
"""How each model is called: a column of the card's table each, on top of its defaults."""

PROMPTS = 200
PAIR_PROMPTS = 60
ROUND_TRIPS = 1000
BATCH = 50


def main() -> None:
    """Measure, print and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=WAYS)
    name = parser.parse_args().model
    write_card(name, (LARGE if name == "shapes-diffusion-large" else MODELS) / name)


def write_card(name: str, folder: Path) -> None:
    """Measure a finished model, print and write its card."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    suited = defaults(pipeline)
    steps = suited.pop("steps")
    moving = "num_frames" in suited
    scenes = held_out_scenes(PROMPTS, False, moving) + held_out_scenes(PAIR_PROMPTS, True, moving)
    exact = {title: sample_exact(pipeline, scenes, steps, suited | way) for title, way in WAYS[name].items()}
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    card = (
        Path(__file__)
        .with_name(f"{name.replace('-', '_')}_card.md")
        .read_text()
        .format(
            parameters="\n".join(
                f"| {part} | {sum(p.numel() for p in module.parameters()) / 1e6:.2f} M |"
                for part, module in modules.items()
            ),
            training=table(folder),
            pairs=", ".join(" ".join(pair) for pair in HELD_OUT_PAIRS),
            prompts=PROMPTS,
            pair_prompts=PAIR_PROMPTS,
            steps=steps,
            header=" | ".join(exact),
            rule="|---" * (len(exact) + 2) + "|",
            rows="\n".join(rows(scenes, exact)),
            round_trip=round_trip(pipeline.vae, moving),
        )
    )
    (folder / "README.md").write_text(card)
    print(card)


def held_out_scenes(count: int, pairs: bool, moving: bool = False) -> list[Scene]:
    """Scenes that training never showed, as many of each number of objects, with or without a held-out pair."""
    rng = np.random.default_rng(11)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample_scene(rng, objects=1 + len(scenes) * MAX_OBJECTS // count, moving=moving)
        if held_out(scene) and has_held_out_pair(scene) == pairs:
            scenes.append(scene)
    return scenes


def has_held_out_pair(scene: Scene) -> bool:
    """Whether a colour and a shape meet that never met in training."""
    return any((group.colour, group.shape) in HELD_OUT_PAIRS for group in scene.groups)


def sample_exact(pipeline: DiffusionPipeline, scenes: list[Scene], steps: int, call: dict[str, Any]) -> np.ndarray:
    """Whether one plain sample of each scene shows it exactly, (N,) bool."""
    reward = ShapesReward()
    found: list[Tensor] = []
    for start in range(0, len(scenes), BATCH):
        prompts = [scene.caption for scene in scenes[start : start + BATCH]]
        found.append(reward.exact(plain_samples(pipeline, prompts, start, steps, call), prompts))
    return torch.cat(found).numpy()


def plain_samples(pipeline: Any, prompts: list[str], seed: int, steps: int, call: dict[str, Any]) -> Tensor:
    """One plain sample a prompt, (N, [F,] 3, H, W) in [0, 1], the first from this seed, the next from the next."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
    own = call | ({"negative_prompt": [""] * len(prompts)} if "negative_prompt" in call else {})
    return pipeline(prompts, num_inference_steps=steps, generator=generators, output_type="pt", **own)[0]


def rows(scenes: list[Scene], exact: dict[str, np.ndarray]) -> Iterable[str]:
    """Lines of the table of exact pictures: all prompts of known pairs, parts of them, and the held-out pairs."""
    known = np.array([not has_held_out_pair(scene) for scene in scenes])
    objects = np.array([scene.objects for scene in scenes])
    related = np.array([bool(scene.relations) for scene in scenes])
    parts = {
        "all": known,
        **{f"{n} object{'s' if n > 1 else ''}": known & (objects == n) for n in range(1, MAX_OBJECTS + 1)},
        "with a relation": known & related,
        "held-out pairs": ~known,
        "all and held-out pairs": known | True,
    }
    for name, members in ((name, members) for name, members in parts.items() if members.any()):
        shares = " | ".join(share(int(found[members].sum()), int(members.sum())) for found in exact.values())
        yield f"| {name} | {members.sum()} | {shares} |"


def share(successes: int, trials: int) -> str:
    """A percentage and its 95 % interval (Wilson's)."""
    z = 1.96
    centre = (successes + z * z / 2) / (trials + z * z)
    half = z * math.sqrt(successes * (trials - successes) / trials + z * z / 4) / (trials + z * z)
    return f"{100 * successes / trials:.0f} % ({100 * (centre - half):.0f}–{100 * (centre + half):.0f})"


def round_trip(autoencoder: Any, moving: bool) -> str:
    """How much of pictures or clips of held-out captions survives encoding and decoding, without and with new pairs."""
    kind, place = ("clips", " in single frames") if moving else ("pictures", "")
    parts: list[str] = []
    for pairs, of in ((False, "known pairs"), (True, "a held-out pair")):
        scenes, rng = held_out_scenes(ROUND_TRIPS, pairs, moving), np.random.default_rng(3)
        survived = objects = whole = 0
        for start in range(0, ROUND_TRIPS, BATCH):
            batch = scenes[start : start + BATCH]
            decoded = saturation.round_trip(autoencoder, saturation.drawn(batch, rng))
            whole += int(ShapesReward().exact(decoded, [scene.caption for scene in batch]).sum())
            for sample, scene in zip(decoded, batch, strict=True):
                for picture in sample if moving else [sample]:
                    found = [(item.colour, item.shape) for item in detect(to_pixels(picture))]
                    for group in scene.groups:
                        objects += group.count
                        survived += min(group.count, found.count((group.colour, group.shape)))
        parts.append(
            f"of {ROUND_TRIPS} {kind} with {of}, {share(whole, ROUND_TRIPS)} stay exact, "
            f"and of their {objects:,} objects{place} {share(survived, objects)} keep colour and shape"
        )
    return "; ".join(parts)


def to_pixels(sample: Tensor) -> np.ndarray:
    """A sample (3, H, W) in [0, 1] as a picture (H, W, 3) of uint8."""
    return (sample.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


if __name__ == "__main__":
    main()
