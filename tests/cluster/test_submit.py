"""Jobs on a Ray that was started beside them, by `ray job submit` and by RAY_ADDRESS."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.submit import entrypoint
from tests.jobs.runtime.toy import make_pictures
from tests.untrained import save_untrained

START_S = 90


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a shell beside a Ray head of two CPUs with its job server."""
    gcs, dashboard = free_port(), free_port()
    scripts = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--port={gcs}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--temp-dir={Path('/tmp') / f'argus-head-{os.getpid()}'}"]
    log = (tmp_path_factory.mktemp("head") / "log").open("wb")
    node = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    deadline = time.monotonic() + START_S
    while not answers(f"http://127.0.0.1:{dashboard}/api/version"):
        assert time.monotonic() < deadline, "Ray's head did not start"
        time.sleep(0.5)
    yield {
        **environment,
        "GCS": f"127.0.0.1:{gcs}",
        "JOBS": f"http://127.0.0.1:{dashboard}",
    }
    node.send_signal(signal.SIGTERM)
    node.wait(60)
    log.close()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    weights = save_untrained(tmp_path / "w.safetensors", size_px=32)
    make_pictures(tmp_path / "in", 20)
    found = ["--data.uri", str(tmp_path / "in"), "--op.weights", weights]
    return [*found, "--out", str(tmp_path / "out"), "--resources.max-failed-fraction", "1"]


@pytest.mark.slow
def test_a_submitted_job_runs_there_and_its_exit_code_comes_back(
    head: dict[str, str], options: list[str], tmp_path: Path
):
    submit = [sys.executable, "-m", "cluster.submit", "--address", head["JOBS"], "--", "classify"]

    good = subprocess.run([*submit, *options], env=head, capture_output=True, text=True)
    bad = subprocess.run([*submit, "--data.uri", "/nothing"], env=head, capture_output=True)

    assert good.returncode == 0, good.stdout + good.stderr
    assert "20 images: 0 ok, 20 failed" in good.stdout
    assert bad.returncode == 2
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["status"] == "done"


@pytest.mark.slow
def test_a_submission_is_followed_by_its_name_and_made_anew_only_where_it_failed(
    head: dict[str, str], options: list[str]
):
    submit = [sys.executable, "-m", "cluster.submit", "--address", head["JOBS"]]

    def told(name: str, *words: str) -> tuple[int, str]:
        command = [*submit, "--submission-id", name, "--", "classify", *words]
        ended = subprocess.run(command, env=head, capture_output=True, text=True)
        assert ended.stderr, ended.stdout
        return ended.returncode, ended.stderr.splitlines()[-1]

    assert told("good", *options) == (0, "submitted good")
    assert told("good", *options) == (0, "following good")
    assert told("bad", "--data.uri", "/nothing") == (2, "submitted bad")
    assert told("bad", "--data.uri", "/nothing") == (2, "submitted bad-2")


@pytest.mark.slow
def test_a_job_joins_the_cluster_that_ray_address_names(
    head: dict[str, str], options: list[str], tmp_path: Path
):
    command = [sys.executable, "-m", "jobs.classify", *options]
    environment = {**head, "RAY_ADDRESS": head["GCS"]}

    ended = subprocess.run(command, env=environment, capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["status"] == "done"


def test_words_of_a_command_arrive_as_they_are():
    command = entrypoint(("classify", "--data.uri", "s3://b/a b", "--out", "it's"))
    assert command == """python -m jobs.classify --data.uri 's3://b/a b' --out 'it'"'"'s'"""


def test_a_command_that_is_no_job_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"rm -rf.*'classify'"):
        entrypoint(("rm", "-rf"))
