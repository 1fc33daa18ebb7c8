"""The journal of a run folder: ``run.db``, a row a call, and ``blobs/``, the states that calls gave.

A thread writes it while the model is at work. It takes all that has come meanwhile at once: first the tensors, as one
blob that is whole and on disk before it has its name, then the rows that name the blob, in one transaction. So a row
that is there can be relied on. Rows are sealed and blobs are named by what is in them: one that is damaged counts as
not written, and its call is made again.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import sqlite3
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from evosearch import disk, strict_json
from evosearch.journal import Answer, Call, Journal
from evosearch.rows import Event, Row, blob_path, now, seal_of

_SCHEMA = 1
_TABLES = """
CREATE TABLE call (
    kind TEXT, number INTEGER, asks TEXT, seconds REAL, facts TEXT, blob TEXT, seal TEXT, PRIMARY KEY (kind, number)
) WITHOUT ROWID;
CREATE TABLE event (time TEXT, kind TEXT, facts TEXT);
"""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)  # the last: without our tables
_HELD = 256 * 2**20  # bytes that may wait to be written
_LOADED = 4  # blobs
_OF_THE_SEARCH = ("start", "generation")


class RunJournal(Journal):
    """The journal in a folder, old or new, until it is closed. One at a time may be open.

    Args:
        folder: The run folder.

    Attributes:
        damaged: Where ``run.db`` could not be read: what it is called now; the run then begins again.
        events: What was logged before, in order.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.damaged: Path | None = None
        rows, self.events = self._opened()
        self._rows = {(row.kind, row.number): row for row in rows if row.whole}
        self._blobs = dict[str, dict[str, Tensor]]()
        self._waiting = queue.SimpleQueue[tuple[Row, dict[str, Tensor]] | Event | None]()
        self._held, self._room = 0, threading.Condition()
        self._error: BaseException | None = None
        for part in folder.glob("blobs/*/part-*"):  # of a process that was killed
            part.unlink(missing_ok=True)
        (folder / "log.jsonl").write_text("".join(map(_line, self.events)))
        self._again = Counter(event.kind for event in self.events)
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writer.start()

    @property
    def resumes(self) -> bool:
        """Whether there is something to be told."""
        return bool(self._rows)

    def expects(self, kind: str, asks: str) -> bool:
        """See `Journal.expects`."""
        row = self._rows.get((kind, self._calls[kind]))
        return row is not None and row.asks == asks

    def told(self, kind: str, number: int) -> tuple[str, Answer] | None:
        """See `Journal.told`; what is damaged was never told."""
        row = self._rows.pop((kind, number), None)
        if row is None:
            return None
        tensors = {}
        if row.blob is not None:
            if (held := self._blob(row.blob)) is None:
                return None
            own = f"{kind}.{number}."
            tensors = {name.removeprefix(own): value for name, value in held.items() if name.startswith(own)}
        return row.asks, Answer(row.seconds, json.loads(row.facts), tensors)

    def keep(self, call: Call, answer: Answer) -> None:
        """See `Journal.keep`; waits where the disk cannot keep pace."""
        self._raise()
        facts = json.dumps(answer.facts)
        row = Row(call.kind, call.number, call.asks, answer.seconds, facts, None, "")
        size = sum(value.nbytes for value in answer.tensors.values())
        with self._room:
            self._room.wait_for(lambda: not self._held or self._held + size <= _HELD or self._error is not None)
            self._held += size
        self._waiting.put((row, answer.tensors))

    def event(self, kind: str, facts: Mapping[str, Any]) -> None:
        """See `Journal.event`; a line of ``log.jsonl``, which is there whole or not at all.

        What is of the search, and was noted by an earlier process, is not noted again.
        """
        if kind in _OF_THE_SEARCH and self._again[kind]:
            self._again[kind] -= 1
            return
        event = Event(now(), kind, strict_json.dumps(facts))
        self._waiting.put(event)
        with (self._folder / "log.jsonl").open("ab", buffering=0) as file:
            end, line = file.seek(0, os.SEEK_END), _line(event).encode()
            if file.write(line) != len(line):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)

    def close(self) -> None:
        """Write what waits, and let go of the files.

        Raises:
            OSError: Not all could be written.
        """
        self._waiting.put(None)
        self._writer.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _opened(self) -> tuple[list[Row], list[Event]]:
        """What ``run.db`` holds, made where there is none."""
        path = self._folder / "run.db"
        if not path.exists():
            _make(path)
        try:
            return _read(path)
        except sqlite3.DatabaseError as error:
            if _full(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _DAMAGED:
                raise OSError(f"{path} cannot be opened ({error}); close what else reads it, and try again") from error
            self.damaged = path.with_name(f"damaged-{len([*self._folder.glob('damaged-*')])}.db")
            path.rename(self.damaged)
            _make(path)
            return _read(path)

    def _blob(self, name: str) -> dict[str, Tensor] | None:
        if name not in self._blobs:
            data = b""
            with suppress(OSError):
                data = blob_path(self._folder, name).read_bytes()
            if sha256(data).hexdigest() != name:
                return None
            with suppress(SafetensorError):
                self._blobs[name] = safetensors.torch.load(data)
            while len(self._blobs) > _LOADED:
                del self._blobs[next(iter(self._blobs))]
        return self._blobs.get(name)

    def _write(self) -> None:
        try:
            with closing(_connected(self._folder / "run.db")) as db:
                while (first := self._waiting.get()) is not None:
                    some, more = [first], True
                    while more and not self._waiting.empty():
                        following = self._waiting.get()
                        more = following is not None
                        some += [following] if following is not None else []
                    self._commit(db, some)
                    if not more:
                        break
        except BaseException as error:
            self._error = _as_os_error(error, self._folder)
            with self._room:
                self._room.notify_all()

    def _commit(self, db: sqlite3.Connection, some: list[tuple[Row, dict[str, Tensor]] | Event]) -> None:
        calls = [each for each in some if not isinstance(each, Event)]
        tensors = {
            f"{row.kind}.{row.number}.{name}": value.contiguous() for row, own in calls for name, value in own.items()
        }
        blob = write_blob(self._folder, tensors) if tensors else None
        with db:
            for row, own in calls:
                row = row._replace(blob=blob if own else None)
                db.execute("INSERT OR REPLACE INTO call VALUES (?,?,?,?,?,?,?)", row._replace(seal=seal_of(*row[:-1])))
            db.executemany("INSERT INTO event VALUES (?,?,?)", [each for each in some if isinstance(each, Event)])
        with self._room:
            self._held -= sum(value.nbytes for _, own in calls for value in own.values())
            self._room.notify_all()


def _line(event: Event) -> str:
    return strict_json.dumps({"time": event.time, "event": event.kind, **json.loads(event.facts)}) + "\n"


def write_blob(folder: Path, tensors: dict[str, Tensor]) -> str:
    """Save tensors under the digest of their bytes, which is returned: whole and on disk, or not at all."""
    data = safetensors.torch.save(tensors)
    name = sha256(data).hexdigest()
    path = blob_path(folder, name)
    for new in (path.parent.parent, path.parent):
        if not new.is_dir():
            new.mkdir(mode=0o700)
            _sync(new.parent)
    part = path.with_name(f"part-{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync(path.parent)
    return name


def _sync(folder: Path) -> None:
    if os.name == "nt":  # which has no such call
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _connected(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=60)  # a reader on a network file system keeps others out
    # Write-ahead logs need memory that all who read share, which no network file system gives.
    db.execute(f"PRAGMA journal_mode={'DELETE' if disk.shared(path) else 'WAL'}")
    db.execute("PRAGMA synchronous=FULL")
    return db


def _make(path: Path) -> None:
    """An empty journal, which has its name once it can be read."""
    part = path.with_name(f"part-{path.name}")
    for rest in (*path.parent.glob(f"{part.name}*"), *path.parent.glob(f"{path.name}-*")):
        rest.unlink()  # of a process that was killed, or of what is damaged
    try:
        with closing(_connected(part)) as db, db:
            db.executescript(f"{_TABLES} PRAGMA user_version={_SCHEMA};")
    except sqlite3.DatabaseError as error:
        raise _as_os_error(error, path.parent) from error
    part.replace(path)
    _sync(path.parent)


def _read(path: Path) -> tuple[list[Row], list[Event]]:
    with closing(_connected(path)) as db:
        schema = db.execute("PRAGMA user_version").fetchone()[0]
        if schema > _SCHEMA:
            raise ValueError(
                f"{path} is of a later evosearch (schema {schema}, this one knows {_SCHEMA}); resume it with that one"
            )
        if (found := db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)
        rows = [Row._make(row) for row in db.execute("SELECT * FROM call")]
        return rows, [Event._make(row) for row in db.execute("SELECT * FROM event ORDER BY rowid")]


def _full(error: BaseException) -> bool:
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
    )  # fmt: skip


def _as_os_error(error: BaseException, folder: Path) -> BaseException:
    """A full disk is one, whoever noticed."""
    if _full(error):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "run.db"))
    return error
