"""Make a picture of every image in the manner of others: one result row per image.

    python -m jobs.stylize          # the sample photographs, by what train_style learnt
    python -m jobs.stylize --data.uri photos --op.styles wave.jpg       # optimised, by VGG-19
    python -m jobs.stylize --data.uri photos --op.styles wave.jpg --op.weights net.safetensors
    python -m jobs.stylize --data.uri s3://b/in --op.styles s3://b/wave.jpg s3://b/rain.jpg \
        --op.style-weights 0.7 0.3 --op.weights torchvision:vgg19 --out s3://b/out
    python -m jobs.stylize --data.uri photos --op.weights wave-network.safetensors
    python -m jobs.stylize --data.uri photos --op.styles wave.jpg --op.weights any-style.safetensors

reads    image files, Parquet shards, WebDataset tars, or a Parquet table of URIs

writes   images/<id>              the picture, with the tree and name of the source; another ending
                                  only where its format is another. With --op.each
                                  images/<style>/<id>; with --archives in images/part-*.tar
         results/part-*.parquet   id, uri, truth, status, stage, error, image_uri, height_px,
                                  width_px of the picture, content_loss, style_loss, total_loss,
                                  total_at_start_loss where pictures are optimised, of what was
                                  optimised: before --op.colours changed it. With --op.each lists:
                                  image_uris, styles, losses
         report/index.html        pictures, what they were made of, losses, failures
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import tyro

from jobs.pictures.bulk_config import BulkConfig, decide_resources
from jobs.pictures.network import facts
from jobs.pictures.opening import open_source
from jobs.pictures.stylizing import Format, StyleFiles, make_work, side_by_side, with_insets
from jobs.runtime import bulk
from jobs.runtime.command import run_command
from jobs.runtime.drawn import Made, read_pictures
from jobs.runtime.dry_run import describe
from jobs.runtime.plan import make_plan
from jobs.runtime.report import pictures as report
from jobs.runtime.reread import read_images
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage, absolute
from vision_ops.card import read_card
from vision_ops.decode import DecodeConfig, UnreadableImageError
from vision_ops.operators.stylize import (
    StylizeConfig,
    check_styles,
    is_file_name,
    style_name,
    with_all_styles,
)
from vision_ops.weights import Resolved, resolve

REPORT_PX, TRIPTYCH_PX = 384, 192
LEARNT = "runs/train_style/checkpoints/best.safetensors"
"""where train_style leaves what it learnt"""
VGG_19 = "torchvision:vgg19"
"""whose features judge the pictures of Gatys et al. 2016"""
WEBP_LONGEST_PX = 16_383
"""of a side, by the format itself"""
OPTIMISED_ROWS = 4
"""of a slice where each picture is optimised"""
FILM_ROWS = 100
"""of a slice where each begins with the one before"""


@dataclass(frozen=True, kw_only=True)
class Config(BulkConfig):
    """Make a picture of each image in the manner of others."""

    data: Source = field(default_factory=lambda: Source(uri="runs/make_samples/photos"))
    """where the images are"""
    op: StylizeConfig = field(default_factory=StylizeConfig)
    """what is done to each image"""
    decode: DecodeConfig = field(default_factory=lambda: DecodeConfig(apply_icc=True))
    """how bytes become pixels; colours by the file's profile, for pictures are written as sRGB"""
    format: Format = "jpg"
    """of the pictures written"""
    quality: int = 92
    """of jpg and webp, 1..100"""
    archives: bool = False
    """pictures go into images/part-*.tar, a WebDataset shard for each slice, instead of into files
    of their own: for millions of them"""
    triptych: bool = False
    """the report shows image, styles and picture side by side, instead of small in the picture"""
    out: str = "runs/stylize"
    """run directory, local path or s3:// URI"""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality {self.quality}: must be 1..100")
        if self.format == "webp" and self.op.longest_px > WEBP_LONGEST_PX:
            raise ValueError(
                f"op.longest_px {self.op.longest_px}: a webp has {WEBP_LONGEST_PX} px a side at "
                "the most; choose no more, or format jpg or png"
            )


def main(config: Config) -> Run:
    """Make the pictures, write the report, and return the finished run."""
    storage = Storage(config.storage)
    weights = weights_of(config, storage)
    config = replace(config, op=with_all_styles(config.op, weights.card))
    learnt = check_styles(config.op, weights.card, weights.source)
    files = StyleFiles([] if learnt else config.op.styles, storage)
    styles = files.pictures(config.op.gatys.style_longest_px, config.decode.max_megapixels)
    optimised = not (learnt or weights.card.is_painter)
    if optimised and not config.data.slice_rows:
        # minutes of work that a kill would cost
        rows = FILM_ROWS if config.op.smooth else OPTIMISED_ROWS
        config = replace(config, data=replace(config.data, slice_rows=rows))
    origin = open_source(config.data, storage, config.decode, config.op.canvas())
    opened = Run.open(
        config.out,
        job="stylize",
        config=config,
        identity=identity(config, weights, files),
        storage=storage,
    )
    with opened as run:
        plan = make_plan(origin, run, retry_failed=config.retry_failed, write=not config.dry_run)
        resources = decide_resources(config, plan.rows)
        if resources.placement == "auto":
            resources = replace(resources, placement="together")  # megabytes a picture stay here
        work = make_work(
            config.op, styles, config.decode, resources, weights,
            format=config.format, quality=config.quality, archives=config.archives,
        )  # fmt: skip
        if config.dry_run:
            sys.stdout.write(describe(run, plan, work, resources))
            return run
        if bulk.is_done(run, plan, resources):
            return run
        run.note(weights=facts(weights))
        bulk.apply(run, plan, work, resources)
        show = partial(shown, run, config, files)
        text = told(config, learnt, optimised)
        page = report.write(run, show, text, 3 if config.triptych else 1)
        run.lap("report")
        run.finish(report=page)
    return run


def weights_of(config: Config, storage: Storage) -> Resolved:
    """Those named; where none are, those of LEARNT or VGG_19 that can make what is asked for."""
    name = config.op.weights or usual_weights(config.op)
    try:
        return resolve(name, storage.fetch, accept_licence=config.accept_licence)
    except ValueError as refusal:
        if config.op.weights or name != VGG_19:
            raise
        raise ValueError(
            f"{refusal}; or name others by op.weights: any classifier of pictures, "
            "`untrained:textures` (no download), or what `python -m jobs.train_style` learnt"
        ) from refusal


def usual_weights(op: StylizeConfig) -> str:
    """What makes pictures in these styles where no weights are named.

    Styles that a network learnt have names, other styles are files: those take a network that
    paints in any style where LEARNT is one, and are optimised by VGG_19 where it is not.
    """
    if not any(is_file_name(style) for style in op.styles):
        return LEARNT
    learnt = Path(LEARNT)
    any_style = learnt.is_file() and read_card(learnt).paints_any_style
    return LEARNT if any_style else VGG_19


def identity(config: Config, weights: Resolved, files: StyleFiles) -> dict[str, object]:
    """What can change a result: the run's fingerprint covers it.

    Of styles what their files hold; their names too where these are folders of what is written.
    """
    styles: Sequence[object] = files.sha256 or config.op.styles
    if config.op.each and files.sha256:
        styles = list(zip(config.op.made, files.sha256, strict=True))
    op = {each.name: getattr(config.op, each.name) for each in fields(config.op)}
    op |= {"weights": weights.sha256, "styles": styles}
    data = replace(config.data, uri=absolute(config.data.uri))
    written = {name: getattr(config, name) for name in ("format", "quality", "archives")}
    return {"data": data, "op": op, "decode": config.decode, **written}


def shown(
    run: Run, config: Config, files: StyleFiles, pictures: Sequence[Made]
) -> Mapping[str, bytes]:
    """Pictures by URI, image and styles small in them or beside them; less those gone."""
    # two that are mixed may have one name; of styles that a network learnt there are no files
    styles = list(zip(map(style_name, config.op.styles), files.read(), strict=False))
    contents = read_images(run, sorted({one.id for one in pictures}))
    made = read_pictures(run.storage, [one.uri for one in pictures])
    limit, images = config.decode.max_megapixels, {}
    for one in pictures:
        if one.uri not in made or one.id not in contents:
            continue
        own = [data for name, data in styles if one.style in ("", name)]
        whole, beside = made[one.uri], [contents[one.id], *own]
        try:
            if config.triptych:
                images[one.uri] = side_by_side([*beside, whole], TRIPTYCH_PX, limit)
            else:
                images[one.uri] = with_insets(whole, beside, REPORT_PX, limit)
        except UnreadableImageError:
            continue
    return images


def told(config: Config, learnt: bool, optimised: bool) -> str:
    """What the pictures of the page are, and their losses."""
    one = config.op.each or len(config.op.styles) == 1
    losses = ""
    if optimised and config.op.colours != "style":
        losses = " Losses are those before the image's colours were given to it."
    if config.triptych:
        styles = "" if learnt else ", the style" if one else ", the styles"
        return f"From left to right: the image{styles}, and what was made of it.{losses}"
    if learnt:
        return "Below in each is the image that it was made of."
    styles = "the style" if one else "the styles"
    return f"Below in each are the image that it was made of, and {styles}.{losses}"


def parse(arguments: list[str]) -> Config:
    """The options of the command line."""
    return tyro.cli(Config, args=arguments, prog="python -m jobs.stylize", description=__doc__)


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
