"""What a reward's module says of it in its constant ``FACTS``, and whether all that it needs is on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evosearch.rewards.packages import installed
from evosearch.rewards.places import kept, look_for


@dataclass(frozen=True)
class Source:
    """Files that come from one place.

    Attributes:
        place: A hub id, or the URL of the only file.
        size: Of all together, about, in bytes.
        files: What they are called there; ``|`` is between two of which either will do.
    """

    place: str
    size: float
    files: tuple[str, ...]

    @property
    def here(self) -> bool:
        """Whether none need be downloaded."""
        return all(any(map(partial(kept, self.place), file.split("|"))) for file in self.files)


@dataclass(frozen=True)
class Facts:
    """What one wants to know of a reward before it is made.

    Attributes:
        range: Of its scores.
        licence: Of its weights, or of its rules where it has none.
        needs: What it must be given.
        sources: What is downloaded, by default.
        bundled: Whether the package has its weights.
        variables: Of the environment, in which its endpoint must stand.
        package: Of another, which the user installs for it.
        fetched: By what the size of its download goes, where that is not known beforehand.
        given: What makes it ready, where it has nothing of its own.
    """

    range: str
    licence: str
    needs: str
    sources: tuple[Source, ...] = ()
    bundled: bool = False
    variables: tuple[str, ...] = ()
    package: str = ""
    fetched: str = "none"
    given: str = ""

    def check(self, *places: str | Path) -> None:
        """ValueError of one sentence where something is neither here nor to be had; nothing is loaded or downloaded.

        Args:
            places: Where the files of each source are to be taken from.
        """
        for place, source in zip(places, self.sources, strict=True):
            for file in source.files:
                look_for(place, file)

    @property
    def download(self) -> str:
        """Size of the download."""
        return _size(self.sources) or self.fetched

    @property
    def state(self) -> str:
        """Whether it is ready on this machine, and by what; looks into caches, never at the network."""
        if unset := [name for name in self.variables if not os.environ.get(name, "").strip()]:
            return f"no, endpoint not configured: {' and '.join(unset)} not set"
        if self.variables:
            return f"yes, endpoint configured by {' and '.join(self.variables)}"
        if self.package and not installed(self.package):
            return f"no, needs the package {self.package}"
        if missing := tuple(source for source in self.sources if not source.here):
            return f"no, {_size(missing)} to be downloaded"
        if self.sources:
            return "yes, found in the cache"
        if self.given:
            return f"yes, given {self.given}"
        if self.package:
            return f"yes, found the package {self.package}"
        return "yes, weights bundled" if self.bundled else "yes, has no weights"


# As transformers has them: one file or several, in the format of now or of old.
CLIP_MODEL = (
    "config.json",
    "model.safetensors|model.safetensors.index.json|pytorch_model.bin|pytorch_model.bin.index.json",
)
CLIP_TOKENIZER = ("config.json|tokenizer_config.json", "tokenizer.json|vocab.json", "tokenizer.json|merges.txt")
QWEN_TOKENIZER = ("tokenizer_config.json", "tokenizer.json|vocab.json", "tokenizer.json|merges.txt")


def _size(sources: tuple[Source, ...]) -> str:
    sizes = (f"{s.size / 1e9:.1f} GB" if s.size >= 1e8 else f"{s.size / 1e6:.0f} MB" for s in sources)
    return f"about {' + '.join(sizes)}" if sources else ""
