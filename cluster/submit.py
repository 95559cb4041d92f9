"""Submit a job to a Ray cluster and follow it to its end: `ray job submit`, filled in.

    python -m cluster.submit --address http://head:8265 -- classify --data.uri s3://b/in --out s3://b/r

Sends this folder as the working directory, prints the job's log, and exits with the job's own exit
code. Run again, it continues the same run directory, whatever became of the first attempt.
"""

import logging
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from ray.job_submission import JobStatus, JobSubmissionClient

logger = logging.getLogger(__name__)

PACKAGES = ("jobs", "vision_ops", "cluster")
POLL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where to and what."""

    command: Annotated[tuple[str, ...], tyro.conf.Positional]
    """a job of this project and its options, after `--`"""
    address: str = "http://127.0.0.1:8265"
    """of the cluster's dashboard; RAY_ADDRESS and RAY_AUTH_TOKEN count as they do for Ray"""
    submission_id: str = ""
    """name of the submission; a name that was used is refused; empty: Ray makes one"""
    follow: bool = True
    """print the log and wait for the end"""


def main(config: Config) -> int:
    """Submit; returns the job's exit code, 0 when not following."""
    root = Path(__file__).resolve().parents[1]
    client = JobSubmissionClient(os.environ.get("RAY_ADDRESS") or config.address)
    job = client.submit_job(
        entrypoint=entrypoint(config.command),
        submission_id=config.submission_id or None,
        runtime_env={"working_dir": str(root), "excludes": excludes(root)},
    )
    logger.info("submitted %s", job)
    return follow(client, job) if config.follow else 0


def entrypoint(command: tuple[str, ...]) -> str:
    """The shell command of a job. Raises ValueError where it is no job of this project."""
    jobs = sorted(p.stem for p in (Path(__file__).parents[1] / "jobs").glob("[a-z]*.py"))
    if not command or command[0] not in jobs:
        raise ValueError(f"command: {' '.join(command) or 'empty'}; accepted: {jobs} and options")
    return " ".join(["python", "-m", f"jobs.{command[0]}", *map(shlex.quote, command[1:])])


def excludes(root: Path) -> list[str]:
    """All of the folder but the packages: the upload stays small."""
    return [f"/{path.name}" for path in root.iterdir() if path.name not in PACKAGES]


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
        sys.exit(f"bad request: {refusal}")
