"""Starting Ray on this machine, quietly, or joining the cluster that is there."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import ray

from jobs.runtime.resources import Resources, joins_cluster, local_cpus

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_num_workers_soft_limit": "16",  # else idle workers over num_cpus end after a second
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # one harmless line per actor pool is an error to it
}


def start_ray(resources: Resources) -> None:
    """Join the cluster of RAY_ADDRESS (set inside `ray job submit`), else start a local Ray.

    A Ray that this process already started is used as it is.
    """
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": resources.verbose}
    if not resources.verbose:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        options["logging_level"] = logging.WARNING
        for name in ("ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)
    if joins_cluster():
        ray.init(runtime_env=_packages(), **options)
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # nothing listens outside this process
    cpus = local_cpus(resources)
    ray.init(address="local", num_cpus=cpus, include_dashboard=resources.verbose, **options)


def _packages() -> dict[str, Any] | None:
    """This code for the workers of a cluster, unless the job was submitted with a working_dir."""
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    if "working_dir" in submitted.get("runtime_env", {}):
        return None
    root = Path(__file__).resolve().parents[2]
    return {"py_modules": [str(root / name) for name in ("jobs", "vision_ops")]}
