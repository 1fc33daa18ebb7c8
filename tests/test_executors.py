"""Workers: the same bits whoever computes them, and a result whatever befalls those who do."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import toy
from test_journal import Cut, outcome, pictures
from test_searches import CASES, IDS
from toy import bright
from typer.testing import CliRunner

import evosearch as es
from evosearch import cli, searches
from evosearch.bench import chaos_workers
from evosearch.bench.trials import Trials
from evosearch.bench.trials import outcome as outcome_of
from evosearch.executors import processes
from evosearch.executors.nursery import Place, nursery
from evosearch.executors.pool import Deadly, Pool, WorkerLost
from evosearch.executors.worker import Setup, backends
from evosearch.rows import rows_of

PROMPTS = ["two red circles", "a blue square", "three green stars"]


@pytest.fixture(scope="module")
def two():
    """Two workers that draw the pictures of the conformance suite."""
    with es.hire(pictures(), workers=2) as pipe:
        yield pipe


@pytest.fixture(scope="module")
def flow():
    """Two workers that have a bundled pipeline."""
    with es.hire("shapes-flow", workers=2) as pipe:
        yield pipe


def events(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# What it computes.


@pytest.mark.parametrize(("name", "knobs", "eta"), CASES, ids=IDS)
def test_two_workers_come_to_what_one_process_comes_to(two, name, knobs, eta):
    asked = {"algorithm": name, "budget": None, "eta": eta, "held_out": ["jpeg"], **knobs}
    if "gradient" in getattr(searches, name).needs or "guidance" in knobs:
        with pytest.raises(ValueError, match=r"gradients.*leave out workers"):
            toy.found(pipe=two, **asked)
        return
    assert outcome(toy.found(pipe=two, **asked)) == outcome(toy.found(pipe=pictures(), **asked))


@pytest.mark.parametrize(
    "reward",
    [
        {bright: 2.0, "jpeg": 0.1},
        es.rewards.z_scored(bright, "jpeg", settle=5),
        [bright, "jpeg"],
        "minimum(jpeg, z_scored(jpeg))",
        lambda picture: float(picture.getpixel((0, 0))[0]),
    ],
    ids=["weighted", "z_scored", "pareto", "spelled", "of a picture"],
)
def test_rewards_of_every_kind_are_scored_alike(two, reward):
    asked = {"algorithm": "evosearch", "budget": 400, "reward": reward}
    whole, theirs = toy.found(pipe=pictures(), **asked), toy.found(pipe=two, **asked)
    assert outcome(theirs) == outcome(whole)
    assert [s.parts for s in theirs.kept] == [s.parts for s in whole.kept]


def test_a_sample_that_comes_twice_is_scored_once(two):
    # Children at rate 0 are their parents, and come in other micro-batches than those.
    asked = {"algorithm": "evosearch", "schedule": (0, 3), "sizes": (12, 12, 12), "rate": 0.0, "elites": 0}
    whole = toy.found(pipe=pictures(), budget=None, **asked)
    theirs = toy.found(pipe=two, budget=None, **asked)
    assert whole.cost.hits > 0 and outcome(theirs) == outcome(whole)


@pytest.mark.parametrize(
    "budget", [es.Budget(reward_calls=17), es.Budget(nfe=333), es.Budget(nfe=300, reward_calls=40)]
)
@pytest.mark.parametrize("name", ["evosearch", "best_of_n", "svdd", "zero_order"])
def test_a_budget_ends_it_at_the_same_sample(two, name, budget):
    asked = {"algorithm": name, "budget": budget}
    assert outcome(toy.found(pipe=two, **asked)) == outcome(toy.found(pipe=pictures(), **asked))


def test_the_clock_ends_it_and_keeps_what_is_there(two, tmp_path):
    asked = {"pipe": two, "algorithm": "best_of_n", "n": 10_000, "budget": "0.5s", "run_dir": tmp_path / "run"}
    result = toy.found(**asked)
    assert result.cost.seconds >= 0.5 and result.best.reward >= result.plain.reward
    again = toy.found(**asked, resume=True)
    assert outcome(again) == outcome(result)


@pytest.mark.parametrize("name", ["evosearch", "svdd", "particles"])
def test_a_bundled_pipeline_gives_the_same_bits(flow, name):
    asked = {
        "prompt": PROMPTS[0], "reward": {"shapes": 1, "shapes_clip": 1}, "algorithm": name, "budget": "12x",
        "steps": 8, "batch_size": 4, "held_out": ["jpeg", "shapes_quality"], "progress": False,
    }  # fmt: skip
    here, there = es.search("shapes-flow", **asked), es.search(flow, **asked)
    assert outcome(there) == outcome(here)
    theirs, ours = there.settings, here.settings
    assert theirs == ours


def test_a_video_gives_the_same_bits():
    asked = {"prompt": PROMPTS[0], "reward": "shapes", "budget": "4x", "steps": 4, "batch_size": 2, "progress": False}
    here, there = es.search("shapes-video", **asked), es.search("shapes-video", workers=2, **asked)
    each = [
        [(s.id, s.reward, [frame.tobytes() for frame in s.sample]) for s in (*result.kept, result.plain)]
        for result in (here, there)
    ]
    assert each[0] == each[1] and here.thumbnails == there.thumbnails


def test_a_pipeline_that_is_handed_over_is_copied():
    asked = {"prompt": PROMPTS[0], "reward": "shapes", "budget": "3x", "steps": 4, "progress": False}
    here = es.search("shapes-diffusion", **asked)
    assert outcome(es.search(es.load("shapes-diffusion"), workers=1, **asked)) == outcome(here)


def test_what_leaves_the_machine_is_asked_from_here(two):
    def judge(samples, prompts):
        judge.pid.add(os.getpid())
        return bright(samples, prompts)

    judge.remote, judge.pid = True, set()
    asked = {"algorithm": "evosearch", "budget": 300}
    whole = toy.found(pipe=pictures(), reward=bright, **asked)
    assert outcome(toy.found(pipe=two, reward=judge, **asked))[0] == outcome(whole)[0]
    assert judge.pid == {os.getpid()}


def test_scores_on_disk_are_found_by_workers_of_another_run(two, tmp_path):
    asked = {"algorithm": "best_of_n", "budget": 100, "reward": "jpeg", "score_cache": tmp_path}
    first, again = (toy.found(pipe=two, **asked) for _ in range(2))
    assert (first.cost.hits, again.cost.hits) == (0, first.cost.reward_calls)
    assert [s.reward for s in again.kept] == [s.reward for s in first.kept]


# Several prompts.


def test_prompts_go_side_by_side_and_come_in_order(flow, tmp_path):
    asked = {"reward": "shapes", "budget": "4x", "steps": 6, "batch_size": 2, "progress": False}
    here = es.search("shapes-flow", PROMPTS, run_dir=tmp_path / "here", **asked)
    there = es.search(flow, PROMPTS, run_dir=tmp_path / "there", **asked)
    assert [outcome(result) for result in there] == [outcome(result) for result in here]
    for k in range(len(PROMPTS)):
        mine, other = (json.loads((tmp_path / d / f"000{k}" / "manifest.json").read_text()) for d in ("here", "there"))
        assert mine["settings"] == other["settings"] and mine["status"] == other["status"] == "done"
    starts = [events(tmp_path / "there" / f"000{k}")[0]["time"] for k in range(2)]
    ends = [events(tmp_path / "there" / f"000{k}")[-1]["time"] for k in range(2)]
    assert max(starts) < min(ends)


def test_one_that_fails_ends_the_others_and_all_go_on(flow, tmp_path):
    def reward(samples, prompts, at=None):
        if "blue" in prompts[0] and (tmp_path / "fails").exists():
            raise OSError("no more")
        return bright(samples, prompts)

    (tmp_path / "fails").touch()
    asked = {"reward": reward, "budget": "8x", "steps": 6, "batch_size": 2, "progress": False}
    with pytest.raises(OSError, match="no more"):
        es.search(flow, PROMPTS, run_dir=tmp_path / "set", **asked)
    (tmp_path / "fails").unlink()
    results = es.resume(tmp_path / "set", pipe=flow, reward=reward, progress=False)
    here = es.search("shapes-flow", PROMPTS, **asked)
    by_prompt = {result.settings["prompt"]: outcome(result)[0] for result in here}
    assert results and all(outcome(r)[0] == by_prompt[r.settings["prompt"]] for r in results)
    assert {json.loads((tmp_path / "set" / f"000{k}" / "manifest.json").read_text())["status"] for k in range(3)} == {
        "done"
    }


# What befalls workers.


def hired(tmp_path, reward, count=2, **more):
    """A search by workers of its own, into a folder."""
    asked = {"algorithm": "evosearch", "budget": 400, "run_dir": tmp_path / "run", **more}
    return toy.found(pipe=pictures(), reward=reward, workers=count, **asked)


def once(path, then):
    """A reward that does something the first time that it is asked, in whatever process."""

    def reward(samples, prompts):
        time.sleep(0.02)
        if path.exists():
            path.unlink()
            then()
        return bright(samples, prompts)

    path.touch()
    return reward


def broken():
    raise RuntimeError("CUDA error: device-side assert triggered")


@pytest.mark.parametrize(
    "then",
    [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(3), broken],
    ids=["killed", "exits", "device broken"],
)
def test_a_worker_that_is_lost_is_replaced_and_nothing_is_seen_of_it(tmp_path, then):
    whole = toy.found(pipe=pictures(), algorithm="evosearch", budget=400)
    found = hired(tmp_path, once(tmp_path / "once", then))
    assert outcome(found)[0] == outcome(whole)[0] and outcome(found)[1] == outcome(whole)[1]
    lost = [event for event in events(tmp_path / "run") if event["event"] == "worker lost"]
    assert len(lost) == 1 and lost[0]["reason"]
    numbers = [(row.kind, row.number) for row in rows_of(tmp_path / "run")]
    assert len(numbers) == len(set(numbers))


def test_workers_that_die_again_and_again_are_replaced(tmp_path):
    whole = toy.found(pipe=pictures(), algorithm="best_of_n", n=60, budget=None)

    def mortal(samples, prompts):
        mortal.age += 1
        if mortal.age == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return bright(samples, prompts)

    mortal.age = 0
    found = hired(tmp_path, mortal, algorithm="best_of_n", n=60, budget=None)
    assert outcome(found)[:2] == outcome(whole)[:2]
    assert sum(event["event"] == "worker lost" for event in events(tmp_path / "run")) >= 2


def children():
    """Workers that are up."""
    told = subprocess.run(["ps", "-o", "pid=", "--ppid", str(nursery().pid)], capture_output=True, text=True)
    return list(map(int, told.stdout.split()))


def test_a_worker_that_hangs_is_given_up_after_its_deadline(tmp_path):
    start = time.monotonic()
    whole = toy.found(pipe=pictures(), algorithm="evosearch", budget=400)
    stop = once(tmp_path / "once", lambda: os.kill(os.getpid(), signal.SIGSTOP))
    found = hired(tmp_path, stop, es.Workers(2, deadline=2.0))
    assert outcome(found)[:2] == outcome(whole)[:2]
    lost = [event for event in events(tmp_path / "run") if event["event"] == "worker lost"]
    assert len(lost) == 1 and "no sign of life for 2 s" in lost[0]["reason"]
    assert time.monotonic() - start < 60


def test_a_sample_that_costs_every_worker_its_life_has_no_score(tmp_path):
    asked = {"algorithm": "best_of_n", "n": 40, "budget": None}
    first, second, *_ = toy.found(pipe=pictures(), **asked).kept
    line = (first.reward + second.reward) / 2

    def deadly(samples, prompts):
        values = bright(samples, prompts)
        if (values > line).any():
            os._exit(1)
        return values

    found = hired(tmp_path, deadly, **asked)
    assert found.best == second
    assert found.invalid == 1 and found.cost.scored == 40


def test_a_reward_that_raises_ends_the_run_by_its_own_error(two):
    def wrong(samples, prompts):
        raise OSError("no light")

    with pytest.raises(OSError, match="no light"):
        toy.found(pipe=two, reward=wrong)


def test_a_defect_in_a_reward_is_told_with_its_trace(two):
    def wrong(samples, prompts):
        return int("light")

    with pytest.raises(RuntimeError, match=r"(?s)a worker failed.*in wrong.*invalid literal"):
        toy.found(pipe=two, reward=wrong)


def test_memory_that_does_not_suffice_there_halves_micro_batches_here():
    class Scarce(es.DenoiserSampler):
        def _denoise(self, trajectory, until):
            if len(trajectory.x) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return super()._denoise(trajectory, until)

    own = pictures()
    scarce = Scarce(own._denoiser, own.path, (3, 2, 2), decode=own._decoder, batch_size=4)
    asked = {"algorithm": "best_of_n", "n": 20, "budget": None}
    found = toy.found(pipe=scarce, workers=2, **asked)
    assert outcome(found)[0] == outcome(toy.found(pipe=pictures(), **asked))[0]  # of a toy, bits go by no shape


def test_a_search_that_ends_leaves_no_worker(tmp_path):
    others, until = set(children()), time.monotonic() + 40
    hired(tmp_path, bright, budget=20)
    while set(children()) - others and time.monotonic() < until:
        time.sleep(0.1)
    assert not set(children()) - others


def test_the_end_of_who_searches_is_theirs(tmp_path):
    script = tmp_path / "search.py"
    script.write_text(
        "import os, toy, time\n"
        "def slow(samples, prompts):\n"
        f"    open({str(tmp_path / 'pids')!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "    time.sleep(60)\n"
        "    return samples.flatten(1).mean(1)\n"
        "toy.found(reward=slow, workers=1, batch_size=2)\n"
    )
    running = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)})
    until = time.monotonic() + 60
    while not (tmp_path / "pids").exists() and time.monotonic() < until:
        time.sleep(0.1)
    running.kill()
    running.wait()
    pid, until = int((tmp_path / "pids").read_text().split()[0]), time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()


def test_no_trial_of_chaos_ends_as_none_may(tmp_path, monkeypatch):
    monkeypatch.setattr(chaos_workers, "STEPS", 5)
    told = str(chaos_workers.workers("shapes-flow", tmp_path, 1))
    ends = ", ".join(f"1 {what}, the same to the bit" for what in ("left alone", "killed", "stopped"))
    assert f"0 wrong: {ends}; killed, noticed after" in told


def test_chaos_sees_another_end(tmp_path, monkeypatch):
    """One that comes to something else, and one whose loss is noticed late."""
    own = chaos_workers.Judged("shapes-flow", tmp_path / "own")
    run = own.run()
    found = Trials("workers")
    chaos_workers._note(found, "left alone", own, run, outcome_of(run), len(own.lines), 0)
    assert found.wrong == 0
    chaos_workers._note(found, "left alone", own, run, "another", len(own.lines), 0)
    chaos_workers._note(found, "left alone", own, run, outcome_of(run), len(own.lines) - 4, 0)
    chaos_workers._note(found, "killed", own, run, outcome_of(run), len(own.lines), 4)
    assert found.wrong == 3


# Going on.


@pytest.mark.parametrize("first", [None, 2], ids=["alone", "workers"])
def test_a_run_goes_on_whoever_computed_before(tmp_path, first):
    asked = {"algorithm": "evosearch", "budget": 600}
    whole = toy.found(pipe=pictures(), **asked)

    def giving_up(samples, prompts):
        if (tmp_path / "scored").exists() and (tmp_path / "scored").stat().st_size > 30:
            raise Cut
        with (tmp_path / "scored").open("ab") as file:
            file.write(b"." * len(samples))
        return bright(samples, prompts)

    giving_up.__name__ = "bright"
    with pytest.raises(Cut):
        toy.found(pipe=pictures(), reward=giving_up, workers=first, run_dir=tmp_path / "run", **asked)
    (tmp_path / "scored").unlink()
    second = None if first else 2
    again = toy.found(pipe=pictures(), reward=bright, workers=second, run_dir=tmp_path / "run", resume=True, **asked)
    assert outcome(again)[:2] == outcome(whole)[:2]


def written(folder):
    """Calls in a journal so far."""
    return len(list(rows_of(folder))) if (folder / "run.db").exists() else 0


def test_ctrl_c_waits_for_the_micro_batches_at_hand(tmp_path):
    asked = ["generate", *PROMPTS[:1], "--model", "shapes-flow", "--budget", "24x", "--steps", "8"]
    asked += ["--batch-size", "4", "--quiet"]
    assert not CliRunner().invoke(cli.app, [*asked, "--out", str(tmp_path / "whole")]).exit_code
    command = [Path(sys.executable).with_name("evosearch"), *asked, "--workers", "2", "--out", tmp_path / "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        until = time.monotonic() + 120
        while time.monotonic() < until and written(tmp_path / "run") <= 3:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130 and "evosearch resume" in said
    before = written(tmp_path / "run")
    done = CliRunner().invoke(cli.app, ["resume", str(tmp_path / "run"), "--workers", "1"])
    assert done.exit_code == 0, done.stderr
    assert written(tmp_path / "run") > before
    mine, other = (json.loads((tmp_path / d / "manifest.json").read_text())["kept"] for d in ("run", "whole"))
    assert [(e["id"], e["reward"]) for e in mine] == [(e["id"], e["reward"]) for e in other]


# What is refused.


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"workers": "two"}, "workers must be a whole number of at least 1, got 'two'"),
        ({"pipe": "shapes-flwo", "workers": 2}, "did you mean 'shapes-flow'"),
        ({"reward": "shaeps", "workers": 2}, "did you mean 'shapes'"),
        ({"algorithm": "reno", "workers": 2}, "reno follows gradients"),
        ({"reward": threading.Lock().acquire, "workers": 1}, "cannot be copied"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_hired(asked, told, monkeypatch):
    if "copied" not in told:
        monkeypatch.setattr(processes, "ProcessLane", None)
    with pytest.raises(ValueError, match=told):
        toy.found(**asked)


def test_workers_that_are_hired_already_are_not_hired_again(two):
    with pytest.raises(ValueError, match="has been given workers by hire"):
        toy.found(pipe=two, workers=2)


def test_a_model_that_cannot_be_loaded_is_told_as_if_it_were_loaded_here(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline", "vae": ["diffusers", "AutoencoderKL"]}')
    with pytest.raises(ValueError, match="is not complete: it has no vae"):
        es.search(str(tmp_path), "a", "jpeg", workers=1, progress=False)


def test_a_nursery_whose_answer_is_not_waited_for_is_given_up(monkeypatch):
    own = nursery()

    class Impatient:
        closed = False

        def send(self, question):
            raise KeyboardInterrupt

        def close(self):
            self.closed = True

    monkeypatch.setattr(own, "_pipe", Impatient())
    with pytest.raises(KeyboardInterrupt):
        own.code(1)
    assert not own.usable


def test_the_code_of_a_worker_that_could_not_begin_is_known(tmp_path):
    own, (here, there) = nursery(), socket.socketpair()
    with here, there:
        worker = own.start(there.fileno(), Place(dict(os.environ), sys.path, str(tmp_path / "gone")))
        assert own.code(worker) == 1
        own.kill(worker)
        assert own.code(worker) == 1 and own.code(-1) is None


class Silent:
    """A worker that dies at once."""

    def ask(self, question, patience):
        raise WorkerLost("no more")

    def stop(self):
        pass

    close = stop


def test_a_pool_of_which_nobody_starts_says_why():
    with pytest.raises(WorkerLost, match="no more"):
        Pool(lambda number: Silent(), 2)


def test_workers_that_would_give_other_bits_are_refused():
    hire = processes.hire(Setup(pictures(), {}, 1, backends()), 0)
    other = processes.hire(Setup(pictures(), {}, 2, backends()), 0)
    told, first = [], threading.Event()

    def make(number):
        if number:
            first.wait()
        return (other if number else hire)(number)

    pool = Pool(make, 2)
    pool.listen(lambda kind, facts: told.append((kind, facts)))
    first.set()
    until = time.monotonic() + 60
    while not told and time.monotonic() < until:
        time.sleep(0.1)
    pool.close()
    ((kind, facts),) = told
    assert kind == "worker refused" and "threads is 2 there, 1 in the first" in facts["reason"]


def test_questions_that_kill_are_not_asked_for_ever():
    with es.hire(pictures(), workers=1) as pipe:
        name = pipe.pool.define(lambda samples, prompts: os._exit(1))
        with pytest.raises(Deadly, match="has cost 3 workers their lives"):
            pipe.pool.ask("judge", (name, 0, None), torch.zeros(1, 3, 2, 2, dtype=torch.uint8), [""], about=(name,))
        assert pipe.pool.ask("about", about=(name,)).traits.sampler
