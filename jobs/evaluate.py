"""How good a finished run is: metrics, plots and its worst mistakes.

    python -m jobs.evaluate                                     # the digits that classify named
    python -m jobs.evaluate --run s3://b/r --labels truth.csv --out s3://b/evaluation
    python -m jobs.evaluate --run runs/embed_faces --out runs/evaluate_faces
    python -m jobs.evaluate --run runs/stylize --out runs/evaluate_pictures
    python -m jobs.evaluate --run runs/generate --pictures.reference photos --out runs/evaluate_made

reads    a finished run's rows; their truth, or --labels: CSV or Parquet with the columns id, label

writes   metrics.json         all numbers
         report/index.html    confusion matrix, ROC curves, calibration, classes, worst mistakes;
                              of localize: IoU, mean average precision, the worst boxes drawn;
                              of embed_faces: ROC, TAR at FAR, identification, the hardest pairs;
                              of match_faces: who was put together, and who was named;
                              of stylize: each measure, its worst and best pictures;
                              of generate: the Fréchet distance from other pictures
         results/part-*.parquet of stylize, generate: the figures of each picture
         calibration.json     of embed_faces: what a similarity means, for match_faces
"""

import shlex
import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from jobs.pictures.classified import Evaluation
from jobs.pictures.classified import evaluate as evaluate_classes
from jobs.pictures.faces.grouped import GroupingEvaluation
from jobs.pictures.faces.grouped import evaluate as evaluate_groups
from jobs.pictures.faces.verified import FaceProtocol, VerificationEvaluation
from jobs.pictures.faces.verified import evaluate as evaluate_faces
from jobs.pictures.located import LocalizationEvaluation
from jobs.pictures.located import evaluate as evaluate_boxes
from jobs.pictures.measured import PictureEvaluation
from jobs.pictures.measured import evaluate as evaluate_pictures
from jobs.pictures.measuring import Measuring, PictureProtocol, open_measuring
from jobs.runtime.command import run_command
from jobs.runtime.labels import LabelTable, read_labels
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage, StorageConfig, absolute

BULK_JOBS = ("localize", "embed_faces", "match_faces", "stylize", "generate")
"""whose runs are evaluated too, beside those of classify"""
PICTURE_JOBS = ("stylize", "generate")
"""that make pictures"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Compare the labels of a finished run with the truth."""

    run: str = "runs/classify"
    """run directory of a finished bulk job, local path or s3:// URI"""
    labels: str = ""
    """CSV or Parquet file with the columns id and label; empty: the truth that the run read"""
    out: str = "runs/evaluate"
    """run directory of this evaluation, local path or s3:// URI"""
    num_mistakes: int = 24
    """worst mistakes, boxes, or pairs of faces, shown with their picture; of pictures at each end
    of a measure, 4 at the most"""
    faces: Annotated[FaceProtocol, tyro.conf.arg(name="")] = FaceProtocol()
    """of a run of embed_faces: which faces are held against which, and how"""
    pictures: PictureProtocol = PictureProtocol()
    """of a run of stylize or generate: what its pictures are held against, by which features"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""

    def __post_init__(self) -> None:
        if self.num_mistakes < 1:
            raise ValueError(f"num_mistakes: {self.num_mistakes}, must be at least 1")


Found = (
    Evaluation
    | LocalizationEvaluation
    | VerificationEvaluation
    | GroupingEvaluation
    | PictureEvaluation
)


def main(config: Config) -> Found:
    """Evaluate, write metrics.json and the report, and return the numbers."""
    storage = Storage(config.storage)
    source = finished_run(config.run, storage)
    job = source.manifest["job"]
    if job == "localize" and config.labels:
        raise ValueError("labels: a run of localize has its truth from --data.label boxes")
    if job != "embed_faces" and config.faces != FaceProtocol():
        raise ValueError(f"faces: {config.faces} is of runs of embed_faces, this is one of {job}")
    if job not in PICTURE_JOBS and config.pictures != PictureProtocol():
        raise ValueError(
            f"pictures: {config.pictures} is of runs of {' and '.join(PICTURE_JOBS)}, this is one "
            f"of {job}"
        )
    if job in PICTURE_JOBS and config.labels:
        raise ValueError("labels: pictures have none; --pictures.targets is what they should be")
    labels = read_labels(config.labels, storage) if config.labels else None
    named = absolute(config.labels) if config.labels else ""
    identity: dict[str, object] = {"run": source.uri, "labels": named}
    if job == "embed_faces":
        identity["faces"] = config.faces.identity()
    made = job in PICTURE_JOBS
    measuring = open_measuring(source, config.pictures, storage) if made else None
    if measuring is not None:
        identity["pictures"] = {"made": source.fingerprint, **measuring.identity()}
    opened = Run.open(config.out, job="evaluate", config=config, identity=identity, storage=storage)
    with opened as run:
        result = evaluated(source, run, labels, measuring, config)
        run.finish(counts=result.counts, report=result.report)
    return result


def evaluated(
    source: Run,
    run: Run,
    labels: LabelTable | None,
    measuring: Measuring | None,
    config: Config,
) -> Found:
    """Judge a run by what its job made; writes metrics and page into `run`."""
    job, num_mistakes = source.manifest["job"], config.num_mistakes
    if job == "embed_faces":
        return evaluate_faces(source, run, config.faces, labels, num_mistakes)
    if job == "match_faces":
        return evaluate_groups(source, run, labels)
    if job == "localize":
        return evaluate_boxes(source, run, classes_of(source), num_mistakes)
    if measuring is not None:
        return evaluate_pictures(source, run, measuring, num_mistakes)
    return evaluate_classes(source, run, classes_of(source), labels, num_mistakes)


def finished_run(uri: str, storage: Storage) -> Run:
    """The run to evaluate. ValueError names the command that makes or finishes it."""
    try:
        run = Run.load(uri, storage)
    except ValueError as missing:
        made_by = next((job for job in BULK_JOBS if job in uri.split("/")), "classify")
        command = f"python -m jobs.{made_by} --out {shlex.quote(uri)}"
        raise ValueError(f"run: {missing}; this makes it: {command}") from missing
    if "job" not in run.manifest:
        raise ValueError(f"run: {run.uri} is no run of a job; a gallery has no rows to evaluate")
    status = run.manifest.get("status", "begun")
    if status != "done":
        config = run.manifest.get("config", {})
        command = f"python -m jobs.{run.manifest['job']}"
        for group, name in (("data", "uri"), ("op", "weights")):
            if value := config.get(group, {}).get(name):
                command += f" --{group}.{name} {shlex.quote(str(value))}"
        raise ValueError(
            f"run: {run.uri} is not finished ({status}); the command that began it "
            f"finishes it: {command} --out {shlex.quote(uri)}"
        )
    return run


def classes_of(run: Run) -> list[str]:
    """Class names in the order of the network's outputs."""
    classes = (run.manifest.get("weights") or {}).get("classes")
    if not classes:
        raise ValueError(
            f"run: {run.uri} is a run of {run.manifest['job']} and names no classes; "
            f"accepted: runs of classify, {', '.join(BULK_JOBS)}"
        )
    return classes


def parse(arguments: list[str]) -> Config:
    """The options of the command line."""
    return tyro.cli(Config, args=arguments, prog="python -m jobs.evaluate", description=__doc__)


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
