"""The rewards of pictures that people use, small, in the published formats, with random weights."""

import tiny_clip

from evosearch.rewards.clip_score import ClipScore
from evosearch.rewards.pick_score import PickScore


def clip_score(folder, **options):
    return ClipScore(tiny_clip.folder(folder), **options)


def pick_score(folder, **options):
    """Its tokenizer is in another folder."""
    tiny_clip.clip(eos=2).save_pretrained(folder / "model")
    tiny_clip.tokenizer().save_pretrained(folder / "tokenizer")
    return PickScore(folder / "model", folder / "tokenizer", **options)


MADE = {"clip_score": clip_score, "pick_score": pick_score}
