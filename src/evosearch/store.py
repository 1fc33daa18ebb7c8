"""The run folder: manifest, journal, log, media and report.

``manifest.json`` says what was run and what came of it, ``run.db`` and ``blobs/`` are the journal by which it goes on
where it stopped (see `evosearch.ledger`), ``log.jsonl`` mirrors its events for people to read, ``media/`` has the kept
samples and the plain one, ``report.html`` shows it all. Names are numbers and ids; prompts stay inside the files.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from evosearch import media, report, strict_json
from evosearch.genome import from_json, to_json
from evosearch.ledger import RunJournal
from evosearch.lock import Taken, locked
from evosearch.manifest import check_same, holds_run, read_manifest
from evosearch.result import Result, Scored
from evosearch.rows import now
from evosearch.types import Genome

_SCHEMA = 1
_FROM_THE_BEGINNING = ("schema", "created", "resumed", "arguments", "fitted", "settings")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class RunFolder:
    """The folder of one run, which this process alone writes until it is finished.

    Args:
        path: The folder; must not exist, or be empty, unless ``resume``.
        settings: All that the run depends on.
        told: What else the manifest is to say from the beginning on.
        resume: Go on with the run that it holds, if it holds one.

    Attributes:
        journal: What the run was given so far.

    Raises:
        ValueError: The folder is taken or cannot be made, or holds another run; it is as it was.
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], told: Mapping[str, Any] | None = None, resume: bool = False
    ) -> None:
        self.path, self._old = path, resume and holds_run(path)
        self._made = [] if self._old else _claim(path)
        with ExitStack() as undo:
            undo.callback(self._remove)
            try:
                self._lock = locked(path)
            except Taken:  # it is another's by now
                undo.pop_all()
                raise
            undo.callback(os.close, self._lock)
            old = read_manifest(path) if self._old else None
            if old is None:
                old = {"schema": _SCHEMA, "created": now(), "settings": settings, **(told or {})}
            else:
                check_same(path, old["settings"], settings)
                old["resumed"] = [*old.get("resumed", []), now()]
            self.journal = RunJournal(path)
            undo.callback(self._close_journal)
            self._manifest = {name: old[name] for name in _FROM_THE_BEGINNING if name in old} | {"status": "running"}
            self._write_manifest()
            self.log("start")
            if self._old:
                damaged = {} if self.journal.damaged is None else {"damaged": self.journal.damaged.name}
                self.log("resume", **damaged)
            undo.pop_all()

    def discard(self) -> None:
        """Undo the making of the folder, where nothing has been found and the arguments turned out to be wrong."""
        self._release()
        self._remove()

    def _remove(self) -> None:
        if self._old:
            return
        for file in ("manifest.json", "log.jsonl", "run.lock", "run.db*", "part-*"):
            for path in self.path.glob(file):
                path.unlink()
        shutil.rmtree(self.path / "blobs", ignore_errors=True)
        for folder in self._made:
            folder.rmdir()

    def log(self, kind: str, **event: Any) -> None:
        """Append an event to the log."""
        self.journal.event(kind, event)

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
            self._release()
        except OSError:
            status = "failed"
            with suppress(OSError):
                self._release()
            raise
        finally:
            self._manifest |= {"status": status, "finished": now()} | (self._outcome(result) if result else {})
            self._write_manifest()

    def _write_media(self, result: Result) -> None:
        folder = self.path / "media"
        if folder.exists():  # of an earlier end
            shutil.rmtree(folder)
        folder.mkdir()
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
            "faults": result.faults,
            "alarms": [{"reward": alarm.reward, "p": alarm.p, "text": str(alarm)} for alarm in result.alarms],
            **{name: self._entry(name, scored) for name, scored in _baselines(result).items()},
            "kept": [self._entry(stem, scored) for stem, scored in _kept(result).items()],
        }

    def _entry(self, stem: str, scored: Scored) -> dict[str, Any]:
        file = f"media/{stem}.mp4" if isinstance(scored.sample, list) else f"media/{stem}.png"
        there = (self.path / file).exists()
        return {
            "file": file if there else None,
            "sha256": sha256((self.path / file).read_bytes()).hexdigest() if there else None,
            "reward": scored.reward,
            "parts": scored.parts,
            "held_out": scored.held_out,
            "id": scored.id,
            "genome": to_json(scored.genome),
            "nfe": scored.nfe,
        }

    def _close_journal(self) -> None:
        with suppress(OSError):  # what went wrong first is what is told
            self.journal.close()

    def _release(self) -> None:
        """Write the journal to its end, and let others have the folder."""
        try:
            self.journal.close()
        finally:
            os.close(self._lock)

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
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
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
