"""What there is to see in a run folder, finished or not: nothing here writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evosearch.manifest import read_manifest
from evosearch.rows import Row, blob_path, rows_of

if TYPE_CHECKING:
    from evosearch.types import Genome


@dataclass(frozen=True)
class Score:
    """A particle as it was scored.

    Attributes:
        id: Who it is.
        parent: Whom it was made from; -1 for fresh ones.
        level: Where it stood; samples are at the last level, previews and drafts before.
        reward: What it was worth, NaN where the reward gave nothing finite; of several, the first.
        nfe: NFE spent by then.
        seconds: Seconds spent by then.
        digest: Of its sample's 8 bits.
    """

    id: int
    parent: int
    level: int
    reward: float
    nfe: int
    seconds: float
    digest: str


def scores(run: Path) -> Iterator[Score]:
    """All particles that a run has scored, in order.

    Raises:
        ValueError: There is no run, or its journal cannot be read.
    """
    read_manifest(run)
    for row in rows_of(run):
        if row.kind == "score" and row.whole:
            facts = json.loads(row.facts)
            seen = zip(facts["ids"], facts["parents"], facts["rewards"], facts["digests"], strict=True)
            for id, parent, reward, digest in seen:
                yield Score(id, parent, facts["level"], reward, facts["nfe"], row.seconds, digest)


def lineage(run: Path, particle: int) -> list[Score]:
    """A particle and those that it comes from, the first one first, as far as they were scored.

    Raises:
        ValueError: The run scored no such particle.
    """
    known = {score.id: score for score in scores(run)}
    if particle not in known:
        raise ValueError(f"particle {particle:016x} was not scored in {run}; see: evosearch scores {run}")
    found = [known[particle]]
    while (parent := known.get(found[-1].parent)) is not None:
        found.append(parent)
    return found[::-1]


def kept(run: Path) -> dict[int, dict[str, Any]]:
    """What the manifest says of the samples that were kept, and of the plain one, by id."""
    manifest = read_manifest(run)
    entries = [*manifest.get("kept", []), *(manifest[name] for name in ("plain",) if name in manifest)]
    return {entry["id"]: entry for entry in reversed(entries)}


def genome(run: Path, particle: int) -> Genome:
    """How to make a particle again.

    Raises:
        ValueError: The run did not keep it.
    """
    from evosearch.genome import from_json

    entries = kept(run)
    if particle not in entries:
        raise ValueError(f"particle {particle:016x} was not kept by {run}; those that were: evosearch show {run}")
    return from_json(entries[particle]["genome"])


@dataclass(frozen=True)
class Check:
    """What `verify` found.

    Attributes:
        rows: Calls in the journal.
        blobs: Blobs and media that they name.
        bytes: Of these.
        wrong: What is not what was written, a sentence each.
    """

    rows: int
    blobs: int
    bytes: int
    wrong: list[str]


def verify(run: Path) -> Check:
    """Read everything that a run wrote, and compare it with its digests.

    Raises:
        ValueError: There is no run, or its journal cannot be read at all.
    """
    manifest, rows, wrong = read_manifest(run), list[Row](), list[str]()
    for row in rows_of(run):
        rows.append(row)
        if not row.whole:
            wrong.append(f"run.db: call {row.number:,} of kind {row.kind!r} is not what was written")
    files = {blob_path(run, name): name for name in {row.blob for row in rows if row.blob is not None}}
    for entry in [*manifest.get("kept", []), *(manifest[name] for name in ("plain", "stock") if name in manifest)]:
        if entry["file"] is not None:
            files[run / entry["file"]] = entry["sha256"]
    size = 0
    for path, digest in sorted(files.items()):
        data = path.read_bytes() if path.is_file() else b""
        size += len(data)
        if sha256(data).hexdigest() != digest:
            what = "is not what was written" if path.is_file() else "is missing"
            wrong.append(f"{path.relative_to(run)} {what}")
    return Check(len(rows), len(files), size, wrong)


def summary(run: Path) -> dict[str, str]:
    """What a run is and how far it came, in words."""
    manifest = read_manifest(run)
    settings: Mapping[str, Any] = manifest["settings"]
    rows = list(rows_of(run)) if (run / "run.db").is_file() else []
    last = max((row.seconds for row in rows), default=0.0)
    scored = [json.loads(row.facts) for row in rows if row.kind == "score" and row.whole]
    finished = [r for f in scored if f["level"] == settings["steps"] for r in f["rewards"] if r == r]
    nfe = sum(json.loads(row.facts)["nfe"] for row in rows if row.kind == "run" and row.whole)
    planned = "" if settings.get("nfe") is None else f" of {settings['nfe']:,}"
    words = {
        "status": manifest["status"],
        "prompt": str(settings["prompt"]),
        "model": str(settings.get("model", settings.get("sampler"))),
        "reward": str(settings.get("reward")),
        "search": f"{settings['algorithm']}, budget {settings['budget']}, seed {settings['seed']}",
        "begun": manifest["created"],
    }
    if manifest.get("resumed"):
        words["resumed"] = f"{len(manifest['resumed']):,} times, last {manifest['resumed'][-1]}"
    words |= {
        "journal": f"{nfe:,}{planned} NFE, {sum(len(f['ids']) for f in scored):,} samples scored, {last:.1f} s",
        "best": f"{max(finished):.4g}" if finished else "none yet",
    }
    if manifest.get("kept"):
        words["best sample"] = str(run / manifest["kept"][0]["file"])
        words["report"] = str(run / "report.html")
    if manifest["status"] != "done":
        words["go on by"] = f"evosearch resume {run}"
    return words
