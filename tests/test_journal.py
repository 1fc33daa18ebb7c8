"""The journal: what a run that was cut off is told, what it comes to, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sqlite3
import threading
import time
from dataclasses import replace

import pipelines
import pytest
import torch
import toy
from test_searches import CASES, IDS, STEPS
from toy import bright

import evosearch as es
from evosearch import ledger, searches
from evosearch.journal import asks, packed, unpacked
from evosearch.ledger import RunJournal
from evosearch.lock import Taken, locked
from evosearch.negatives import Undeveloped
from evosearch.rows import blob_path, rows_of


def outcome(result):
    """All of a result but what its clock read."""
    shown = [*result.kept, result.plain]
    told = [(s.id, s.reward, s.genome, s.nfe, s.held_out, s.parts, s.sample.tobytes()) for s in shown]
    cost = (result.cost.nfe, result.cost.model_passes, result.cost.decodes, result.cost.reward_calls, result.cost.hits)
    curve = [(nfe, best) for nfe, _, best in result.curve]
    generations = [(g.ids, g.parents, g.rewards, g.nfe) for g in result.generations]
    return told, cost, curve, generations, result.thumbnails, result.glimpses, len(result.front)


class Cut(Exception):
    """What ends a run in the middle."""


def counting(after=None, reward=bright):
    """A reward that keeps what it has scored, and gives up after so many calls."""

    def counted(samples, prompts):
        if len(counted.seen) == after:
            raise Cut
        counted.seen.append([sample.sum().item() for sample in samples])
        return reward(samples, prompts)

    counted.seen, counted.differentiable, counted.__name__ = [], True, "reward"
    return counted


def pictures(**kwargs):
    """A sampler of 2x2 pictures, as the conformance suite has them."""
    own = toy.sampler(steps=STEPS, **kwargs)
    return es.DenoiserSampler(
        lambda x, alpha, sigma: alpha * x, own.path, (3, 2, 2), decode=lambda x: (x / 8 + 0.5).clamp(0, 1), batch_size=4
    )


@pytest.mark.parametrize(("name", "knobs", "eta"), CASES, ids=IDS)
def test_a_run_that_was_cut_off_goes_on_to_the_same_end(tmp_path, name, knobs, eta):
    def found(reward, folder, **more):
        asked = {"pipe": pictures(), "algorithm": name, "budget": None, "eta": eta, "held_out": ["jpeg"], **knobs}
        return toy.found(reward=reward, run_dir=tmp_path / folder, **asked, **more)

    whole = found(first := counting(), "whole")
    if len(first.seen) == 1:
        pytest.skip("there is no middle to be cut off in")
    with pytest.raises(Cut):
        found(cut := counting(len(first.seen) // 2), "run")
    again = found(rest := counting(), "run", resume=True)
    assert outcome(again) == outcome(whole)
    if "gradient" not in getattr(searches, name).needs and not knobs.get("guidance"):  # which is computed anew
        assert cut.seen + rest.seen == first.seen


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize(
    "reward", [lambda r: {r: 2.0, "jpeg": 0.1}, lambda r: es.rewards.z_scored(r, "jpeg"), lambda r: [r, "jpeg"]]
)
def test_rewards_of_several_go_on_alike(tmp_path, share, reward):
    asked = {"pipe": toy.sampler(steps=8), "budget": 300, "algorithm": "evosearch"}
    whole = toy.found(reward=reward(first := counting()), run_dir=tmp_path / "whole", **asked)
    with pytest.raises(Cut):
        toy.found(reward=reward(counting(int(share * len(first.seen)))), run_dir=tmp_path / "run", **asked)
    again = toy.found(reward=reward(counting()), run_dir=tmp_path / "run", resume=True, **asked)
    assert outcome(again) == outcome(whole)
    assert [s.parts for s in again.kept] == [s.parts for s in whole.kept]


def test_a_reward_over_a_network_goes_on_alike(tmp_path):
    def remote(after=None):
        reward = counting(after)
        reward.remote = True
        return reward

    asked = {"pipe": on_the_cpu(), "budget": 200, "algorithm": "evosearch"}
    whole = toy.found(reward=(first := remote()), run_dir=tmp_path / "whole", **asked)
    with pytest.raises(Cut):
        toy.found(reward=(cut := remote(len(first.seen) // 2)), run_dir=tmp_path / "run", **asked)
    again = toy.found(reward=(rest := remote()), run_dir=tmp_path / "run", resume=True, **asked)
    assert outcome(again) == outcome(whole)
    assert cut.seen + rest.seen == first.seen


def on_the_cpu():
    own = toy.sampler(steps=8)
    own.device = torch.device("cpu")
    return own


def test_a_run_that_is_done_is_told_without_model_or_reward(tmp_path):
    asked = {"run_dir": tmp_path / "run", "held_out": [counting()], "algorithm": "evosearch", "budget": 200}
    whole = toy.found(pipe=toy.sampler(steps=8), **asked)
    silent = toy.sampler(steps=8)
    again = toy.found(pipe=silent, reward=bright, resume=True, **(asked | {"held_out": [held := counting()]}))
    assert outcome(again) == outcome(whole)
    assert silent.computed <= 8  # the plain sample, which is beside the search
    assert held.seen == []


def test_previews_of_a_pipeline_go_on_alike(tmp_path):
    def found(folder, after=None, **more):
        pipe = es.load("shapes-diffusion")
        return es.search(pipe, "a red circle", counting(after), budget="12x", steps=8, run_dir=tmp_path / folder,
                         progress=False, held_out=["shapes"], **more)  # fmt: skip

    whole = found("whole")
    with pytest.raises(Cut):
        found("run", after=14)
    assert outcome(found("run", resume=True)) == outcome(whole)


def test_a_pipeline_that_edits_its_states_is_known_to_before_it_runs_again(tmp_path):
    case = pipelines.CASES["stable_diffusion_inpaint"]

    def found(folder, after=None, **more):
        return es.search(case.build(), "a red circle", counting(after), "evosearch", "12x", steps=8, progress=False,
                         run_dir=tmp_path / folder, pipeline_kwargs=case.kwargs, **more)  # fmt: skip

    whole = found("whole")
    with pytest.raises(Cut):
        found("run", after=3)
    assert outcome(found("run", resume=True)) == outcome(whole)


@pytest.mark.parametrize("x0", [False, True])
def test_states_are_packed_without_what_is_known(x0):
    s = toy.sampler(steps=8)
    p = s.run(s.prior(3), 2)[0]
    p = s.predict(p) if x0 else p
    end, kept = s.run(p, 6, keep=(2, 4, 6))
    tensors = packed(p, end, kept)
    assert ("2.x" in tensors, "2.x0" in tensors) == (False, not x0)
    again, stages = unpacked(p, 6, (2, 4, 6), tensors)
    for one, other in ((again, end), *((stages[level], kept[level]) for level in kept)):
        for name in ("x", "x0", "eps", "memory", "id", "key"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None and b is None) or torch.equal(a, b)
        assert (one.i, one.genomes) == (other.i, other.genomes)


def test_what_is_asked_tells_calls_apart():
    s = toy.sampler()
    p = s.prior(2)
    told = {asks(p), asks(p, 5), asks(p[[0]]), asks(p[[1, 0]]), asks(s.predict(p)), asks(s.run(p, 1)[0])}
    told.add(asks(p.moved(p.x + 1e-6)))
    assert len(told) == 7
    assert asks(p) == asks(toy.sampler().prior(2))


# What it refuses


def cut_run(path, after=3, **asked):
    """A run that was cut off."""
    with pytest.raises(Cut):
        toy.found(pipe=toy.sampler(steps=8), reward=counting(after), run_dir=path, budget=200, **asked)


def goes_on(path, **asked):
    return toy.found(pipe=toy.sampler(steps=8), reward=counting(), run_dir=path, budget=200, resume=True, **asked)


def test_a_run_of_other_settings_does_not_go_on_and_lists_what_differs(tmp_path):
    cut_run(tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r'another now: algorithm was "evosearch", is "best_of_n"; .*seed was 0, is 1'):
        goes_on(tmp_path / "run", algorithm="best_of_n", seed=1)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    goes_on(tmp_path / "run")


def test_a_search_that_goes_another_way_is_found_out(tmp_path):
    def moved_by(shift):
        def search(sampler, reward, rng):
            for _ in range(9):
                p = sampler.prior(2)
                finished, _ = sampler.run(p.moved(p.x + shift), sampler.steps)
                yield replace(finished, reward=reward(sampler.decode(finished)))

        return search

    cut = {"run_dir": tmp_path / "run", "budget": 60}
    toy.found(algorithm=moved_by(0.0), **cut)
    with pytest.raises(ValueError, match="goes another way than its journal, from call 0 of kind 'run' on"):
        toy.found(algorithm=moved_by(1e-3), resume=True, **cut)


def test_without_resume_a_run_is_not_touched(tmp_path):
    cut_run(tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run"):
        toy.found(run_dir=tmp_path / "run")


def test_one_process_writes_a_run(tmp_path):
    cut_run(tmp_path / "run")
    held = locked(tmp_path / "run")
    try:
        with pytest.raises(Taken, match="is being written by another process"):
            goes_on(tmp_path / "run")
    finally:
        os.close(held)
    goes_on(tmp_path / "run")


def test_another_decoder_is_found_out_and_nothing_is_lost(tmp_path):
    cut_run(tmp_path / "run", after=4, algorithm="best_of_n")
    other = toy.sampler(steps=8)
    other = es.DenoiserSampler(other._denoiser, other.path, other.shape, decode=lambda x: x.sigmoid(), batch_size=4)
    with pytest.raises(Undeveloped, match="is decoded to another sample than it was scored by"):
        toy.found(pipe=other, reward=counting(), run_dir=tmp_path / "run", budget=200, algorithm="best_of_n",
                  resume=True)  # fmt: skip
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "failed"
    goes_on(tmp_path / "run", algorithm="best_of_n")


# Damage


def whole_run(tmp_path):
    return outcome(toy.found(pipe=toy.sampler(steps=8), reward=counting(), run_dir=tmp_path / "whole", budget=200))


def flip(path, at=None, seed=0):
    data = bytearray(path.read_bytes())
    place = random.Random(seed).randrange(len(data)) if at is None else at
    data[place] ^= 1 << (place % 8)
    path.write_bytes(data)


def test_a_blob_that_is_damaged_or_gone_is_made_again(tmp_path):
    whole = whole_run(tmp_path)
    cut_run(tmp_path / "run", after=20)
    blobs = sorted((tmp_path / "run" / "blobs").rglob("*.safetensors"))
    flip(blobs[0])
    blobs[-1].unlink()
    assert outcome(goes_on(tmp_path / "run")) == whole


def test_a_row_that_is_damaged_is_made_again(tmp_path):
    whole = whole_run(tmp_path)
    cut_run(tmp_path / "run", after=20)
    with sqlite3.connect(tmp_path / "run" / "run.db") as db:
        db.execute("UPDATE call SET facts = replace(facts, '0.5', '0.9') WHERE kind = 'score'")
        db.execute("UPDATE call SET seconds = seconds + 1 WHERE kind = 'run' AND number % 2 = 0")
    assert any(not row.whole for row in rows_of(tmp_path / "run"))
    assert outcome(goes_on(tmp_path / "run")) == whole
    assert all(row.whole for row in rows_of(tmp_path / "run"))


def test_a_journal_that_cannot_be_read_is_put_aside(tmp_path):
    whole = whole_run(tmp_path)
    cut_run(tmp_path / "run", after=20)
    (tmp_path / "run" / "run.db").write_bytes(b"no database" * 1000)
    assert outcome(goes_on(tmp_path / "run")) == whole
    assert (tmp_path / "run" / "damaged-0.db").is_file()
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"damaged": "damaged-0.db"}.items() <= next(e for e in events if e["event"] == "resume").items()


@pytest.mark.parametrize("text", ["", "{", '{"status": 1, "settings": {}}', "[]"])
def test_a_manifest_that_is_damaged_is_said_to_be(tmp_path, text):
    cut_run(tmp_path / "run")
    (tmp_path / "run" / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest.json is damaged .*; begin a new one"):
        goes_on(tmp_path / "run")


def test_a_torn_line_of_the_log_is_mended(tmp_path):
    cut_run(tmp_path / "run", after=20)
    log = tmp_path / "run" / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-7])
    goes_on(tmp_path / "run")
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events[0] == "start" and events[-1] == "end" and events.count("resume") == 1


@pytest.mark.parametrize("kind", ["blob", "row"])
@pytest.mark.parametrize("after", [0, 3])
def test_a_full_disk_ends_the_run_and_it_goes_on_alike(tmp_path, monkeypatch, kind, after):
    whole, left = whole_run(tmp_path), iter(range(after + 1))
    write, seal = ledger.write_blob, ledger.seal_of

    def full(*args):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "disk")
        return (write if kind == "blob" else seal)(*args)

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write_blob" if kind == "blob" else "seal_of", full)
        with pytest.raises(OSError, match="No space left"):
            toy.found(pipe=toy.sampler(steps=8), reward=counting(), run_dir=tmp_path / "run", budget=200)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "failed"
    assert outcome(goes_on(tmp_path / "run")) == whole


def test_a_journal_waits_for_a_slow_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "_HELD", 1000)
    slow, most = ledger.write_blob, []

    def measured(folder, tensors):
        most.append(sum(value.nbytes for value in tensors.values()))
        time.sleep(0.005)
        return slow(folder, tensors)

    monkeypatch.setattr(ledger, "write_blob", measured)
    whole_run(tmp_path)
    assert max(most) <= 4000  # one call's states may be more than is held by themselves


# Interruptions


def test_ctrl_c_finishes_the_micro_batch_and_a_second_one_does_not_wait(tmp_path):
    def interrupted(samples, prompts):
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        calls.append(len(samples))
        return bright(samples, prompts)

    calls, interrupted.__name__ = [], "reward"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is deaf
    try:
        with pytest.raises(KeyboardInterrupt):
            toy.found(pipe=toy.sampler(steps=8), reward=interrupted, run_dir=tmp_path / "run", budget=200)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(calls) >= 3
    rows = [row for row in rows_of(tmp_path / "run") if row.kind == "score"]
    assert len(rows) == len(calls)
    whole = whole_run(tmp_path)
    assert outcome(goes_on(tmp_path / "run")) == whole


# By its folder


def test_a_run_goes_on_by_what_its_folder_says(tmp_path):
    asked = {"pipe": "shapes-flow", "prompt": "a red circle", "reward": {"shapes": 1, "jpeg": 0.01}, "budget": "10x",
             "steps": 8, "seed": 3, "held_out": ["shapes_quality"], "run_dir": tmp_path / "run"}  # fmt: skip
    whole = toy.found(**asked)
    again = es.resume(tmp_path / "run", progress=False)
    assert outcome(again) == outcome(whole)
    handed_over = es.resume(tmp_path / "run", pipe=es.load("shapes-flow"), progress=False)
    assert outcome(handed_over) == outcome(whole)
    with pytest.raises(ValueError, match=r"model was .*shapes-flow.*, is .*shapes-diffusion"):
        es.resume(tmp_path / "run", pipe=es.load("shapes-diffusion"), progress=False)


def test_a_set_goes_on_with_the_run_that_was_cut_off(tmp_path):
    asked = {"pipe": "shapes-flow", "budget": "8x", "steps": 4, "run_dir": tmp_path / "runs", "progress": False}
    texts = ["a red circle", "a blue star"]
    whole = es.search(prompt=texts, reward="shapes", **asked)
    for k, status in ((0, "running"), (1, "interrupted")):
        path = tmp_path / "runs" / f"{k:04d}" / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": status}))
    again = es.resume(tmp_path / "runs", progress=False)
    assert [outcome(result) for result in again] == [outcome(result) for result in whole]


def test_prompts_that_were_not_begun_are_searched(tmp_path):
    prompts, reward = ["one", "two", "three"], counting(30)
    with pytest.raises(Cut):
        es.search(toy.sampler(steps=8), prompts, reward, budget=200, run_dir=tmp_path / "runs", progress=False)
    with pytest.raises(ValueError, match=r"give pipe= \(DenoiserSampler\), reward= \(reward\) again"):
        es.resume(tmp_path / "runs", progress=False)
    rest = es.resume(tmp_path / "runs", pipe=toy.sampler(steps=8), reward=counting(), progress=False)
    whole = es.search(toy.sampler(steps=8), prompts, counting(), budget=200, run_dir=tmp_path / "whole", progress=False)
    assert [outcome(result) for result in rest] == [outcome(result) for result in whole[-len(rest) :]]
    for k in range(3):
        assert json.loads((tmp_path / "runs" / f"{k:04d}" / "manifest.json").read_text())["status"] == "done"
    assert es.resume(tmp_path / "runs", pipe=toy.sampler(steps=8), reward=counting(), progress=False) == []
    with pytest.raises(ValueError, match="cannot go on with other prompts; name another folder"):
        es.search(toy.sampler(steps=8), ["one"], reward, budget=200, run_dir=tmp_path / "runs", resume=True)


def test_a_budget_of_time_keeps_its_plan_and_its_clock(tmp_path):
    asked = {"pipe": toy.sampler(steps=8), "run_dir": tmp_path / "run", "budget": "3s", "algorithm": "best_of_n"}
    with pytest.raises(Cut):
        toy.found(reward=counting(8), **asked)
    before = json.loads((tmp_path / "run" / "manifest.json").read_text())
    time.sleep(0.3)
    again = toy.found(reward=counting(), resume=True, **asked)
    after = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert after["fitted"] == before["fitted"]
    assert after["curve"][: len(before["curve"])] == before["curve"]
    assert again.cost.seconds < 4


def test_runs_are_private(tmp_path):
    cut_run(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_a_journal_of_a_later_schema_is_refused(tmp_path):
    cut_run(tmp_path / "run")
    with sqlite3.connect(tmp_path / "run" / "run.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match=r"of a later evosearch \(schema 99, this one knows 1\)"):
        goes_on(tmp_path / "run")


def test_the_writer_ends_with_its_journal(tmp_path):
    before = set(threading.enumerate())
    journal = RunJournal(tmp_path)
    assert [thread.name for thread in set(threading.enumerate()) - before] == ["journal"]
    journal.close()
    assert not set(threading.enumerate()) - before
    assert blob_path(tmp_path, "abc").name == "abc.safetensors"
