"""Scores on disk, in one SQLite file that several runs may read and write at once, and that no kill leaves damaged."""

from __future__ import annotations

import sqlite3
import threading
import warnings
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

_FILE = "scores.db"
_SCHEMA = 1
_PATIENCE = 60.0  # seconds that another's writing may take
_TABLE = """CREATE TABLE IF NOT EXISTS scores (
    reward TEXT, prompt BLOB, sample BLOB, score REAL NOT NULL, PRIMARY KEY (reward, prompt, sample)
) WITHOUT ROWID"""


class Key(NamedTuple):
    """What a score is of: the reward's identity, the prompt, the sample's digest."""

    reward: str
    prompt: str
    sample: bytes


class CacheFile:
    """Scores by key; prompts are in it as their digests alone.

    What cannot be read or written on the way is worth no search: a warning says so, and the rest goes on without.

    Args:
        folder: Where it lies, made if need be.

    Raises:
        ValueError: The folder cannot be made, or the file is no score cache, or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._lock = folder / _FILE, threading.Lock()
        self._open: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open = sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            self._prepare(self._open)
        except (OSError, sqlite3.Error) as error:
            self.close()
            said = getattr(error, "strerror", None) or error
            raise ValueError(
                f"score cache {self._path} cannot be opened ({said}); name another folder, or remove the file"
            ) from error

    def read(self, keys: Iterable[Key]) -> dict[Key, float]:
        """Those of these that are there."""
        query = "SELECT score FROM scores WHERE reward = ? AND prompt = ? AND sample = ?"
        found: dict[Key, float] = {}
        with self._lock:
            if self._open is None:
                return found
            try:
                for key in keys:
                    if row := self._open.execute(query, _row(key)).fetchone():
                        found[key] = row[0]
            except sqlite3.Error as error:
                self._give_up(error)
        return found

    def write(self, scores: Mapping[Key, float]) -> None:
        """Add these, all at once."""
        with self._lock:
            if self._open is None or not scores:
                return
            try:
                self._open.execute("BEGIN IMMEDIATE")
                rows = ((*_row(key), score) for key, score in scores.items())
                self._open.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?)", rows)
                self._open.execute("COMMIT")
            except sqlite3.Error as error:
                self._give_up(error)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._open is not None:
                self._open.close()
                self._open = None

    def _prepare(self, opened: sqlite3.Connection) -> None:
        # A log beside the file: readers and a writer do not wait for each other, and what a kill cuts off is left out.
        opened.execute("PRAGMA journal_mode = WAL")
        opened.execute("PRAGMA synchronous = NORMAL")  # a power cut may take the last scores, and harms no others
        (schema,) = opened.execute("PRAGMA user_version").fetchone()
        if schema not in (0, _SCHEMA):
            raise sqlite3.DatabaseError(f"its format is {schema}, this version of evosearch reads {_SCHEMA}")
        opened.execute(_TABLE)
        opened.execute(f"PRAGMA user_version = {_SCHEMA}")

    def _give_up(self, error: sqlite3.Error) -> None:
        warnings.warn(
            f"score cache {self._path} fails ({error}); scores are kept in this run alone from here on", stacklevel=4
        )
        if self._open is not None:
            self._open.close()
            self._open = None


def _row(key: Key) -> tuple[str, bytes, bytes]:
    # Not all texts are valid Unicode.
    return key.reward, sha256(key.prompt.encode(errors="surrogatepass")).digest()[:16], key.sample
