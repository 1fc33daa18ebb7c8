"""The rewards of pictures that people use, small, in the published formats, with random weights."""

import tiny_clip
import torch

from evosearch.rewards.aesthetic import Aesthetic
from evosearch.rewards.clip_score import ClipScore
from evosearch.rewards.pick_score import PickScore


def clip_score(folder, **options):
    return ClipScore(tiny_clip.folder(folder), **options)


def pick_score(folder, **options):
    """Its tokenizer is in another folder."""
    tiny_clip.clip(eos=2).save_pretrained(folder / "model")
    tiny_clip.tokenizer().save_pretrained(folder / "tokenizer")
    return PickScore(folder / "model", folder / "tokenizer", **options)


def head(width, seed=0):
    """The weights of LAION's and ImageReward's head by their published names."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (width, 1024, 128, 64, 16, 1)
    found = {}
    for i, place in enumerate((0, 2, 4, 6, 7)):
        found[f"layers.{place}.weight"] = torch.randn(sizes[i + 1], sizes[i], generator=generator) * sizes[i] ** -0.5
        found[f"layers.{place}.bias"] = torch.randn(sizes[i + 1], generator=generator) * 0.1
    return found


def headed(features, weights):
    """What that head says of features (N, D): (N,)."""
    for place in (0, 2, 4, 6, 7):
        features = features @ weights[f"layers.{place}.weight"].T + weights[f"layers.{place}.bias"]
    return features[:, 0]


def aesthetic(folder, **options):
    tiny_clip.folder(folder)
    torch.save(head(12), folder / "sac+logos+ava1-l14-linearMSE.pth")
    return Aesthetic(folder, folder, **options)


MADE = {"clip_score": clip_score, "pick_score": pick_score, "aesthetic": aesthetic}
