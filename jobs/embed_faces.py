"""Find, align and embed every face of every image: one result row per image.

    python -m jobs.embed_faces                     # the sample faces, by what train_faces learnt
    python -m jobs.embed_faces --data.uri photos --op.detector yunet --op.weights sface \
        --out runs/faces
    python -m jobs.embed_faces --data.uri s3://b/in --op.detector s3://b/retinaface.safetensors \
        --op.weights s3://b/embedder.safetensors --out s3://b/out

reads    image files, Parquet shards, WebDataset tars, or a Parquet table of URIs

writes   results/part-*.parquet   id, uri, truth, status, stage, error,
                                  faces list<box (x0, y0, x1, y1), landmarks (x, y of five points),
                                  confidence (0..1), quality (0..1), embedding (L2 norm 1)>, in
                                  pixels of the upright original, whose height_px and width_px
                                  follow; image_uris with --op.crops
         images/<id>/<k>.jpg      with --op.crops: the aligned crop of face k
         report/index.html        faces found, their quality, images without any, failures
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import tyro

from jobs.pictures.bulk_config import BulkConfig, decide_resources
from jobs.pictures.faces.embedding import cut_out, inputs_of, make_work, request_of
from jobs.pictures.localization import REPORT_PX, draw
from jobs.pictures.network import choose_network, facts, recalled
from jobs.pictures.opening import open_source
from jobs.runtime import bulk
from jobs.runtime.command import run_command
from jobs.runtime.dry_run import describe
from jobs.runtime.plan import make_plan
from jobs.runtime.report import faces as report
from jobs.runtime.reread import read_images
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage, absolute
from jobs.runtime.trial import sample_of
from vision_ops.draw import Drawn
from vision_ops.operators.embed_faces import FacesConfig, check_embedder, check_finding
from vision_ops.weights import Resolved, resolve

SAMPLES = "runs/make_samples/faces/test"


@dataclass(frozen=True, kw_only=True)
class Config(BulkConfig):
    """Find and embed the faces of each image."""

    data: Source = field(default_factory=lambda: Source(uri=SAMPLES))
    """where the images are"""
    op: FacesConfig = field(default_factory=FacesConfig)
    """what is done to each batch"""
    out: str = "runs/embed_faces"
    """run directory, local path or s3:// URI"""

    def __post_init__(self) -> None:
        if bool(self.data.faces) != (self.op.detector == "given"):
            raise ValueError(
                f"data.faces {self.data.faces!r}, op.detector {self.op.detector!r}: one column of "
                "faces and the word `given` go together"
            )
        if not self.op.detector and self.data.uri != SAMPLES:
            raise ValueError(
                f"op.detector: what finds the faces of {self.data.uri}? A checkpoint of a detector "
                "(yunet, mtcnn.safetensors, …), or none where every picture is one aligned face"
            )


def main(config: Config) -> Run:
    """Embed, write the report, and return the finished run."""
    storage = Storage(config.storage)
    take = partial(resolve, fetch=storage.fetch, accept_licence=config.accept_licence)
    embedder = take(config.op.weights)
    face = check_embedder(embedder.card, config.op.weights)
    detector = take(config.op.detector) if config.op.has_detector else None
    check_finding(config.op, detector.card if detector else None)
    origin = open_source(config.data, storage, config.decode, inputs_of(config.op, face))
    opened = Run.open(
        config.out,
        job="embed_faces",
        config=config,
        identity=identity(config, embedder, detector),
        storage=storage,
    )
    with opened as run:
        plan = make_plan(origin, run, retry_failed=config.retry_failed, write=not config.dry_run)
        resources = decide_resources(config, plan.rows)
        if config.op.finding != "none" and resources.placement == "auto":
            resources = replace(resources, placement="together")  # megabytes a picture stay here
        request = request_of(embedder)
        make = partial(make_work, config.op, config.decode, resources, embedder, detector)
        if config.dry_run:
            sys.stdout.write(describe(run, plan, make(recalled(request)), resources))
            return run
        if bulk.is_done(run, plan, resources):
            return run
        choice = None
        if plan.todo:
            source = sample_of(plan, resources)
            choice = choose_network(run, resources, request, config.decode, source, plan.rows)
        run.note(
            weights=facts(embedder),
            embedder=named(embedder),
            detector=facts(detector) if detector else None,
        )
        bulk.apply(run, plan, make(choice), resources)
        draws = partial(drawn, run, config.decode.max_megapixels)
        page = report.write(run, draws, partial(cut, run))
        run.lap("report")
        run.finish(report=page)
    return run


def named(embedder: Resolved) -> dict[str, object]:
    """Whose embeddings these are: others are of no use beside them."""
    return {
        "sha256": embedder.sha256,
        "source": embedder.source,
        "licence": embedder.card.licence,
        "embedding_size": embedder.card.embedding_size,
    }


def identity(config: Config, embedder: Resolved, detector: Resolved | None) -> dict[str, object]:
    """What can change a result: the run's fingerprint covers it."""
    found_by = detector.sha256 if detector else config.op.finding
    op = replace(config.op, weights=embedder.sha256, detector=found_by)
    data = replace(config.data, uri=absolute(config.data.uri))
    return {"data": data, "op": op, "decode": config.decode}


def drawn(
    run: Run, max_megapixels: float, boxes: Mapping[str, Sequence[Sequence[float]]]
) -> Mapping[str, bytes]:
    """Images by id with the boxes of their faces; those that are gone are left out."""
    images = {
        id: draw(data, [Drawn(box=box) for box in boxes[id]], REPORT_PX, max_megapixels)
        for id, data in read_images(run, list(boxes)).items()
    }
    return {id: image for id, image in images.items() if image}


def parse(arguments: list[str]) -> Config:
    """The options of the command line."""
    return tyro.cli(Config, args=arguments, prog="python -m jobs.embed_faces", description=__doc__)


def cut(run: Run, faces: Sequence[tuple[str, Sequence[float]]]) -> list[bytes]:
    """Single faces (image id and box) cut out; empty bytes for those that are gone."""
    found = cut_out(run, dict(enumerate(faces)))
    return [found.get(number, b"") for number in range(len(faces))]


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
