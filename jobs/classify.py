"""Classify every image under a prefix: one result row per image.

    python -m jobs.classify                     # the sample digits, by what train_classifier learnt
    python -m jobs.classify --data.uri s3://b/in --op.weights s3://b/w.safetensors --out s3://b/out
    python -m jobs.classify --data.uri photos --op.weights timm:resnet50.a1_in1k --dry-run

reads    image files, Parquet shards, WebDataset tars, or a Parquet table of URIs; signals (.csv,
         .npy, .ts, .arff, WFDB records) and volumes (.nii, .nii.gz, .npy) where the weights are
         of a network of theirs

writes   results/part-*.parquet   id, uri, truth, status, stage, error, label, confidence (0..1),
                                  top_labels, top_confidences; embedding with --op.embeddings
         report/index.html        counts, histograms, the surest and least sure pictures, failures
"""

import sys
from dataclasses import dataclass, field, replace
from functools import partial

import tyro

from jobs.pictures.bulk_config import BulkConfig, decide_resources
from jobs.pictures.classification import make_work
from jobs.pictures.network import choose_network, facts, make_request, recalled
from jobs.pictures.opening import open_source
from jobs.runtime import bulk
from jobs.runtime.command import run_command
from jobs.runtime.dry_run import describe
from jobs.runtime.plan import make_plan
from jobs.runtime.report import bulk as bulk_report
from jobs.runtime.reread import read_thumbnails
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage, absolute
from jobs.runtime.trial import sample_of
from vision_ops.card import check_names
from vision_ops.inputs import kind_of_input
from vision_ops.operators.classify import ClassifierConfig
from vision_ops.thumbnails import THUMBNAIL_PX, THUMBNAILS
from vision_ops.weights import Resolved, resolve

FEW_ROWS = 2_000
"""below, `auto` is fp32: to choose takes longer than a faster precision would gain"""


@dataclass(frozen=True, kw_only=True)
class Config(BulkConfig):
    """Name what is in each image."""

    data: Source = field(default_factory=lambda: Source(uri="runs/make_samples/digits/test"))
    """where the images are"""
    op: ClassifierConfig = field(default_factory=ClassifierConfig)
    """what is done to each batch"""
    out: str = "runs/classify"
    """run directory, local path or s3:// URI"""


def main(config: Config) -> Run:
    """Classify, write the report, and return the finished run."""
    storage = Storage(config.storage)
    # a wrong checkpoint fails here, not on forty machines
    weights = resolve(config.op.weights, storage.fetch, accept_licence=config.accept_licence)
    check_names(weights.card, f"op.weights {config.op.weights}")
    origin = open_source(config.data, storage, config.decode, weights.card.preprocess)
    opened = Run.open(
        config.out,
        job="classify",
        config=config,
        identity=identity(config, weights),
        storage=storage,
    )
    with opened as run:
        plan = make_plan(origin, run, retry_failed=config.retry_failed, write=not config.dry_run)
        config = replace(config, resources=decide_resources(config, plan.rows))
        op = config.op
        if op.precision == "auto" and 0 <= plan.rows < FEW_ROWS:
            op = replace(op, precision="fp32")
        source = sample_of(plan, config.resources)
        request = make_request(op, config.decode, weights, source)
        make = partial(make_work, config.op, config.decode, config.resources, weights)
        if config.dry_run:
            sys.stdout.write(describe(run, plan, make(recalled(request)), config.resources))
            return run
        if bulk.is_done(run, plan, config.resources):
            return run
        choice = None
        if plan.todo:
            choice = choose_network(
                run, config.resources, request, config.decode, source, plan.rows
            )
        run.note(weights=facts(weights))
        bulk.apply(run, plan, make(choice), config.resources)
        thumbnail = partial(
            THUMBNAILS[kind_of_input(weights.card.preprocess)], size_px=THUMBNAIL_PX
        )
        report = bulk_report.write(run, partial(read_thumbnails, run, thumbnail))
        run.lap("report")
        run.finish(report=report)
    return run


def identity(config: Config, weights: Resolved) -> dict[str, object]:
    """What can change a result: the run's fingerprint covers it."""
    op = replace(config.op, weights=weights.sha256)
    data = replace(config.data, uri=absolute(config.data.uri))
    return {"data": data, "op": op, "decode": config.decode}


def parse(arguments: list[str]) -> Config:
    """The options of the command line."""
    return tyro.cli(Config, args=arguments, prog="python -m jobs.classify", description=__doc__)


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
