"""Classify every image under a prefix: one result row per image.

    python -m jobs.classify                     # the sample digits, by what train_classifier learnt
    python -m jobs.classify --data.uri s3://b/in --op.weights s3://b/w.safetensors --out s3://b/out
    python -m jobs.classify --data.uri photos --op.weights timm:resnet50.a1_in1k --dry-run

reads    image files, Parquet shards, WebDataset tars, or a Parquet table of URIs

writes   results/part-*.parquet   id, uri, truth, status, stage, error, label, confidence (0..1),
                                  top_labels, top_confidences; embedding with --op.embeddings
         report/index.html        counts, histograms, the surest and least sure pictures, failures
"""

import sys
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa
import tyro

from jobs.runtime import bulk
from jobs.runtime.command import run_command
from jobs.runtime.dry_run import describe
from jobs.runtime.plan import make_plan
from jobs.runtime.report import bulk as bulk_report
from jobs.runtime.reread import read_thumbnails
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage, StorageConfig, absolute
from jobs.runtime.work import Work
from vision_ops.checkpoint import Card
from vision_ops.decode import Decode, DecodeConfig, thumbnail
from vision_ops.operators.classify import Classifier, ClassifierConfig
from vision_ops.weights import Resolved, resolve


@dataclass(frozen=True, kw_only=True)
class Config:
    """Name what is in each image."""

    data: Source = field(default_factory=lambda: Source(uri="runs/make_samples/digits/test"))
    """where the images are"""
    op: ClassifierConfig = field(default_factory=ClassifierConfig)
    """what is done to each batch"""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """how bytes become pixels"""
    resources: Resources = field(default_factory=Resources)
    """how it is run: how fast, how patient; never changes a result"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""
    out: str = "runs/classify"
    """run directory, local path or s3:// URI"""
    accept_licence: bool = False
    """use weights whose licence forbids commercial use"""
    retry_failed: bool = False
    """do again the slices that hold failed rows"""
    dry_run: bool = False
    """say what would be done, and do nothing"""


def main(config: Config) -> Run:
    """Classify, write the report, and return the finished run."""
    storage = Storage(config.storage)
    # a wrong checkpoint fails here, not on forty machines
    weights = resolve(config.op.weights, storage.fetch, accept_licence=config.accept_licence)
    origin = Origin(source=config.data, storage=storage)
    opened = Run.open(
        config.out,
        job="classify",
        config=config,
        identity=identity(config, weights),
        storage=storage,
    )
    with opened as run:
        plan = make_plan(origin, run, retry_failed=config.retry_failed, write=not config.dry_run)
        work = make_work(config, weights)
        if config.dry_run:
            sys.stdout.write(describe(run, plan, work, config.resources))
            return run
        run.note(weights=facts(weights))
        bulk.apply(run, plan, work, config.resources)
        run.finish(report=bulk_report.write(run, partial(read_thumbnails, run, thumbnail)))
    return run


def identity(config: Config, weights: Resolved) -> dict[str, object]:
    """What can change a result: the run's fingerprint covers it."""
    op = replace(config.op, weights=weights.sha256)
    data = replace(config.data, uri=absolute(config.data.uri))
    return {"data": data, "op": op, "decode": config.decode}


def facts(weights: Resolved) -> dict[str, object]:
    """What the manifest says of the weights."""
    card = weights.card
    return {
        "source": weights.source,
        "sha256": weights.sha256,
        "licence": card.licence,
        "network": card.network,
        "preprocess": card.preprocess,
        "classes": card.classes,
    }


def make_work(config: Config, weights: Resolved) -> Work:
    """Decoding and the classifier, with the columns that it adds."""
    return Work(
        decoder=Decode(config.decode, weights.card.preprocess),
        operator=Classifier,
        config=config.op,
        columns=columns(config.op, weights.card),
        files={"weights": str(weights.path)},
        metadata={
            "weights": f"{weights.source} sha256:{weights.sha256}",
            "licence": weights.card.licence,
            "preprocess": str(weights.card.preprocess),
        },
    )


def columns(op: ClassifierConfig, card: Card) -> pa.Schema:
    """The columns of a result besides those of every row."""
    fields = [
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("top_labels", pa.list_(pa.string())),
        ("top_confidences", pa.list_(pa.float32())),
    ]
    if op.embeddings:
        fields.append(("embedding", pa.list_(pa.float32(), card.embedding_size)))
    return pa.schema(fields)


if __name__ == "__main__":
    run_command(main, tyro.cli(Config, prog="python -m jobs.classify", description=__doc__))
