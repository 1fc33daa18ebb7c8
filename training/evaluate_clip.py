"""Measure the reward model `shapes-clip` and write the figures into its model card.

python training/evaluate_clip.py
"""

from pathlib import Path

import numpy as np
import torch
from command import MODELS
from diffusers import DiffusionPipeline
from evaluate import held_out_scenes, plain_samples
from export import table
from scipy.stats import spearmanr
from torch import Tensor
from transformers import CLIPModel

from evosearch.models import defaults
from evosearch.rewards.shapes import ShapesReward
from evosearch.rewards.shapes_clip import ShapesClip
from evosearch.shapes import layout, render

PIPELINES = ("shapes-diffusion", "shapes-flow", "shapes-video")
RETRIEVED = 64  # captions to choose from
PROMPTS, SAMPLES = 24, 16


def main() -> None:
    """Measure, print and write the card."""
    write_card(MODELS / "shapes-clip")


def write_card(folder: Path) -> None:
    """Measure a finished model, print and write its card."""
    model, reward = CLIPModel.from_pretrained(folder), ShapesClip(folder)
    card = (
        Path(__file__)
        .with_name("shapes_clip_card.md")
        .read_text()
        .format(
            vision=f"{sum(p.numel() for p in model.vision_model.parameters()) / 1e6:.2f}",
            text=f"{sum(p.numel() for p in model.text_model.parameters()) / 1e6:.2f}",
            training=table(folder),
            retrieved=RETRIEVED,
            known=f"{retrieval(reward, pairs=False):.0%}",
            unknown=f"{retrieval(reward, pairs=True):.0%}",
            prompts=PROMPTS,
            samples=SAMPLES,
            correlations="\n".join(correlation(reward, name) for name in PIPELINES if (MODELS / name).is_dir()),
        )
    )
    (folder / "README.md").write_text(card)
    print(card)


def retrieval(reward: ShapesClip, pairs: bool, rounds: int = 8) -> float:
    """How often the right one of several held-out captions is nearest to a picture."""
    rng = np.random.default_rng(5)
    scenes = list({scene.caption: scene for scene in held_out_scenes(1200, pairs)}.values())
    right: list[bool] = []
    for _ in range(rounds):
        chosen = [scenes[k] for k in rng.choice(len(scenes), RETRIEVED, replace=False)]
        samples = to_samples([render(layout(scene, rng), rng) for scene in chosen])
        scores = torch.stack([reward(samples, [scene.caption] * RETRIEVED) for scene in chosen])
        right += (scores.argmax(0) == torch.arange(RETRIEVED)).tolist()
    return float(np.mean(right))


def correlation(reward: ShapesClip, name: str) -> str:
    """A line of the table: rank correlation with the rules among samples of one prompt, and over all samples."""
    pipeline = DiffusionPipeline.from_pretrained(MODELS / name)
    pipeline.set_progress_bar_config(disable=True)
    call = defaults(pipeline)
    steps, rules = call.pop("steps"), ShapesReward()
    within: list[float] = []
    learned: list[Tensor] = []
    ruled: list[Tensor] = []
    scenes = held_out_scenes(4 * PROMPTS, pairs=False, moving="num_frames" in call)
    for k, scene in enumerate(scenes[PROMPTS::3][:PROMPTS]):  # of two to four objects
        prompts = [scene.caption] * SAMPLES
        samples = plain_samples(pipeline, prompts, 1000 * k, steps, call)
        learned.append(reward(samples, prompts))
        ruled.append(rules(samples, prompts))
        within.append(float(spearmanr(learned[-1], ruled[-1]).statistic))
    overall = float(spearmanr(torch.cat(learned), torch.cat(ruled)).statistic)
    low, high = np.nanpercentile(within, (25, 75))
    return f"| {name} | {np.nanmean(within):.2f} ({low:.2f} to {high:.2f}) | {overall:.2f} |"


def to_samples(images: list[np.ndarray]) -> Tensor:
    """Pictures (H, W, 3) of uint8 as samples (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


if __name__ == "__main__":
    main()
