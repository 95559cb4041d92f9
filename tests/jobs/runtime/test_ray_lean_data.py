"""On a quiet local Ray a run has the actors of its pool; on a verbose one Ray Data's own too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from pathlib import Path
import ray
from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler
from ray.data._internal.execution.operators import actor_pool_map_operator
from ray.data._internal.stats import _StatsManager
from jobs.runtime.resources import Resources
from tests.jobs.runtime.toy import make_pictures, run_toy

def exchanged():
    return (
        rate_based_cluster_autoscaler.DefaultAutoscalingCoordinator,
        actor_pool_map_operator.get_actor_locations,
        _StatsManager.update_execution_metrics,
    )

usual = exchanged()
folder, verbose = Path(sys.argv[1]), sys.argv[2] == "verbose"
resources = Resources(engine="ray", num_cpus=2, batch_size=7, verbose=verbose)
_, run = run_toy(make_pictures(folder / "in", 12), folder / "out", resources)
print(json.dumps({
    "counts": run.manifest["counts"],
    "restored": exchanged() == usual,
    "named": sorted(actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)),
}))
"""


def run(folder: Path, how: str) -> dict[str, object]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), how],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("how", ["quiet", pytest.param("verbose", marks=pytest.mark.slow)])
def test_ray_data_starts_actors_of_its_own_where_its_messages_are_asked_for(
    tmp_path: Path, how: str
):
    its_own = ["ActorLocationTracker", "AutoscalingCoordinator", "datasets_stats_actor"]

    assert run(tmp_path, how) == {
        "counts": {"read": 12, "ok": 12, "failed": 0},
        "restored": True,
        "named": its_own if how == "verbose" else [],
    }
