"""Jobs on a Ray that was started beside them, by `ray job submit` and by RAY_ADDRESS."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.submit import entrypoint, excludes
from tests.cluster.heads import started_head
from tests.jobs.runtime.toy import make_pictures
from tests.untrained import save_untrained


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a shell beside a Ray head of two CPUs with its job server."""
    with started_head(tmp_path_factory.mktemp("head"), num_cpus=2) as environment:
        yield environment


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
def test_a_command_that_is_under_way_is_followed_and_not_begun_again(
    head: dict[str, str], options: list[str]
):
    submit = [sys.executable, "-m", "cluster.submit", "--address", head["JOBS"]]
    names = ("--submission-id", "one-night"), ("--submission-id", "the-next"), ()
    said = []
    for name, follow in zip(names, ("--no-follow", "--no-follow", "--follow"), strict=True):
        command = [*submit, *name, follow, "--", "classify", *options]
        ended = subprocess.run(command, env=head, capture_output=True, text=True)
        said.append((ended.returncode, ended.stderr.splitlines()[-1]))
    assert said == [(0, "submitted one-night"), (0, "following one-night")] + [
        (0, "following one-night")
    ]


def test_a_bad_command_is_refused_before_any_cluster_is_asked():
    command = [sys.executable, "-m", "cluster.submit", "--address", "http://127.0.0.1:9"]
    ended = subprocess.run([*command, "--", "clasify"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("bad request: command: clasify; accepted: ")


def test_all_code_of_the_folder_is_sent_and_nothing_else(tmp_path: Path):
    for name in ("jobs/__init__.py", "mine/__init__.py", "tests/__init__.py", "runs/x/part.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for name in ("myworld.py", "README.md", ".env"):
        (tmp_path / name).touch()
    assert sorted(excludes(tmp_path)) == ["/.env", "/README.md", "/runs", "/tests"]


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
