"""What befalls a run: it is killed, its files are damaged, its disk is full, its memory does not suffice, two want it.

Every trial ends in one of a few ways, which are counted; none may be a wrong result. Runs are of a bundled pipeline,
each in a process of its own, forked from one that has the model already.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from evosearch import models, rows
from evosearch.bench import chaos_workers
from evosearch.bench.trials import BUDGET, PROMPT, STEPS, Trials, fresh, outcome
from evosearch.decoding import eight_bit
from evosearch.digests import digest
from evosearch.hooks import rows_of
from evosearch.journal import Answer, Call
from evosearch.ledger import RunJournal
from evosearch.lock import Taken
from evosearch.rewards import load as load_reward
from evosearch.run import search
from evosearch.store import RunFolder

SEARCHES = ("evosearch", "best_of_n", "particles", "demon", "svdd", "zero_order")
_OF_A_RUN = {"manifest.json", "log.jsonl", "run.db", "run.lock"}
_FILLED_BY_OTHERS = "from evosearch import cli, disk; disk.check_room = lambda *_: None; cli.app()"
_SAID = (ValueError, OSError)  # errors that are a sentence


class Searched:
    """One search of a bundled pipeline, to be run again and again.

    Args:
        pipe: The pipeline.
        algorithm: The search.
        asked: File that every score that is computed leaves a line in.
    """

    def __init__(self, pipe: Any, algorithm: str, asked: Path) -> None:
        self._pipe, self._algorithm, self._asked = pipe, algorithm, asked
        self._judge = load_reward("shapes")

    def run(self, folder: Path) -> None:
        """Begin it in a folder, or go on."""

        def reward(samples: torch.Tensor, prompts: list[str]) -> torch.Tensor:
            lines = [digest(sample).hex() for sample in eight_bit(samples)]
            with self._asked.open("ab", buffering=0) as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
            return self._judge(samples, prompts)

        search(self._pipe, PROMPT, reward, self._algorithm, BUDGET, steps=STEPS, run_dir=folder, resume=True,
               progress=False, batch_size=4)  # fmt: skip

    @property
    def asked(self) -> list[str]:
        """The samples that were scored so far."""
        return self._asked.read_text().split() if self._asked.exists() else []


def kills(model: str, out: Path, trials: int, searches: Sequence[str] = SEARCHES, seed: int = 0) -> Trials:
    """Kill runs at random times, again and again, until each is done; the ends are those of the runs.

    Counted as wrong: an end that is not that of a run that was left alone, and scores that were computed twice though
    they were in the journal.
    """
    found, rng, pipe = Trials("kills"), random.Random(seed), models.load(model)
    each = -(-trials // len(searches))
    lost = 0
    for algorithm in searches:
        place = fresh(out / f"kills-{algorithm}")
        own = Searched(pipe, algorithm, place / "asked")
        start = time.perf_counter()
        _child(lambda own=own, place=place: own.run(place / "whole"))
        seconds, done, count = time.perf_counter() - start, outcome(place / "whole"), 0
        calls = len(own.asked)
        while count < each:
            (place / "asked").unlink(missing_ok=True)
            run, kept, twice = fresh(place / "run"), set[str](), 0
            while True:
                before = len(own.asked)
                pid = _forked(lambda own=own, run=run: own.run(run))
                ended = _ends_within(pid, rng.uniform(0, seconds / 3)) if count < each else _ends_within(pid, None)
                twice += sum(line in kept for line in own.asked[before:])
                if ended:
                    break
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                count += 1
                if (run / "run.db").exists():
                    kept |= {line for line in own.asked if line in _journaled(run)}
            same = outcome(run) == done
            lost += len(own.asked) - calls
            found.ends["runs, the same to the bit" if same and not twice else "runs, another"] += 1
            found.wrong += not same or twice > 0
        found.figures["killed"] = f"{int(found.figures.get('killed', '0')) + count}"
    found.figures["scored again after a kill"] = f"{lost:,} samples, none of them in a journal"
    return found


def damages(model: str, out: Path, trials: int, seed: int = 0) -> Trials:
    """Flip bits, cut files short and delete them in a run that was cut off, and go on."""
    found, rng, place = Trials("damages"), random.Random(seed), fresh(out / "damages")
    own = Searched(models.load(model), "evosearch", place / "asked")
    own.run(place / "whole")
    done, cut = outcome(place / "whole"), place / "cut"
    while not (cut / "run.db").exists() or len(list(rows.rows_of(cut))) < 30:
        pid = _forked(lambda: own.run(cut))
        if _ends_within(pid, 0.6):
            fresh(cut)
            continue
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for _ in range(trials):
        run = fresh(place / "run")
        run.rmdir()
        shutil.copytree(cut, run)
        what = _damage(rng.choice(sorted(path for path in run.rglob("*") if path.is_file())), rng)
        try:
            own.run(run)
            end = f"{what}: the same to the bit" if outcome(run) == done else f"{what}: ANOTHER RESULT"
        except _SAID as error:
            end = f"{what}: refused" if "\n" not in str(error) else f"{what}: NO SENTENCE"
        except Exception as error:
            end = f"{what}: {type(error).__name__}"
        found.ends[end] += 1
        found.wrong += not end.endswith(("refused", "the same to the bit"))
    return found


def races(out: Path, trials: int) -> Trials:
    """Let two processes want one run at the same time."""
    found, place = Trials("races"), fresh(out / "races")
    for k in range(trials):
        run, gate = place / str(k), time.time() + 0.05

        def want(run: Path = run, gate: float = gate) -> None:
            time.sleep(max(0.0, gate - time.time()))
            try:
                folder = RunFolder(run, {"prompt": "p"}, resume=True)
            except (Taken, ValueError):
                os._exit(3)
            time.sleep(0.05)
            folder.finish(None, "failed")

        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in [_forked(want), _forked(want)]]
        end = "one winner" if sorted(codes) == [0, 3] else f"exit codes {sorted(codes)}"
        found.ends[end] += 1
        found.wrong += end != "one winner"
    return found


def full_disks(model: str, out: Path, trials: int) -> Trials:
    """Run on small disks, each a little larger than the one before; then go on on a large one."""
    found, place = Trials("full disks"), fresh(out / "disks")
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        found.ends["not tried: no user namespaces here"] += 1
        return found
    asked = f"--model {model} --budget {BUDGET} --steps {STEPS} --quiet --resume --out"
    command = [sys.executable, "-c", _FILLED_BY_OTHERS, "generate", PROMPT, *asked.split()]
    subprocess.run([*command, str(place / "whole")], check=True, capture_output=True)
    done = outcome(place / "whole")
    most = sum(path.stat().st_size for path in (place / "whole").rglob("*") if path.is_file())
    for k in range(trials):
        run, disk = place / f"run-{k}", place / f"disk-{k}"
        disk.mkdir()
        size = 60_000 + most * (k + 1) // (trials + 1)
        words = " ".join(f"'{word}'" for word in [*command, str(disk / "run")])
        script = (
            f"mount -t tmpfs -o size={size} disk {disk} || exit 9; {words}; code=$?; cp -r {disk}/run {run}; exit $code"
        )
        ended = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
        if ended.returncode == 74 and "Traceback" not in ended.stderr:
            again = subprocess.run([*command, str(run)], capture_output=True, check=False)
            same = not again.returncode and outcome(run) == done
            end = "exit 74, then the same to the bit" if same else "ANOTHER END"
        else:
            end = f"exit {ended.returncode}"
        found.ends[end] += 1
        found.wrong += end != "exit 74, then the same to the bit" and ended.returncode != 0
    return found


def memories(model: str, trials: int) -> Trials:
    """Let memory not suffice at calls of denoiser and decoder, evenly spread, until one particle is left."""
    found, pipe = Trials("memory"), models.load(model)
    parts = {"denoiser": pipe.components.get("unet") or pipe.components["transformer"], "decoder": pipe.vae.decoder}
    layers = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
    sites = {name: next(m for m in part.modules() if isinstance(m, layers)) for name, part in parts.items()}

    def run() -> None:
        search(pipe, PROMPT, "shapes", "evosearch", "6x", steps=STEPS, progress=False, batch_size=4)

    for name, module in sites.items():
        calls = _calls(module, run)
        for k in range(0, calls, max(1, calls // trials)):
            finished = _calls(module, run, failing=k) > 0
            found.ends[f"{name}: {'finished' if finished else 'FAILED'}"] += 1
            found.wrong += not finished
    return found


def _calls(module: torch.nn.Module, run: Callable[[], None], failing: int | None = None) -> int:
    """Calls of a layer in a run, those from one on failing while they are of several particles; -1 where it fails."""
    count = 0

    def hook(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if failing is not None and count > failing and rows_of(args, kwargs) > 2:  # guidance takes a particle twice
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        run()
    except Exception:
        return -1
    finally:
        handle.remove()
    return count


def names(out: Path, trials: int, seed: int = 0) -> Trials:
    """Runs of hostile prompts: nothing is written but within their folders, and nobody else may look."""
    found, rng, place = Trials("names"), random.Random(seed), fresh(out / "names")
    parts = [
        "../",
        "/etc/passwd",
        "\0",
        "\n",
        "%2e%2e/",
        "~",
        "$HOME",
        "`id`",
        "\\..\\",
        "\udc80",
        "COM1",
        "a",
        " ",
        ".",
    ]
    for k in range(trials):
        prompt = "".join(rng.choices(parts, k=rng.randint(1, 12)))
        folder = RunFolder(place / f"{k}", {"prompt": prompt})
        folder.log("generation", prompt=prompt)
        folder.finish(None, "failed")
        within = {path.name for path in (place / f"{k}").iterdir()} <= _OF_A_RUN
        private = (place / f"{k}").stat().st_mode & 0o077 == 0
        found.ends["within and private" if within and private else "ESCAPED OR OPEN"] += 1
        found.wrong += not (within and private)
        shutil.rmtree(place / f"{k}")
    found.wrong += any(place.iterdir())
    return found


def store_cost(out: Path, calls: int = 10, seconds: float = 1.0, size: int = 4 * 2**20) -> Trials:
    """What the journal takes of the time of micro-batches of so many seconds and bytes of states."""
    found, place = Trials("store"), fresh(out / "store")
    journal, states, held = RunJournal(place), torch.randn(size // 4), 0.0
    for _ in range(calls):
        time.sleep(seconds)
        start = time.perf_counter()
        call: Call = journal.call("run", "asked")
        journal.keep(call, Answer(0.0, {"nfe": 1}, {"20.x": states.clone()}))
        held += time.perf_counter() - start
    start = time.perf_counter()
    journal.close()
    found.ends["micro-batches journaled"] = calls
    share = held / (calls * seconds)
    found.figures[f"of {seconds:g} s and {size / 2**20:g} MiB each: of the time"] = f"{share:.3%}"
    found.figures["the last of it written after"] = f"{time.perf_counter() - start:.3f} s"
    found.wrong = int(share > 0.01)
    return found


def all_trials(model: str, out: Path, *, long: bool) -> Iterator[Trials]:
    """All kinds of trials of a bundled pipeline of pictures, in their long or their short form."""
    yield kills(model, out, 240 if long else 12)
    yield damages(model, out, 1000 if long else 20)
    yield races(out, 100 if long else 10)
    yield full_disks(model, out, 20 if long else 1)
    yield memories(model, 40 if long else 4)
    yield names(out, 10_000 if long else 100)
    yield chaos_workers.workers(model, out, 10 if long else 1)
    yield chaos_workers.nodes(model, out, 3 if long else 1)
    yield store_cost(out, 20 if long else 5, 1.0 if long else 0.2)


def _damage(path: Path, rng: random.Random) -> str:
    """Damage a file in one of three ways; which."""
    data = bytearray(path.read_bytes())
    way = rng.choice(("flip", "cut", "delete")) if data else "delete"
    kind = "blob" if path.suffix == ".safetensors" else path.name.partition("-")[0]
    if way == "delete":
        path.unlink()
    else:
        if way == "flip":
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
    return f"{kind}, {way}"


def _journaled(run: Path) -> set[str]:
    """Samples whose scores are in the journal, by the digest that `Searched` writes."""
    found = set[str]()
    for row in rows.rows_of(run):
        if row.kind == "score" and row.whole:
            found |= set(json.loads(row.facts)["digests"])
    return found


def _forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def _child(work: Callable[[], None]) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(_forked(work), 0)[1])
    if code:
        raise RuntimeError(f"a run that was left alone ended with {code}")


def _ends_within(pid: int, seconds: float | None) -> bool:
    """Whether a child ends by itself in so many seconds."""
    until = None if seconds is None else time.perf_counter() + seconds
    while until is None or time.perf_counter() < until:
        done, status = os.waitpid(pid, os.WNOHANG if until is not None else 0)
        if done:
            if code := os.waitstatus_to_exitcode(status):
                raise RuntimeError(f"a run that went on ended with {code}")
            return True
        time.sleep(0.002)
    return False
