"""The run folder: what is in it, what it refuses, and what errors leave behind."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch
import toy
from PIL import Image

import evosearch as es
from evosearch import store
from evosearch.genome import replay, to_json
from evosearch.store import RunFolder, read_genomes, whole


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(), parse_constant=pytest.fail)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folder_of_a_finished_run(tmp_path):
    result = toy.found(run_dir=tmp_path / "run", held_out=["jpeg"])
    manifest = manifest_of(tmp_path / "run")
    assert (manifest["schema"], manifest["status"]) == (1, "done")
    assert manifest["created"] <= manifest["finished"] and manifest["created"].endswith("+00:00")
    assert manifest["settings"]["prompt"] == "bright"
    assert manifest["settings"]["knobs"] == result.settings["knobs"]
    assert manifest["cost"]["nfe"] == result.cost.nfe == 100
    assert manifest["curve"] == [list(point) for point in result.curve]
    assert manifest["invalid"] == 0
    assert [entry["reward"] for entry in manifest["kept"]] == [scored.reward for scored in result.kept]
    for entry, scored in zip(manifest["kept"], result.kept, strict=True):
        assert entry["id"] == scored.id
        assert entry["genome"] == to_json(scored.genome)
        assert entry["nfe"] == scored.nfe
        assert entry["held_out"] == {"jpeg": pytest.approx(scored.held_out["jpeg"])}
        with Image.open(tmp_path / "run" / entry["file"]) as saved:
            assert saved.tobytes() == scored.sample.tobytes()
    with Image.open(tmp_path / "run" / manifest["plain"]["file"]) as saved:
        assert saved.tobytes() == result.plain.sample.tobytes()
    assert "bright" in (tmp_path / "run" / "report.html").read_text()


def test_log_has_a_line_for_every_event(tmp_path):
    result = toy.found(run_dir=tmp_path / "run")
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["start", *["generation"] * len(result.generations), "end"]
    assert [e["nfe"] for e in events if "nfe" in e] == [g.nfe for g in result.generations]


def test_video_is_saved_with_its_middle_frame(tmp_path):
    result = toy.found(pipe=toy.sampler(frames=5), run_dir=tmp_path / "run", budget=25, algorithm="best_of_n")
    manifest = manifest_of(tmp_path / "run")
    for entry, scored in zip([manifest["plain"], *manifest["kept"]], [result.plain, *result.kept], strict=True):
        file = tmp_path / "run" / entry["file"]
        assert file.suffix == ".mp4"
        assert imageio_ffmpeg.count_frames_and_secs(str(file))[0] == 5
        with Image.open(file.with_suffix(".png")) as middle:
            assert middle.tobytes() == scored.sample[2].tobytes()
            told = middle.text["evosearch"]
        assert json.loads(file.with_suffix(".json").read_text()) == json.loads(told)
    best = (tmp_path / "run" / manifest["kept"][0]["file"]).with_suffix("")
    frames = sorted(best.with_name(f"{best.name}-frames").iterdir())
    assert [Image.open(frame).tobytes() for frame in frames] == [frame.tobytes() for frame in result.best.sample]


@pytest.mark.parametrize("prompt", toy.HOSTILE, ids=range(len(toy.HOSTILE)))
def test_names_never_hold_the_prompt(tmp_path, prompt):
    toy.found(prompt=prompt, run_dir=tmp_path / "runs" / "a", budget=25)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    for path in tmp_path.rglob("*"):
        assert re.fullmatch(r"[0-9a-z_/.-]{1,120}", str(path.relative_to(tmp_path)))
    raw = (tmp_path / "runs" / "a" / "manifest.json").read_bytes()
    assert all(32 <= byte < 127 or byte == 10 for byte in raw)  # nothing that a terminal would obey
    assert json.loads(raw)["settings"]["prompt"] == prompt


def test_second_run_into_a_folder_is_refused_and_the_first_stays(tmp_path):
    toy.found(run_dir=tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match=r"run folder must be new or empty, but .*run holds a run; name another"):
        toy.found(run_dir=tmp_path / "run", prompt="another")
    assert contents(tmp_path / "run") == before


def test_folder_with_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files; name another or remove"):
        RunFolder(tmp_path, {})
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_empty_folder_is_taken(tmp_path):
    RunFolder(tmp_path, {"prompt": "p"})
    assert manifest_of(tmp_path)["status"] == "running"


def test_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=r"run folder .*file.* cannot be made \(.+\); name another"):
            RunFolder(path, {})
    assert contents(tmp_path) == {"file": b"mine"}


def test_folder_that_cannot_be_written_is_refused():
    with pytest.raises(ValueError, match=r"run folder /proc/run cannot be made \(.+\); name another"):
        RunFolder(Path("/proc/run"), {})


def test_interrupted_run_keeps_what_was_found(tmp_path):
    calls = 0

    def impatient(samples, prompts):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return toy.bright(samples, prompts)

    with pytest.raises(KeyboardInterrupt):
        toy.found(reward=impatient, run_dir=tmp_path / "run")
    manifest = manifest_of(tmp_path / "run")
    assert manifest["status"] == "interrupted"
    assert len(manifest["kept"]) == 12  # three batches of 4
    assert all((tmp_path / "run" / entry["file"]).is_file() for entry in manifest["kept"])
    assert (tmp_path / "run" / "report.html").is_file()
    assert len(read_genomes(tmp_path / "run")) == 12


def test_invalid_run_keeps_manifest_and_log(tmp_path):
    with pytest.raises(es.InvalidReward):
        toy.found(reward=lambda samples, prompts: torch.full((len(samples),), torch.nan), run_dir=tmp_path / "run")
    assert manifest_of(tmp_path / "run")["status"] == "invalid"
    kept = {name.split("/")[0] for name in contents(tmp_path / "run")}
    assert kept == {"blobs", "log.jsonl", "manifest.json", "run.db", "run.lock"}


def test_numbers_that_json_lacks_become_null(tmp_path):
    def first_invalid(samples, prompts):
        return torch.where(torch.arange(len(samples)) == 0, torch.nan, toy.bright(samples, prompts))

    result = toy.found(reward=first_invalid, run_dir=tmp_path / "run", algorithm="best_of_n")
    assert result.plain.reward != result.plain.reward
    manifest = manifest_of(tmp_path / "run")
    assert manifest["plain"]["reward"] is None
    assert manifest["invalid"] == 5


def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    written = store.media.png
    left = 3

    def filling(*args):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(*args)

    monkeypatch.setattr(store.media, "png", filling)
    with pytest.raises(OSError, match="No space left"):
        toy.found(run_dir=tmp_path / "run")
    manifest = manifest_of(tmp_path / "run")
    assert manifest["status"] == "failed"
    assert [entry["file"] is not None for entry in manifest["kept"]][:4] == [True, True, False, False]
    assert len(list((tmp_path / "run" / "media").iterdir())) == 3
    assert not (tmp_path / "run" / "report.html").exists()
    assert read_genomes(tmp_path / "run")  # the finds themselves are not lost


def test_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    with whole(path) as part:
        part.write_text("first")
        assert not path.exists()

    def cut_short():
        with whole(path) as part:
            part.write_text("sec")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert contents(tmp_path) == {"a.txt": b"first"}


def test_log_drops_a_line_that_did_not_fit(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path, {})
    before = (tmp_path / "log.jsonl").read_bytes()

    class Full:
        """A raw file on a disk with room for 5 bytes."""

        def __init__(self, file):
            self.file, self.name = file, file.name

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def seek(self, *args):
            return self.file.seek(*args)

        def truncate(self, size):
            return self.file.truncate(size)

        def write(self, data):
            return self.file.write(data[:5])

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args, **kwargs: Full(opened(self, *args, **kwargs)))
    with pytest.raises(OSError, match="No space left"):
        folder.log("generation")
    monkeypatch.undo()
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_genomes_come_back_best_first(tmp_path):
    result = toy.found(run_dir=tmp_path / "run")
    genomes = read_genomes(tmp_path / "run")
    assert genomes == [scored.genome for scored in result.kept]
    again = toy.sampler()
    sample = again.decode(replay(genomes[0], again))
    assert (sample[0] * 255).round().byte().movedim(0, -1).numpy().tobytes() == result.best.sample.tobytes()


def test_warm_start_begins_with_the_best_noises(tmp_path):
    first = toy.found(run_dir=tmp_path / "run")
    second = toy.found(pipe=toy.sampler(seed=1), seed=1, warm_start=tmp_path / "run", algorithm="best_of_n")
    assert second.best.reward == pytest.approx(max(p.reward for p in first.kept if len(p.genome) == 1), abs=0.1)
    # Compared with the plain sample of its own seed, though the population began with others.
    assert second.plain.id == toy.found(pipe=toy.sampler(seed=1), seed=1, algorithm="best_of_n").plain.id
    assert second.plain.reward < second.best.reward


def test_warm_start_with_the_same_seed_draws_no_noise_twice(tmp_path):
    toy.found(run_dir=tmp_path / "run", algorithm="best_of_n", budget="8x")
    second = toy.found(warm_start=tmp_path / "run", algorithm="best_of_n", budget="16x")
    ids = [id for generation in second.generations for id in generation.ids]
    assert len(set(ids)) == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("", "is damaged"),
        ("[]", "is damaged"),
        ('{"kept": [{"genome": [{"nonsense": 1}]}]}', "is damaged"),
        ('{"kept": []}', "must be a run that kept samples"),
        ('{"status": "running"}', "must be a run that kept samples"),
    ],
)
def test_genomes_of_what_is_no_run(tmp_path, text, message):
    folder = tmp_path / "run"
    if text is not None:
        folder.mkdir()
        (folder / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_genomes(folder)


def test_genomes_of_a_folder_without_manifest(tmp_path):
    with pytest.raises(ValueError, match="has no manifest"):
        read_genomes(tmp_path)
