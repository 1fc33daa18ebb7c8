"""The run folder: manifest, log, media and report.

``manifest.json`` says what was run and what came of it, ``log.jsonl`` has a line for every event, ``media/`` the kept
samples and the plain one, ``report.html`` shows it all. Names are numbers and ids; prompts stay inside the files.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evosearch import media, report, strict_json
from evosearch.genome import from_json, to_json
from evosearch.result import Result, Scored
from evosearch.types import Genome

_SCHEMA = 1
_FULL = (errno.ENOSPC, errno.EDQUOT)


class RunFolder:
    """A new folder for one run.

    Args:
        path: The folder; must not exist, or be empty.
        settings: All that the run depends on.

    Raises:
        ValueError: The folder is taken or cannot be made; it is as it was.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self._made = _claim(path)
        self._manifest = {"schema": _SCHEMA, "status": "running", "created": _now(), "settings": settings}
        self._write_manifest()
        self.log("start")

    def discard(self) -> None:
        """Undo the making of the folder, where nothing has been found and the arguments turned out to be wrong."""
        for file in ("manifest.json", "log.jsonl"):
            (self.path / file).unlink(missing_ok=True)
        for folder in self._made:
            folder.rmdir()

    def log(self, kind: str, **event: Any) -> None:
        """Append an event to the log; a line is there whole or not at all."""
        line = strict_json.dumps({"time": _now(), "event": kind, **event}) + "\n"
        with (self.path / "log.jsonl").open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if file.write(line.encode()) != len(line):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)

    def finish(self, result: Result | None, status: str) -> None:
        """Save what a run found, and say how it ended.

        Args:
            result: None where no sample was finished.
            status: ``done``, ``interrupted``, ``failed`` or ``invalid``.

        Raises:
            OSError: The disk is full, for instance. What could be saved is whole and in the manifest.
        """
        try:
            if result is not None:
                self._write_media(result)
                with whole(self.path / "report.html") as part:
                    part.write_bytes(report.render(result).encode(errors="replace"))
            self.log("end", status=status)
        except OSError:
            status = "failed"
            raise
        finally:
            self._manifest |= {"status": status, "finished": _now()} | (self._outcome(result) if result else {})
            self._write_manifest()

    def _write_media(self, result: Result) -> None:
        folder = self.path / "media"
        folder.mkdir(exist_ok=True)
        for stem, scored in (_baselines(result) | _kept(result)).items():
            texts = media.texts(scored, result.settings, result.cost)
            with whole(folder / f"{stem}.png") as part:
                part.write_bytes(media.png(media.picture(scored.sample), texts))
            if isinstance(scored.sample, list):
                with whole(folder / f"{stem}.mp4") as part:
                    media.write_video(part, scored.sample, result.settings)
                with whole(folder / f"{stem}.json") as part:  # which a video's file has no place for
                    part.write_text(texts["evosearch"] + "\n")
        if isinstance(result.best.sample, list):
            frames = folder / f"{next(iter(_kept(result)))}-frames"
            frames.mkdir()
            for k, frame in enumerate(result.best.sample):
                with whole(frames / f"{k:04d}.png") as part:
                    part.write_bytes(media.png(frame, {}))

    def _outcome(self, result: Result) -> dict[str, Any]:
        return {
            "cost": asdict(result.cost),
            "curve": result.curve,
            "invalid": result.invalid,
            "front": len(result.front),
            "stages": [
                asdict(stage) | {name: [f"{id:016x}" for id in getattr(stage, name)] for name in ("families", "ids")}
                for stage in result.stages
            ],
            "alarms": [{"reward": alarm.reward, "p": alarm.p, "text": str(alarm)} for alarm in result.alarms],
            **{name: self._entry(name, scored) for name, scored in _baselines(result).items()},
            "kept": [self._entry(stem, scored) for stem, scored in _kept(result).items()],
        }

    def _entry(self, stem: str, scored: Scored) -> dict[str, Any]:
        file = f"media/{stem}.mp4" if isinstance(scored.sample, list) else f"media/{stem}.png"
        return {
            "file": file if (self.path / file).exists() else None,
            "reward": scored.reward,
            "parts": scored.parts,
            "held_out": scored.held_out,
            "id": scored.id,
            "genome": to_json(scored.genome),
            "nfe": scored.nfe,
        }

    def _write_manifest(self) -> None:
        with whole(self.path / "manifest.json") as part:
            part.write_text(strict_json.dumps(self._manifest, indent=2) + "\n")


def read_genomes(path: Path) -> list[Genome]:
    """The genomes of the samples that a run kept, best first.

    Raises:
        ValueError: There is no such run, or it kept nothing.
    """
    manifest = path / "manifest.json"
    if not manifest.is_file():
        lack = "has no manifest.json" if path.is_dir() else "does not exist"
        raise ValueError(f"warm_start must be the folder of one earlier run, but {path} {lack}")
    try:
        kept = json.loads(manifest.read_text()).get("kept", [])
        genomes = [from_json(entry["genome"]) for entry in kept]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"warm_start: {manifest} is damaged ({error}); take another run") from error
    if not genomes:
        raise ValueError(f"warm_start must be a run that kept samples, but {path} has none; take another run")
    return genomes


@contextmanager
def whole(path: Path) -> Generator[Path]:
    """Give out a path to write to; at the end ``path`` is there whole and on disk, after an error not at all."""
    part = path.with_name(f"part-{path.name}")
    try:
        yield part
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_free(path: Path, what: str = "run folder") -> None:
    """ValueError where a folder cannot be made here; nothing is made."""
    try:
        if path.is_dir() and next(path.iterdir(), None) is not None:
            holds = "a run" if (path / "manifest.json").exists() else "files"
            raise ValueError(f"{what} must be new or empty, but {path} holds {holds}; name another or remove it")
    except OSError as error:
        raise ValueError(f"{what} {path} cannot be made ({error.strerror}); name another") from error
    parent = next(folder for folder in (path, *path.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        why = "is not writable" if parent.is_dir() else "is no folder"
        raise ValueError(f"{what} {path} cannot be made ({parent} {why}); name another")


def _claim(path: Path) -> list[Path]:
    """Make the folder and its log, of two that try at the same time for one; returns the folders that are new."""
    check_free(path)
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / "log.jsonl").open("x").close()
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise ValueError(f"run folder {path} cannot be made ({error.strerror}); name another") from error
    return new


def _baselines(result: Result) -> dict[str, Scored]:
    """What the search is compared with, by the file that it goes to, less the ending."""
    return {"plain": result.plain} | ({"stock": result.stock} if result.stock else {})


def _kept(result: Result) -> dict[str, Scored]:
    return {f"{k:04d}-{scored.id:016x}": scored for k, scored in enumerate(result.kept)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
