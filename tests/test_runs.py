"""The commands on a run folder: resume, show, scores, lineage, verify, replay; and the chaos that they survive."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from test_cli import evosearch, here, load, refused

from evosearch import runs
from evosearch.bench import chaos

__all__ = ["here", "load"]  # fixtures

PROMPT = "a blue star and a red circle"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of the command line that is done."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    evosearch("generate", PROMPT, "--model", "shapes-flow", "--budget", "10x", "--steps", "8", "--quiet",
              "--held-out", "shapes_quality", "--out", folder)  # fmt: skip
    return folder


@pytest.fixture
def run(done, tmp_path):
    """The same, to be damaged."""
    shutil.copytree(done, tmp_path / "run")
    return tmp_path / "run"


def best(folder):
    return json.loads((folder / "manifest.json").read_text())["kept"][0]


def test_show_says_what_a_run_is_and_how_far_it_came(run):
    told = evosearch("show", run).stdout
    assert f"prompt        {PROMPT}" in told
    assert "status        done" in told and "go on by" not in told
    assert "search        evosearch, budget 80 NFE, seed 0" in told
    assert f"  {best(run)['id']:016x}  " in told
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["status"] = "running"
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert f"go on by      evosearch resume {run}" in evosearch("show", run).stdout


def test_scores_lists_all_that_was_scored(run):
    rows = list(csv.DictReader(io.StringIO(evosearch("scores", run).stdout)))
    manifest = json.loads((run / "manifest.json").read_text())
    assert len(rows) == manifest["cost"]["reward_calls"] + manifest["cost"]["hits"]
    finished = {row["id"]: float(row["reward"]) for row in rows if row["level"] == "8"}
    assert finished[f"{best(run)['id']:016x}"] == best(run)["reward"] == max(finished.values())
    evosearch("scores", run, "--csv", "scores.csv")
    assert list(csv.DictReader(io.StringIO(Path("scores.csv").read_text()))) == rows


def test_lineage_goes_back_to_noise(run):
    children = [score for score in runs.scores(run) if score.parent != -1]
    child = max(children, key=lambda score: score.nfe)
    lines = evosearch("lineage", run, f"{child.id:016x}").stdout.splitlines()
    assert lines[-1].startswith(f"{child.id:016x}") and len(lines) >= 2
    assert runs.lineage(run, child.id)[0].parent == -1
    refused("particle 00000000000000ff was not scored", "lineage", run, "ff")


def test_verify_reads_all_and_says_what_is_damaged(run):
    assert "all is what was written" in evosearch("verify", run).stdout
    blob = next(run.glob("blobs/*/*"))
    blob.write_bytes(blob.read_bytes()[:-1])
    (run / best(run)["file"]).unlink()
    told = evosearch("verify", run, code=65)
    assert f"{blob.relative_to(run)} is not what was written" in told.stderr
    assert f"{best(run)['file']} is missing" in told.stderr
    evosearch("resume", run, "--quiet")
    assert "all is what was written" in evosearch("verify", run).stdout


def test_replay_makes_the_same_again(run):
    for particle in ("best", "plain", f"{best(run)['id']:x}"):
        assert "is the same to the bit" in evosearch("replay", run, particle, "--out", "again.png").stdout
    assert Path("again.png").is_file()
    shutil.copy(run / "media" / "plain.png", run / best(run)["file"])
    assert "another sample than was saved" in evosearch("replay", run, "best", code=65).stdout
    refused("was not kept by .*; those that were: evosearch show", "replay", run, "ff")
    refused("PARTICLE must be an id in hexadecimal, best or plain, got 'first'", "replay", run, "first")


def test_what_comes_out_of_resume_is_what_came_out(run, done):
    (run / "report.html").unlink()
    told = evosearch("resume", run).stdout
    assert f"best sample   {run / best(run)['file']}" in told
    assert chaos.outcome(run) == chaos.outcome(done)
    again = evosearch("generate", PROMPT, "--model", "shapes-flow", "--budget", "10x", "--steps", "8", "--quiet",
                      "--held-out", "shapes_quality", "--out", run, "--resume")  # fmt: skip
    assert again.stdout == f"{run / best(run)['file']}\n"
    refused('seed was 0, is 1"?$', "generate", PROMPT, "--model", "shapes-flow", "--budget", "10x", "--steps", "8",
            "--held-out", "shapes_quality", "--out", run, "--resume", "--seed", "1")  # fmt: skip


def test_resume_begins_what_was_not_begun():
    asked = ["--model", "shapes-flow", "--budget", "4x", "--steps", "4", "--quiet", "--out", "sets"]
    evosearch("generate", PROMPT, "a red circle", *asked)
    shutil.rmtree("sets/0001")
    assert "a red circle" in evosearch("resume", "sets").stdout
    assert Path("sets/0001/report.html").is_file()
    assert "all runs are done already" in evosearch("resume", "sets").stderr


@pytest.mark.parametrize("command", ["resume", "show", "scores", "lineage", "verify", "replay"])
def test_what_is_no_run_is_said_to_be_none(command):
    Path("empty").mkdir()
    for folder, lack in (("nowhere", "does not exist"), ("empty", "has no manifest.json")):
        particle = ["ff"] if command == "lineage" else []
        refused(f"run must be the folder of one run, but {folder} {lack}", command, folder, *particle)


@pytest.mark.parametrize(
    "trials",
    [
        lambda out: chaos.kills("shapes-flow", out, 4, ("evosearch", "particles")),
        lambda out: chaos.damages("shapes-flow", out, 4),
        lambda out: chaos.races(out, 5),
        lambda out: chaos.memories("shapes-flow", 1),
        lambda out: chaos.names(out, 30),
        lambda out: chaos.store_cost(out, 3, 0.3),
    ],
    ids=["kills", "damages", "races", "memory", "names", "store"],
)
def test_no_trial_of_chaos_ends_as_none_may(tmp_path, trials):
    found = trials(tmp_path / "chaos")
    assert found.wrong == 0, str(found)
    assert sum(found.ends.values()) >= 1
