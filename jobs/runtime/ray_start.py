"""Starting Ray on this machine, quietly, or joining the cluster that is there."""

import atexit
import gc
import json
import logging
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray

from jobs.runtime.ray_lean import lean_start
from jobs.runtime.ray_nodes import await_workers
from jobs.runtime.resources import Resources, joins_cluster, local_cpus

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_num_workers_soft_limit": "16",  # else idle workers over num_cpus end after a second
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # one harmless line per actor pool is an error to it
}

ITS_LEVEL = re.compile(rb"[^\n]*Set ray log level from environment variable[^\n]*\n")
"""said by Ray's C++ part, whatever level it was set to"""


def start_ray(resources: Resources) -> None:
    """Join the cluster of RAY_ADDRESS (set inside `ray job submit`), else start a local Ray.

    A cluster that has no CPU yet is waited for: its workers are still being started.
    A Ray that this process already started is used as it is, less what earlier runs left there.
    Signals stay with who had them: Ray would answer SIGTERM with a dump of the stack.
    """
    if ray.is_initialized():
        gc.collect()  # Ray Data's executors are cycles, and their actors keep CPUs until collected
        return
    options: dict[str, Any] = {"log_to_driver": resources.verbose}
    if not resources.verbose:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        options["logging_level"] = logging.WARNING
        for name in ("ray.data", "ray.train", "ray.tune", "ray.rllib", "ray._common.deprecation"):
            logging.getLogger(name).setLevel(logging.ERROR)
    if joins_cluster():
        options["runtime_env"] = _packages()
    else:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # nothing listens outside this process
        options |= {"address": "local", "num_cpus": local_cpus(resources)}
        options["include_dashboard"] = resources.verbose
    lean = not (resources.verbose or joins_cluster())
    with _own_signals(), _without(ITS_LEVEL), lean_start() if lean else nullcontext():
        ray.init(**options)
    if joins_cluster():
        await_workers()
    if lean:
        atexit.register(ray.shutdown)  # before Ray's own, which first waits 0.5 s for lines to show


@contextmanager
def _own_signals() -> Iterator[None]:
    """Handlers of SIGTERM that the block sets, in Python and in C, are gone after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)


@contextmanager
def _without(line: re.Pattern[bytes]) -> Iterator[None]:
    """What native code writes to standard error in the block is written after it, less a line."""
    sys.stderr.flush()
    usual = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(usual, 2)
            os.close(usual)
            said.seek(0)
            if told := line.sub(b"", said.read()):
                os.write(2, told)


def _packages() -> dict[str, Any] | None:
    """This code for the workers of a cluster, unless the job was submitted with a working_dir."""
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    if "working_dir" in submitted.get("runtime_env", {}):
        return None
    root = Path(__file__).resolve().parents[2]
    return {"py_modules": [str(root / name) for name in ("jobs", "vision_ops")]}
