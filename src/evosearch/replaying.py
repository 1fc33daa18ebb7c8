"""replay(): one sample of a run again, from its genome alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from evosearch import models
from evosearch.decoding import eight_bit
from evosearch.genome import replay as made_again
from evosearch.manifest import read_manifest
from evosearch.resolve import sampler_of
from evosearch.resuming import read_arguments
from evosearch.runs import genome, kept
from evosearch.types import Sample, pictures


def replay(run: Path, particle: int, pipe: Any = None) -> tuple[bool, Sample]:
    """Make a sample that a run kept again, without its journal.

    Args:
        run: The run folder.
        particle: Its id.
        pipe: The pipeline or sampler, where the run was given an object.

    Returns:
        Whether it is what was saved, to the bit, and the sample.

    Raises:
        ValueError: The run did not keep it, or needs ``pipe``.
    """
    manifest, genes = read_manifest(run), genome(run, particle)
    settings, arguments = manifest["settings"], read_arguments(manifest.get("arguments", {}))
    if pipe is None and "pipe" not in arguments:
        raise ValueError(f"run {run} was given a pipeline as an object; replay it by evosearch.replaying in Python")
    own = arguments["pipe"] if pipe is None else pipe
    if isinstance(own, str):
        own = models.load(own, **(arguments.get("load_kwargs") or {}))
    if (threads := settings.get("threads")) is not None:
        torch.set_num_threads(threads)
    sampler = sampler_of(
        own, settings["prompt"], steps=settings["steps"], eta=arguments.get("eta"), seed=settings["seed"],
        batch_size=settings["batch_size"], pipeline_kwargs=arguments.get("pipeline_kwargs"),
    )  # fmt: skip
    finished = made_again(genes, sampler, eta=settings["eta"])
    sample = pictures(eight_bit(sampler.decode(finished))[0])
    entry = kept(run)[particle]
    return _saved(run, entry) == _bytes(sample), sample


def _saved(run: Path, entry: dict[str, Any]) -> list[bytes] | None:
    """The bits of a saved picture, or of the frame of a video that is saved whole."""
    if entry["file"] is None:
        return None
    path = (run / entry["file"]).with_suffix(".png")
    with Image.open(path) as picture:
        return [picture.convert("RGB").tobytes()]


def _bytes(sample: Sample) -> list[bytes]:
    from evosearch.media import picture

    return [picture(sample).convert("RGB").tobytes()]
