"""A local Ray is what runs tasks, without services that nobody asked for; or with all of them."""

import json
import os
import subprocess
import sys

import pytest

from jobs.runtime.ray_lean import exchanged

PROGRAM = """
import json, os, sys
from pathlib import Path
import ray
from ray._private import services
from ray._private.node import Node
from jobs.runtime.ray_start import start_ray
from jobs.runtime.resources import Resources
from tests.benchmarks.processes import read_times

usual = Node.start_monitor, services.start_api_server, services.get_node
start_ray(Resources(num_cpus=1, verbose=sys.argv[1] == "verbose"))
add = ray.remote(lambda a, b: a + b)
pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
times = [(pid, read_times(pid)) for pid in pids]
mine = [pid for pid, each in times if each and each.parent == os.getpid()]
commands = [Path(f"/proc/{pid}/cmdline").read_text().replace(chr(0), " ") for pid in mine]
print(json.dumps({
    "sum": ray.get(add.remote(2, 3)),
    "restored": usual == (Node.start_monitor, services.start_api_server, services.get_node),
    "services": sorted(
        name for name in ("gcs_server", "raylet", "dashboard.py", "monitor.py", "log_monitor.py")
        if any(f"/{name} " in command for command in commands)
    ),
}), file=sys.stderr)
"""


def start(how: str) -> dict[str, object]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


def test_a_quiet_start_leaves_out_what_no_task_needs():
    told = start("quiet")
    assert told == {"sum": 5, "restored": True, "services": ["gcs_server", "raylet"]}


@pytest.mark.slow
def test_a_verbose_start_is_that_of_ray_itself():
    told = start("verbose")
    services = ["dashboard.py", "gcs_server", "log_monitor.py", "monitor.py", "raylet"]
    assert told == {"sum": 5, "restored": True, "services": services}


class Owner:
    @staticmethod
    def asked() -> str:
        return "as ever"


def test_blocks_that_overlap_leave_all_as_it_was():
    usual = vars(Owner)["asked"]
    others = [lambda: "another", lambda: "a third"]
    first, second = (
        exchanged([(Owner, "asked", staticmethod(other)), (Owner, "absent", None)])
        for other in others
    )
    with first:
        second.__enter__()
        assert Owner.asked() == "another"
    assert Owner.asked() == "another"
    second.__exit__(None, None, None)
    assert vars(Owner)["asked"] is usual
    assert not hasattr(Owner, "absent")
    broken = exchanged([(Owner, "asked", None)])
    with pytest.raises(ValueError, match="inside"), broken:
        raise ValueError("inside")
    assert Owner.asked() == "as ever"
