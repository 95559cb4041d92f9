"""Say where in every image things are: one result row per image, boxes in pixels.

    python -m jobs.localize                       # the drawn shapes, by what train_localizer learnt
    python -m jobs.localize --data.uri s3://b/in --op.weights s3://b/w.safetensors --out s3://b/out
    python -m jobs.localize --data.uri photos --op.weights squeezenet.safetensors --op.method cam

reads    image files, Parquet shards, WebDataset tars, or a Parquet table of URIs

writes   results/part-*.parquet   id, uri, truth, status, stage, error, label, confidence (0..1),
                                  boxes list<label, confidence, box (x0, y0, x1, y1)>, height_px,
                                  width_px of the upright original; image_uri with --overlays
         images/<id>              with --overlays: the image with its boxes, a JPEG of 640 px
         report/index.html        counts, histograms, the surest and least sure pictures, failures
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import tyro

from jobs.pictures.bulk_config import BulkConfig, decide_resources
from jobs.pictures.localization import REPORT_PX, draw, make_work, rows_of, shown
from jobs.pictures.network import facts
from jobs.pictures.opening import open_source
from jobs.runtime import bulk
from jobs.runtime.command import run_command
from jobs.runtime.dry_run import describe
from jobs.runtime.plan import make_plan
from jobs.runtime.report import bulk as bulk_report
from jobs.runtime.reread import read_images
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage, absolute
from vision_ops.card import check_names
from vision_ops.draw import Drawn
from vision_ops.operators.localize import LocalizerConfig, method_of
from vision_ops.weights import Resolved, resolve


@dataclass(frozen=True, kw_only=True)
class Config(BulkConfig):
    """Say what is in each image, and where."""

    data: Source = field(
        default_factory=lambda: Source(uri="runs/make_samples/shapes/test", label="boxes")
    )
    """where the images are"""
    op: LocalizerConfig = field(default_factory=LocalizerConfig)
    """what is done to each batch"""
    out: str = "runs/localize"
    """run directory, local path or s3:// URI"""
    overlays: bool = False
    """write each image with its boxes too, below images/"""


def main(config: Config) -> Run:
    """Localise, write the report, and return the finished run."""
    storage = Storage(config.storage)
    # a wrong checkpoint fails here, not on forty machines
    weights = resolve(config.op.weights, storage.fetch, accept_licence=config.accept_licence)
    check_names(weights.card, f"op.weights {config.op.weights}")
    method = method_of(config.op, weights.card)
    origin = open_source(config.data, storage, config.decode, weights.card.preprocess)
    opened = Run.open(
        config.out,
        job="localize",
        config=config,
        identity=identity(config, weights),
        storage=storage,
    )
    with opened as run:
        plan = make_plan(origin, run, retry_failed=config.retry_failed, write=not config.dry_run)
        resources = decide_resources(config, plan.rows)
        work = make_work(
            config.op, method, config.decode, resources, weights, overlays=config.overlays
        )
        if config.dry_run:
            sys.stdout.write(describe(run, plan, work, resources))
            return run
        if bulk.is_done(run, plan, resources):
            return run
        run.note(weights=facts(weights) | {"method": method})
        bulk.apply(run, plan, work, resources)
        report = bulk_report.write(run, partial(drawn, run, config.decode.max_megapixels))
        run.lap("report")
        run.finish(report=report)
    return run


def identity(config: Config, weights: Resolved) -> dict[str, object]:
    """What can change a result: the run's fingerprint covers it."""
    op = replace(config.op, weights=weights.sha256)
    data = replace(config.data, uri=absolute(config.data.uri))
    return {"data": data, "op": op, "decode": config.decode, "overlays": config.overlays}


def drawn(run: Run, max_megapixels: float, ids: Sequence[str]) -> Mapping[str, bytes]:
    """Images of the report with what was found in them; those that are gone are left out."""
    rows = rows_of(run, ids, ("id", "boxes"))
    images = {}
    for id, data in read_images(run, ids).items():
        boxes = [Drawn(box=each["box"]) for each in shown(rows[id]["boxes"])]
        images[id] = draw(data, boxes, REPORT_PX, max_megapixels)
    return {id: image for id, image in images.items() if image}


def parse(arguments: list[str]) -> Config:
    """The options of the command line."""
    return tyro.cli(Config, args=arguments, prog="python -m jobs.localize", description=__doc__)


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
