"""The rewards of pictures that people use, small, in the published formats, with random weights."""

import tiny_clip

from evosearch.rewards.clip_score import ClipScore


def clip_score(folder, **options):
    return ClipScore(tiny_clip.folder(folder), **options)


MADE = {"clip_score": clip_score}
