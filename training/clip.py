"""The learned reward: a small CLIP of pictures and captions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tokens
import torch
from loop import Plan, averaged_weights, half, train
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

from evosearch.shapes import (
    COLOURS,
    MAX_OBJECTS,
    RELATIONS,
    SHAPES,
    Relation,
    Scene,
    held_out,
    layout,
    render,
    sample_scene,
)

BATCH = 128
WIDTH = 128


def build() -> CLIPModel:
    """An untrained model of 64x64 pictures in patches of 8."""
    size = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4, "projection_dim": WIDTH}
    vision = {"image_size": 64, "patch_size": 8, "num_hidden_layers": 4} | size
    return CLIPModel(
        CLIPConfig(text_config=tokens.clip_text(WIDTH, layers=2), vision_config=vision, projection_dim=WIDTH)
    )


def fit(model: CLIPModel, plan: Plan, checkpoint: Path, compiled: bool = False) -> None:
    """Train by contrast on fresh pictures, half of them a change of one word away from the other half."""
    vocabulary = tokens.tokenizer()
    embed = torch.compile(model) if compiled else model

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((plan.seed, step))
        scenes: list[Scene] = []
        while len(scenes) < BATCH:
            scene = sample_scene(rng, most_relations=2)
            near = neighbour(scene, rng)
            known = {other.caption for other in scenes}
            if near is not None and not {scene.caption, near.caption} & known and not held_out(scene):
                scenes += [scene] if held_out(near) else [scene, near]
        scenes = scenes[:BATCH]
        pictures = np.stack([_picture(scene, rng) for scene in scenes])
        captions = tokens.encode(vocabulary, [scene.caption for scene in scenes])
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.tensor(captions)

    def loss(data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        pixels, captions = (part.to(model.device) for part in data)
        with half(model.device):
            found = embed(input_ids=captions, pixel_values=pixels)
        logits = found.image_embeds.float() @ found.text_embeds.float().T * model.logit_scale.exp()
        target = torch.arange(len(logits), device=model.device)
        both = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        return {"loss": both, "accuracy": (logits.argmax(1) == target).float().mean()}

    train(model, loss, batch, plan, checkpoint)


def restore(model: CLIPModel, folder: Path) -> None:
    """Take over the weights of a finished model."""
    model.load_state_dict(CLIPModel.from_pretrained(folder).state_dict())


def load(checkpoint: Path) -> CLIPModel:
    """The trained model."""
    model = build()
    model.load_state_dict(averaged_weights(checkpoint))
    return model.eval().requires_grad_(False)


def neighbour(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """A scene that differs in one colour, shape, count or relation; None where the change makes no scene."""
    k = int(rng.integers(len(scene.groups)))
    group, relations = scene.groups[k], scene.relations
    change = rng.choice(["colour", "shape", "count", "relation" if relations else "colour"])
    if change == "relation":
        first, *rest = relations
        others = [name for name in RELATIONS if name != first.name]
        relations = (Relation(first.subject, str(rng.choice(others)), first.object), *rest)
    elif change == "count":
        group = replace(group, count=int(rng.integers(1, MAX_OBJECTS + 1)))
    elif change == "colour":
        group = replace(group, colour=str(rng.choice(list(COLOURS))))
    else:
        group = replace(group, shape=str(rng.choice(SHAPES)))
    try:
        near = Scene((*scene.groups[:k], group, *scene.groups[k + 1 :]), relations)
    except ValueError:
        return None
    return None if near == scene else near


def _picture(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A picture as soft and noisy as a small generator might draw it, (64, 64, 3) uint8."""
    clean = Image.fromarray(render(layout(scene, rng), rng))
    soft = np.asarray(clean.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8))))
    return (soft + rng.normal(0, rng.uniform(0, 6), soft.shape)).round().clip(0, 255).astype(np.uint8)
