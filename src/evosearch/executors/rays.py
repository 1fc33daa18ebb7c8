"""Workers on a Ray cluster, an actor each: Ray places them and notices lost nodes, all else is the pool's.

Ray runs what anybody who reaches its ports sends it. So a cluster without a token is refused unless it is asked for.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from evosearch.checks import first_line
from evosearch.executors.pool import Lane, Pool, WorkerLost
from evosearch.executors.worker import Setup

if TYPE_CHECKING:
    from evosearch.executors.hiring import Workers

_EVERY = 1.0  # seconds between looks at a worker that computes
_JOINS = 2.0  # seconds between looks at who has joined
# A frozen node is declared dead after 6 seconds instead of 63, in clusters that we start.
_HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


class RayLane:
    """One actor.

    Args:
        setup: What it is to load, pickled.
        devices: Accelerators that each has; a CPU if none.
        threads: Of torch.
    """

    def __init__(self, setup: bytes, devices: int, threads: int) -> None:
        ray: Any = import_module("ray")
        place: dict[str, Any] = {"num_gpus": devices} if devices else {"num_cpus": 1}
        environment = {"env_vars": {"OMP_NUM_THREADS": str(threads), "RAY_USAGE_STATS_ENABLED": "0"}}
        made = _actor().options(max_restarts=0, max_task_retries=0, runtime_env=environment, **place)
        self._ray, self._actor, self._stopped = ray, made.remote(setup), False

    def ask(self, question: bytes, patience: float) -> tuple[bytes, float]:
        """See `evosearch.executors.pool.Lane`; Ray itself never notices a worker that hangs."""
        ray, silence, last, beats = self._ray, 0.0, time.monotonic(), -1
        try:
            asked, pulse = self._actor.do.remote(question), self._actor.pulse.remote()
            while not self._stopped:
                ready, _ = ray.wait([asked], timeout=_EVERY)
                now = time.monotonic()
                if ready:
                    return ray.get(asked), max(silence, now - last)
                if ray.wait([pulse], timeout=0)[0]:
                    heard, pulse = ray.get(pulse), self._actor.pulse.remote()
                    if heard != beats:
                        silence, last, beats = max(silence, now - last), now, heard
                if now - last > patience:
                    self.close()
                    raise WorkerLost(f"no sign of life for {patience:.0f} s")
            raise WorkerLost("it was stopped")
        except ray.exceptions.RayError as error:
            self.close()
            raise WorkerLost(f"its actor is gone ({type(error).__name__})") from error

    def stop(self) -> None:
        """See `evosearch.executors.pool.Lane`."""
        self._stopped = True

    def close(self) -> None:
        """See `evosearch.executors.pool.Lane`."""
        if self._ray.is_initialized():  # else it would connect again
            with suppress(Exception):
                self._ray.kill(self._actor)


def _actor() -> Any:
    ray: Any = import_module("ray")

    class Actor:
        """A worker, and beside it what says whether it lives."""

        def __init__(self, setup: bytes) -> None:
            from evosearch.executors.worker import Desk

            self._desk, self._beats = Desk(setup, self._beat), 0

        def do(self, question: bytes) -> bytes:
            return self._desk(question)

        @ray.method(concurrency_group="pulse")
        def pulse(self) -> int:
            return self._beats

        def _beat(self) -> None:
            self._beats += 1

    return ray.remote(concurrency_groups={"pulse": 1})(Actor)


@contextmanager
def pool(setup: Setup, address: str, asked: Workers) -> Generator[Pool]:
    """Workers on a cluster, for the length of a ``with`` block; those that join later are hired, too.

    Args:
        setup: What they are to load.
        address: Of the cluster, ``auto`` for the one of this machine, ``local`` for one that is started here.
        asked: How many, and what else is asked of them.

    Raises:
        ValueError: Ray is not installed, there is no such cluster, or it has no token.
    """
    if find_spec("ray") is None:
        raise ValueError("ray needs Ray; install it with: pip install 'evosearch[ray]'")
    packed = cloudpickle.dumps(setup)
    with ExitStack() as stack:
        ray: Any = stack.enter_context(_connected(address, asked.insecure))
        devices = 1 if ray.cluster_resources().get("GPU", 0) else 0

        def room() -> int:
            return int(ray.cluster_resources().get("GPU" if devices else "CPU", 0))

        def make(index: int) -> Lane:
            del index
            return RayLane(packed, devices, setup.threads)

        if asked.number is None and not room():
            raise ValueError(f"ray cluster {address!r} has neither a GPU nor a CPU to give; name another one")
        width = room if asked.number is None else asked.number
        workers = Pool(make, width, deadline=asked.deadline, mixed=asked.mixed)
        stack.callback(workers.close)
        stack.enter_context(_joined(workers.refresh))
        yield workers


@contextmanager
def _joined(refresh: Callable[[], None]) -> Generator[None]:
    """Within, look who has joined."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_JOINS):
            with suppress(Exception):  # the cluster may be away for a moment
                refresh()

    threading.Thread(target=look, name="joins", daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def _connected(address: str, insecure: bool) -> Generator[Any]:
    """Ray, connected to a cluster; as it is, where it has been connected before."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield sys.modules["ray"]
        return
    with ExitStack() as stack:
        options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "warning"}
        # Ray reads what is in the environment when it is imported.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if address == "local":
            own = Path(tempfile.mkdtemp(prefix="evo-ray-"))  # 0700; short, since sockets lie in it
            stack.callback(shutil.rmtree, own, ignore_errors=True)
            _use_token(own / "token", make=True)
            options |= {"include_dashboard": False, "_temp_dir": str(own), "_system_config": _HEALTH}
        elif not insecure:
            _use_token(Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser(), make=False)
        ray: Any = import_module("ray")
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ValueError(
                f"ray cluster {address!r} cannot be reached ({first_line(error)}); start it with a token, as "
                "docs/cluster.md says, or name another one"
            ) from error
        stack.callback(ray.shutdown)
        yield ray


def _use_token(path: Path, make: bool) -> None:
    """Have Ray ask for a token, and give this one."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        raise ValueError(
            f"ray must ask for a token, but RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']!r}: anybody who reaches the "
            "cluster can have it run anything; unset it, or say that this is meant (insecure)"
        )
    if make:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    elif not (path.is_file() or os.environ.get("RAY_AUTH_TOKEN")):
        raise ValueError(
            f"ray must be given the token of its cluster, but {path} does not exist; copy it there, or name it by "
            "RAY_AUTH_TOKEN_PATH"
        )
    elif path.is_file() and path.stat().st_mode & 0o077:
        raise ValueError(f"ray token {path} can be read by others; close it with: chmod 600 {path}")
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
