"""The nodes of a Ray cluster: how many, what they have for workers, which folders they share."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.runtime.storage import S3

logger = logging.getLogger(__name__)

WORKERS_S = 900.0
"""that the first node with CPUs may take to come: machines are started, images pulled"""
POLL_S = 1.0

Node = Mapping[str, Any]
"""one of `ray.nodes()`"""


def nodes_alive() -> list[Node]:
    """Nodes of the cluster that are alive."""
    return [node for node in cast(list[dict[str, Any]], ray.nodes()) if node["Alive"]]


def num_nodes() -> int:
    """Machines of the cluster that are alive."""
    return len(nodes_alive())


def for_workers(nodes: Sequence[Node]) -> list[Node]:
    """Those that are alive and have CPUs: the head of a cluster often is kept free of work."""
    return [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]


def await_workers() -> None:
    """Wait until the cluster has CPUs: one that was just started is a head and nothing else."""
    deadline = time.monotonic() + WORKERS_S
    told = False
    while not for_workers(nodes_alive()) and time.monotonic() < deadline:
        if not told:
            logger.info("ray: no node has a CPU yet; waiting up to %.0f min", WORKERS_S / 60)
            told = True
        time.sleep(POLL_S)


def refuse_unshared(paths: Mapping[str, str]) -> None:
    """Raise ValueError where a local path, by the option it was given with, is not everywhere.

    Workers read and write there from whichever node they are on. Paths on S3, and what is not here
    either, are passed over. Costs nothing where there is one node.
    """
    here_too = {name: path for name, path in paths.items() if os.path.exists(path)}
    local = {name: path for name, path in here_too.items() if not path.startswith(S3)}
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in for_workers(nodes_alive()) if node["NodeID"] != here]
    if not local or not others:
        return
    asked = [_which_exist.options(scheduling_strategy=_on(node)).remote(local) for node in others]
    lacking: dict[str, list[str]] = {name: [] for name in local}
    for node, answer in zip(others, asked, strict=True):
        try:
            there = ray.get(answer)
        except RayError as lost:  # the node went meanwhile
            logger.warning("ray: node %s did not answer: %s", node["NodeManagerAddress"], lost)
            continue
        for name in local.keys() - there:
            lacking[name].append(node["NodeManagerAddress"])
    for name, addresses in lacking.items():
        if addresses:
            raise ValueError(
                f"{name}: {local[name]} is not there on {len(addresses)} of {len(others)} other "
                f"nodes ({', '.join(addresses[:3])}); give a folder that all share, or s3://…"
            )


def _on(node: Node) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


@ray.remote(num_cpus=0)
def _which_exist(paths: Mapping[str, str]) -> set[str]:
    return {name for name, path in paths.items() if os.path.exists(path)}
