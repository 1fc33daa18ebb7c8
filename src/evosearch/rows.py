"""The rows of ``run.db``: calls of model and reward, and events, as they lie there."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A call as it lies in ``run.db``."""

    kind: str
    number: int
    asks: str
    seconds: float
    facts: str
    blob: str | None
    seal: str

    @property
    def whole(self) -> bool:
        """Whether it is what was written."""
        return self.seal == seal_of(*self[:-1])


class Event(NamedTuple):
    """Something that the log has a line of."""

    time: str
    kind: str
    facts: str


def rows_of(folder: Path) -> Iterator[Row]:
    """All calls of a run, as they lie there; a run that is going on is not disturbed.

    Raises:
        ValueError: There is no journal, or it cannot be read.
    """
    path = folder / "run.db"
    if not path.is_file():
        raise ValueError(f"run {folder} has no run.db")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            found = db.execute("SELECT * FROM call ORDER BY kind, number").fetchall()
    except sqlite3.DatabaseError as error:
        raise ValueError(f"run {folder}: run.db cannot be read ({error})") from error
    yield from map(Row._make, found)


def blob_path(folder: Path, name: str) -> Path:
    """Where a blob lies."""
    return folder / "blobs" / name[:2] / f"{name}.safetensors"


def now() -> str:
    """The time, as runs note it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def seal_of(*fields: Any) -> str:
    """What a row of these fields is sealed with."""
    return blake2b(json.dumps(fields).encode(), digest_size=16).hexdigest()
