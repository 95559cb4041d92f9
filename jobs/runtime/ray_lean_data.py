"""Ray Data on one machine without the actors that only a cluster or a dashboard needs.

Beside the actors of a pool it starts three of its own, each a process that imports all of Ray Data:
for figures that the dashboard draws, for nodes to ask the autoscaler for, and for the nodes that
actors have come to lie on. On two cores they cost 2.7 CPU seconds before the first image, and its
executor waits for the last. There is no setting for that; see `ray_lean`.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray

from jobs.runtime.ray_lean import Exchange, exchanged

INSIDE = "ray.data._internal"


@contextmanager
def lean_data() -> Iterator[None]:
    """Datasets that run in the block have the actors of their pools, and no others."""
    manager = _found("stats", "_StatsManager")
    pools = _found("execution.operators.actor_pool_map_operator")
    untold = staticmethod(lambda *args, **named: None)
    wanted: list[Exchange] = [
        (manager, "register_dataset_to_stats_actor", untold),
        (manager, "update_execution_metrics", untold),
        (manager, "update_iteration_metrics", untold),
        (pools, "get_or_create_actor_location_tracker", NoTracker),
        (pools, "get_actor_locations", lambda actors: {}),  # they stay on the node they began on
    ]
    if hasattr(_found("cluster_autoscaler", "AutoscalingCoordinator"), "get_reserved_resources"):
        autoscaler = _found("cluster_autoscaler.rate_based_cluster_autoscaler")
        wanted.append((autoscaler, "DefaultAutoscalingCoordinator", WholeMachine))
    with exchanged(wanted):
        yield


class NoTracker:
    """In place of an actor that would be told where the actors of a pool are; goes to these."""

    class update_actor_location:  # noqa: N801, the name that Ray calls
        @staticmethod
        def remote(*args: Any, **named: Any) -> None:
            """Nobody asks."""


class WholeMachine:
    """In place of a client of the autoscaler: there is this machine, and all of it."""

    def __init__(self, *args: Any, **named: Any) -> None:
        alive = [node for node in ray.nodes() if node["Alive"]]
        self.resources = {node["NodeID"]: node["Resources"] for node in alive}

    def request_resources(self, *args: Any, **named: Any) -> None:
        """There is no more to be had."""

    def cancel_request(self) -> None:
        """None was made."""

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        """Resources by node."""
        return self.resources


def _found(module: str, name: str = "") -> Any:
    """A module of Ray Data or what it holds; None in a version without."""
    with suppress(ImportError):
        found = importlib.import_module(f"{INSIDE}.{module}")
        return getattr(found, name, None) if name else found
    return None
