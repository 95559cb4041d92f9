"""A Ray head and other nodes, each in processes of their own on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

START_S = 90


@contextmanager
def started_head(folder: Path, num_cpus: int) -> Iterator[dict[str, str]]:
    """Environment of a shell beside a head, with GCS and JOBS, the addresses of its servers."""
    gcs, dashboard = free_port(), free_port()
    scripts = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "GCS": f"127.0.0.1:{gcs}",
        "JOBS": f"http://127.0.0.1:{dashboard}",
    }
    command = ["ray", "start", "--head", "--block", f"--num-cpus={num_cpus}", f"--port={gcs}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--temp-dir={Path('/tmp') / f'argus-head-{gcs}'}"]
    with running(command, environment, folder / "head.log"):
        deadline = time.monotonic() + START_S
        while not answers(f"{environment['JOBS']}/api/version"):
            assert time.monotonic() < deadline, "Ray's head did not start"
            time.sleep(0.5)
        yield environment


@contextmanager
def running(
    command: list[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs while the block does, and is ended after it."""
    with log.open("wb") as told:
        process = subprocess.Popen(
            command, env=environment, stdout=told, stderr=told, start_new_session=True
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
