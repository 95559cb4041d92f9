"""A training on a cluster of which the worker's node dies; run in a process of its own.

python -m tests.jobs.lose_a_node PHOTOS OUT
"""

import os
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from jobs.runtime.training import TrainingResources
from jobs.train_classifier import TASK
from tests.jobs.broken_off import fit_with
from tests.jobs.coloured import long_epochs

STEPS = 13
DEADLINE_S = 120.0


def wait_for_the_end(told: Path) -> None:
    """The first worker that comes here says where it is, and stays."""
    if not told.exists():
        told.write_text(ray.get_runtime_context().get_node_id())
        time.sleep(2 * DEADLINE_S)


def main(photos: Path, out: Path) -> None:
    """Train; end the node of the worker at a step behind a checkpoint."""
    # no worker on the head, which stays
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    lost = []
    assert cluster.address
    os.environ["RAY_ADDRESS"] = cluster.address
    told = out.with_suffix(".node")

    def end_that_node() -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not told.exists() or not told.read_text():
            assert time.monotonic() < deadline, "no worker came to the step"
            time.sleep(0.05)
        lost.extend(node for node in nodes if node.node_id == told.read_text())
        cluster.remove_node(lost[0], allow_graceful=False)

    killer = threading.Thread(target=end_that_node)
    killer.start()
    resources = TrainingResources(engine="ray", cpus_per_worker=1, checkpoint_every_s=0)
    config = replace(long_epochs(photos, out), resources=resources)
    fit_with(config, TASK, STEPS, partial(wait_for_the_end, told))
    killer.join()
    assert lost, "the worker was on no node that could be lost"
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
