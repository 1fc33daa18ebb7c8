"""What befalls workers in mid-search: they are killed, they hang, their machine is gone and another comes."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evosearch.bench.trials import BUDGET, PROMPT, STEPS, Trials, fresh, outcome
from evosearch.decoding import eight_bit
from evosearch.digests import digest
from evosearch.executors.hiring import Workers
from evosearch.rewards import load as load_reward
from evosearch.run import search

DEADLINE = 2.0  # seconds, of those that hang
_NOTICED = {"killed": 5.0, "stopped": DEADLINE + 8.0, "node killed": 5.0}  # seconds after which it has to be
_AT = 4  # samples that are scored before anything befalls anybody


class Judged:
    """A search whose reward leaves a line for each sample that it scores, and does something else once.

    Args:
        model: Name of the pipeline.
        folder: Where to run.
        befalls: What to do, once, in the process that scores.
        pause: Seconds that a score takes beside its own.

    Attributes:
        befell: When it was done, in seconds since 1970.
    """

    def __init__(self, model: str, folder: Path, befalls: Callable[[], None] | None = None, pause: float = 0.0) -> None:
        self._model, self.folder, self._befalls, self._pause = model, fresh(folder), befalls, pause
        self._lines, self._once, self.befell = folder / "scored", folder / "once", 0.0

    @property
    def lines(self) -> list[str]:
        """The samples that were scored so far, by their digests."""
        return self._lines.read_text().split() if self._lines.exists() else []

    @property
    def is_time(self) -> bool:
        """Whether as many samples were scored as are to be before it is done."""
        return self._once.exists()

    def run(self, **how: Any) -> Path:
        """Search; returns the run folder."""
        lines, once, befalls, pause = self._lines, self._once, self._befalls, self._pause

        def reward(samples: Any, prompts: list[str]) -> Any:
            before = len(lines.read_text().split()) if lines.exists() else 0
            if befalls is not None and before >= _AT and not once.exists():
                once.touch()
                befalls()
            time.sleep(pause)
            found = load_reward("shapes")(samples, prompts)
            with lines.open("ab", buffering=0) as file:
                file.write("".join(f"{digest(sample).hex()}\n" for sample in eight_bit(samples)).encode())
            return found

        run = self.folder / "run"
        search(self._model, PROMPT, reward, "evosearch", BUDGET, steps=STEPS, batch_size=4, progress=False,
               run_dir=run, **how)  # fmt: skip
        if once.exists():
            self.befell = self.befell or once.stat().st_mtime
        return run


def workers(model: str, out: Path, trials: int) -> Trials:
    """Two workers, left alone, killed and stopped; against one process."""
    found = Trials("workers")
    alone = Judged(model, out / "workers" / "alone")
    whole = outcome(alone.run())
    befalling: dict[str, Callable[[], None] | None] = {"left alone": None, "killed": _kill, "stopped": _stop}
    for _ in range(trials):
        for what, befalls in befalling.items():
            own = Judged(model, out / "workers" / what, befalls)
            run = own.run(workers=Workers(2, deadline=DEADLINE if what == "stopped" else None))
            _note(found, what, own, run, whole, len(alone.lines), 0 if befalls is None else 4)
    return found


def nodes(model: str, out: Path, trials: int) -> Trials:
    """Two nodes of a Ray cluster, one of which is killed while another joins; against one process."""
    found = Trials("nodes of Ray")
    if find_spec("ray") is None:
        found.ends["not tried: Ray is not installed"] += 1
        return found
    alone = Judged(model, out / "nodes" / "alone")
    whole = outcome(alone.run())
    for _ in range(trials):
        own = Judged(model, out / "nodes" / "killed", lambda: None, pause=0.3)
        with _cluster() as (cluster, first), ThreadPoolExecutor(1) as elsewhere:
            searched = elsewhere.submit(own.run, workers=Workers(ray="auto"))
            while not own.is_time and not searched.done():
                time.sleep(0.02)
            own.befell = time.time()
            cluster.remove_node(first, allow_graceful=False)  # which Ray does in the first thread alone
            cluster.add_node(num_cpus=1)
            run = searched.result()
        _note(found, "node killed", own, run, whole, len(alone.lines), 4)
    return found


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _note(found: Trials, what: str, own: Judged, run: Path, whole: str, scored: int, at_hand: int) -> None:
    """Count a trial, by its end, by how often samples were scored, and by when the loss was noticed."""
    again = len(own.lines) - scored
    same = outcome(run) == whole and again in {0, at_hand}
    events = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    lost = [event for event in events if event["event"] == "worker lost"]
    if what in _NOTICED:
        late = datetime.fromisoformat(lost[0]["time"]).timestamp() - own.befell if lost else float("inf")
        same = same and late <= _NOTICED[what]
        found.figures[f"{what}, noticed after"] = f"{late:.1f} s"
    found.ends[f"{what}, the same to the bit" if same else f"{what}, ANOTHER END"] += 1
    found.wrong += not same


@contextmanager
def _cluster() -> Generator[tuple[Any, Any]]:
    """A Ray cluster on this machine with two nodes of one processor each; and the first of them."""
    import ray
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-") as temp:
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": temp}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        both = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            yield cluster, both[0]
        finally:
            ray.shutdown()
            cluster.shutdown()
