"""Classify every image under a prefix: one result row per image.

    python -m jobs.classify                     # the sample digits, by what train_classifier learnt
    python -m jobs.classify --data.uri s3://b/in --op.weights s3://b/w.safetensors --out s3://b/out
    python -m jobs.classify --data.uri photos --op.weights timm:resnet50.a1_in1k --dry-run

reads    image files, Parquet shards, WebDataset tars, or a Parquet table of URIs

writes   results/part-*.parquet   id, uri, truth, status, stage, error, label, confidence (0..1),
                                  top_labels, top_confidences; embedding with --op.embeddings
         report/index.html        counts, histograms, the surest and least sure pictures, failures
"""

import logging
import sys
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import pyarrow as pa
import tyro

from jobs.runtime import bulk
from jobs.runtime.command import run_command
from jobs.runtime.dry_run import describe
from jobs.runtime.plan import Plan, make_plan
from jobs.runtime.report import bulk as bulk_report
from jobs.runtime.reread import read_thumbnails
from jobs.runtime.resources import Resources, decide_engine
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage, StorageConfig, absolute
from jobs.runtime.trial import Choice, SampleSource, sample_of, settle
from jobs.runtime.work import Work
from vision_ops.card import Card, read_card
from vision_ops.decode import Decode, DecodeConfig, thumbnail
from vision_ops.operators.classify import Classifier, ClassifierConfig
from vision_ops.precision.choose import Sample, choose
from vision_ops.precision.verdicts import Request, Verdict, recall
from vision_ops.weights import Resolved, cache_folder, resolve

logger = logging.getLogger(__name__)

PASSES_PER_CALL = 4
FEW_ROWS = 2_000
"""below, `auto` is fp32: to choose takes longer than a faster precision would gain"""


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
        config = replace(config, resources=decide_engine(config.resources, plan.rows))
        request = make_request(config, weights, run, plan)
        if config.dry_run:
            work = make_work(config, weights, recalled(request))
            sys.stdout.write(describe(run, plan, work, config.resources))
            return run
        choice = choose_network(config, run, plan, request) if plan.todo else None
        run.note(weights=facts(weights))
        bulk.apply(run, plan, make_work(config, weights, choice), config.resources)
        report = bulk_report.write(run, partial(read_thumbnails, run, thumbnail))
        run.lap("report")
        run.finish(report=report)
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


def make_request(config: Config, weights: Resolved, run: Run, plan: Plan) -> Request:
    """What is asked of `choose`: how this network is best run for these images."""
    precision = config.op.precision
    if precision == "auto" and 0 <= plan.rows < FEW_ROWS:
        precision = "fp32"
    source = sample_of(plan, run.uri, config.resources)
    return Request(
        weights=str(weights.path),
        sha256=weights.sha256,
        precision=precision,
        embeddings=config.op.embeddings,
        pass_size=config.op.pass_size,
        compiled=config.op.compiled,
        sample="" if precision == "fp32" else f"{source.name} {config.decode}",
        folder=str(cache_folder()),
    )


def choose_network(config: Config, run: Run, plan: Plan, request: Request) -> Choice:
    """How the network is run, settled once for a run directory."""
    source = sample_of(plan, run.uri, config.resources)
    choice = settle(
        run,
        config.resources,
        recall=partial(recalled, request),
        try_out=partial(try_out, request, config.decode, source),
    )
    logger.info("network: %s", Verdict(**choice.verdict))
    return choice


def recalled(request: Request) -> Choice | None:
    """What an earlier trial of this request found on this machine."""
    found = recall(request)
    return Choice(verdict=asdict(found[0]), path=found[1]) if found else None


def try_out(request: Request, decode: DecodeConfig, source: SampleSource) -> Choice:
    """Time and judge the network on a sample of the run; runs where the actors will be."""
    sample = None
    if request.sample:
        preprocess = read_card(request.weights).preprocess
        exact = Decode(replace(decode, mode="exact"), preprocess)
        judged, truth, calibration = source.pictures(Decode(decode, preprocess), exact)
        sample = Sample(judged=judged, exact=truth, calibration=calibration)
    verdict, path = choose(request, sample)
    return Choice(verdict=asdict(verdict), path=path)


def make_work(config: Config, weights: Resolved, choice: Choice | None) -> Work:
    """Decoding and the classifier, with the columns that it adds."""
    verdict = Verdict(**choice.verdict) if choice else None
    op, told, batch_size = replace(config.op, precision="fp32"), "chosen when it starts", 32
    if verdict:
        told = f"{verdict.precision} on {verdict.back_end} sha256:{verdict.sha256}"
        op = replace(
            op,
            precision=verdict.precision,
            pass_size=verdict.pass_size,
            compiled=verdict.compiled,
        )
        # several passes a call: a GPU then works on one while the next is brought to it
        batch_size = verdict.pass_size * (1 if verdict.pass_size == 32 else PASSES_PER_CALL)
    return Work(
        decoder=Decode(config.decode, weights.card.preprocess),
        operator=Classifier,
        config=op,
        columns=columns(config.op, weights.card),
        files={"weights": str(choice.path if choice else weights.path)},
        metadata={
            "weights": f"{weights.source} sha256:{weights.sha256}",
            "licence": weights.card.licence,
            "preprocess": str(weights.card.preprocess),
            "network": told,
        },
        batch_size=config.resources.batch_size or batch_size,
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
