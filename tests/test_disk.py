"""The disk that a run is written to."""

import errno
import shutil
import sqlite3
from contextlib import closing
from types import SimpleNamespace

import pytest
import toy
from test_journal import cut_run, goes_on, outcome, whole_run
from typer.testing import CliRunner

from evosearch import cli, disk, ledger, lock, store
from evosearch.rows import rows_of

MOUNTS = """/dev/vda / ext4 rw 0 0
server:/data /data nfs4 rw 0 0
/dev/vdb /data/scratch xfs rw 0 0
me@host:/ /home/me/far\\040away fuse.sshfs rw 0 0
/dev/vdc /home/me/fuse fuse.ext4 rw 0 0
"""


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_MOUNTS", tmp_path / "mounts")
    return tmp_path / "mounts"


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/data/runs/1", "nfs4"),
        ("/data", "nfs4"),
        ("/data/scratch/runs", None),
        ("/database", None),
        ("/home/me/far away/run", "fuse.sshfs"),
        ("/home/me/fuse/run", None),
        ("/", None),
    ],
)
def test_network_file_systems_are_told_by_their_mounts(mounts, place, kind):
    mounts.write_text(MOUNTS)
    assert disk.shared(disk.Path(place)) == kind


def test_what_is_mounted_later_hides_what_was(mounts):
    mounts.write_text("/dev/vda /data ext4 rw 0 0\nserver:/ /data lustre rw 0 0\n")
    assert disk.shared(disk.Path("/data/run")) == "lustre"


def test_without_mounts_to_read_a_disk_is_of_this_machine(mounts):
    assert disk.shared(mounts) is None


def test_a_run_on_a_network_file_system_needs_no_memory_that_is_shared_and_goes_on_alike(tmp_path, monkeypatch):
    whole = whole_run(tmp_path)
    monkeypatch.setattr(disk, "shared", lambda path: "nfs")
    cut_run(tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run" / "run.db")) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert len(list(rows_of(tmp_path / "run"))) > 3
    assert outcome(goes_on(tmp_path / "run")) == whole


def test_a_run_that_is_brought_to_a_network_file_system_goes_on_alike(tmp_path, monkeypatch):
    whole = whole_run(tmp_path)
    cut_run(tmp_path / "run")
    monkeypatch.setattr(disk, "shared", lambda path: "nfs")
    assert outcome(goes_on(tmp_path / "run")) == whole
    assert not [*(tmp_path / "run").glob("run.db-*")]


def test_where_files_cannot_be_locked_nothing_is_run(tmp_path, monkeypatch):
    def unlockable(handle):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", unlockable)
    with pytest.raises(ValueError, match=r"lies where files cannot be locked .*another disk"):
        toy.found(run_dir=tmp_path / "new" / "run")
    assert not [*tmp_path.iterdir()]


def leave(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free))


def test_a_run_for_which_there_is_no_room_is_not_begun(tmp_path, monkeypatch):
    leave(monkeypatch, 10_000)
    with pytest.raises(OSError, match=r"has room for 0\.0 MiB, and the search may write \d\.\d MiB; make room") as told:
        toy.found(run_dir=tmp_path / "new" / "run")
    assert told.value.errno == errno.ENOSPC
    assert not [*tmp_path.iterdir()]
    done = CliRunner().invoke(cli.app, ["generate", "a red circle", "--budget", "2x", "--out", str(tmp_path / "run")])
    assert done.exit_code == 74 and "make room" in done.stderr
    assert not [*tmp_path.iterdir()]


def test_what_a_run_has_written_needs_no_room_again(tmp_path, monkeypatch):
    cut_run(tmp_path / "run")
    held = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    leave(monkeypatch, 0)
    disk.check_room(tmp_path / "run", held)
    with pytest.raises(OSError, match="make room"):
        disk.check_room(tmp_path / "run", held + 1)


@pytest.mark.parametrize("algorithm", ["best_of_n", "evosearch", "particles", "paper_evosearch"])
def test_the_room_that_is_asked_for_suffices(tmp_path, monkeypatch, algorithm):
    asked, own = [], disk.check_room
    monkeypatch.setattr(disk, "check_room", lambda folder, needed: asked.append(needed) or own(folder, needed))
    toy.found(pipe="shapes-flow", prompt="a red circle", reward="shapes", algorithm=algorithm, budget="8x", steps=6,
              run_dir=tmp_path / "run")  # fmt: skip
    written = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert written <= asked[0] <= 10 * written


@pytest.mark.parametrize("failing", ["_make", "write_manifest"])
def test_a_disk_that_fills_up_as_a_run_begins_leaves_nothing(tmp_path, monkeypatch, failing):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if failing == "_make":
            patch.setattr(ledger, "_make", full)
        else:
            patch.setattr(store.RunFolder, "_write_manifest", full)
        with pytest.raises(OSError, match="No space left"):
            toy.found(run_dir=tmp_path / "run")
    assert not [*tmp_path.iterdir()]
    toy.found(run_dir=tmp_path / "run", resume=True)


def test_a_journal_that_another_holds_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    cut_run(tmp_path / "run")

    def locked(path):
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_read", locked)
        with pytest.raises(OSError, match="close what else reads it"):
            goes_on(tmp_path / "run")
    assert not [*(tmp_path / "run").glob("damaged-*")]
    goes_on(tmp_path / "run")
