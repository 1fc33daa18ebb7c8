"""A search on a Ray cluster of two nodes, of which one is killed on the way and another one joins; prints what came."""

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import ray
import torch
from ray.cluster_utils import Cluster

import evosearch as es

folder = Path(sys.argv[1])
torch.set_num_threads(1)
ASKED = {
    "prompt": "two red circles", "budget": "24x", "steps": 4, "batch_size": 4, "progress": False,
    "held_out": ["jpeg"],
}  # fmt: skip


def reward(samples, prompts):
    """Mean lightness, and a trace of it."""
    with (folder / "scored").open("ab") as file:
        file.write(b"." * len(samples))
    time.sleep(0.5)
    return samples.flatten(1).mean(1)


def scored():
    """How many samples so far."""
    return (folder / "scored").stat().st_size if (folder / "scored").exists() else 0


def outcome(result):
    """What has to be the same."""
    kept = [(s.id, s.reward, s.held_out["jpeg"], s.sample.tobytes().hex()[:400]) for s in result.kept]
    return kept, result.cost.nfe, result.cost.reward_calls, [(nfe, best) for nfe, _, best in result.curve]


here = es.search("shapes-flow", reward=reward, **ASKED)
once = scored()
(folder / "scored").unlink()
with tempfile.TemporaryDirectory(prefix="ray-") as temp:
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "temp_dir": temp}
    )
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    killed = []

    def trouble():
        """Kill a node once the search is under way, and add another."""
        while scored() < 8:
            time.sleep(0.05)
        killed.append(time.time())
        cluster.remove_node(nodes[0], allow_graceful=False)
        cluster.add_node(num_cpus=1)

    threading.Thread(target=trouble, daemon=True).start()
    there = es.search("shapes-flow", reward=reward, workers=es.Workers(ray="auto"), run_dir=folder / "run", **ASKED)
    events = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    ray.shutdown()
    cluster.shutdown()
lost = [event for event in events if event["event"] == "worker lost"]
print(json.dumps({"same": outcome(there) == outcome(here), "killed": killed, "lost": lost, "again": scored() - once}))
