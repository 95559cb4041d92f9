"""Submit a job to a Ray cluster and follow it to its end: `ray job submit`, filled in.

    python -m cluster.submit --address http://head:8265 -- classify --data.uri s3://b/in \\
        --op.weights s3://b/w.safetensors --out s3://b/run

Sends the code of this folder (its packages and modules) as the working directory, prints the job's
log, and exits with the job's own exit code. Run again, it continues the same run directory,
whatever became of the first attempt. A job of the very same command that is still under way is
followed, not submitted again. So is, with a --submission-id, the job of that name; it is submitted
anew, as NAME-2 and so on, only where that one failed: a pod that was evicted and comes back starts
nothing twice, and a night that is not over is not met by the next one.
"""

import logging
import os
import shlex
import sys
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated

import tyro
from ray.job_submission import JobStatus, JobSubmissionClient

logger = logging.getLogger(__name__)

POLL_S = 1.0
START_S = 120.0
"""that the head's agent, which starts jobs, may take to come after the dashboard"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where to and what."""

    command: Annotated[tuple[str, ...], tyro.conf.Positional]
    """a job of this project and its options, after `--`"""
    address: str = "http://127.0.0.1:8265"
    """of the cluster's dashboard; RAY_ADDRESS and RAY_AUTH_TOKEN count as they do for Ray"""
    submission_id: str = ""
    """name of the submission, to be found again by; empty: Ray makes one"""
    follow: bool = True
    """print the log and wait for the end"""


def main(config: Config) -> int:
    """Submit; returns the job's exit code, 0 when not following."""
    root = Path(__file__).resolve().parents[1]
    command = entrypoint(config.command)
    client = JobSubmissionClient(os.environ.get("RAY_ADDRESS") or config.address)
    job, is_there = find_job(client, config.submission_id, command)
    if not is_there:
        job = begin(client, command, job, root)
    logger.info("%s %s", "following" if is_there else "submitted", job)
    return follow(client, job) if config.follow else 0


def begin(client: JobSubmissionClient, command: str, name: str, root: Path) -> str:
    """Submit under this name (empty: any); a cluster that just started is waited for."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            return client.submit_job(
                entrypoint=command,
                submission_id=name or None,
                runtime_env={"working_dir": str(root), "excludes": excludes(root)},
            )
        except RuntimeError as refusal:
            if "No available agent" not in str(refusal) or time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def find_job(client: JobSubmissionClient, name: str, command: str) -> tuple[str, bool]:
    """The job of this command under way, or the one of this name that did not fail, and True.

    Else a name that is free (empty: any), and False.
    """
    jobs = client.list_jobs()
    for job in jobs:
        if job.submission_id and job.entrypoint == command and not job.status.is_terminal():
            return job.submission_id, True
    if not name:
        return "", False
    known = {job.submission_id: job.status for job in jobs}
    tries = (name if number == 1 else f"{name}-{number}" for number in count(1))
    ended = (JobStatus.FAILED, JobStatus.STOPPED)
    found = next(each for each in tries if known.get(each) not in ended)
    return found, found in known


def entrypoint(command: tuple[str, ...]) -> str:
    """The shell command of a job. Raises ValueError where it is no job of this project."""
    jobs = sorted(p.stem for p in (Path(__file__).parents[1] / "jobs").glob("[a-z]*.py"))
    if not command or command[0] not in jobs:
        raise ValueError(f"command: {' '.join(command) or 'empty'}; accepted: {jobs} and options")
    return " ".join(["python", "-m", f"jobs.{command[0]}", *map(shlex.quote, command[1:])])


def excludes(root: Path) -> list[str]:
    """All of the folder but its packages and modules: the upload stays small."""
    return [f"/{path.name}" for path in root.iterdir() if not is_code(path)]


def is_code(path: Path) -> bool:
    """Whether a job may import it: one's own networks and worlds as well as Argus."""
    is_package = path.name != "tests" and (path / "__init__.py").is_file()
    return is_package or path.suffix == ".py"


def follow(client: JobSubmissionClient, job: str) -> int:
    """Print the log as it grows; the exit code when the job ends."""
    shown = 0
    while True:
        status = client.get_job_status(job)
        log = client.get_job_logs(job)
        sys.stdout.write(log[shown:])
        sys.stdout.flush()
        shown = len(log)
        if status.is_terminal():
            break
        time.sleep(POLL_S)
    code = client.get_job_info(job).driver_exit_code
    return 0 if status == JobStatus.SUCCEEDED else (code or 1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        sys.exit(main(tyro.cli(Config, prog="python -m cluster.submit", description=__doc__)))
    except ValueError as refusal:
        logger.error("bad request: %s", refusal)
        sys.exit(2)
