"""Make labelled sample data from what installed packages carry: no network, a few seconds.

    python -m jobs.make_samples                    # digits, photographs, signals, volumes, clips
    python -m jobs.make_samples --with-broken      # and a folder of odd and broken files
    python -m jobs.make_samples --kind faces       # one kind alone

writes   digits/{train,test}/*.parquet   id, image (PNG, 32x32), label "0".."9"; 1,437 and 360 rows
         photos/{china,flower}/*.jpg     pieces of scikit-learn's two photographs
         shapes/{train,test}/*.parquet   id, image (JPEG), objects: circle, square or triangle with
                                         its box; 1,600 and 400 rows
         photos.tar                      the same as WebDataset: .jpg and .cls (0 china, 1 flower)
         signals/{train,test}.ts         waves of four shapes, 96 and 96 of 128 samples
         volumes/{train,test}/0..9/      digits as bodies in space, 600 and 150 NIfTI files
         clips/{train,test}/{left,…}/*.mp4   a blob that moves left, right, up, down; 160 and 80
         faces/{train,test}/*.parquet    id, image (JPEG, 64x64), label: the person; 400 synthetic
                                         people with 12 pictures each, and 200 others with 8
         styles/*.png                    strokes, waves, a mosaic, dots: styles for train_style
         pairs/{pictures,maps}/*.png     320 landscapes, each beside the map of what is what in it
                                         (64x64 each); 24 maps of others: for train_translation
         broken/                         cut off, damaged, mislabelled, huge, rotated, oddly named

What lies there already is not written again.
"""

import gzip
import io
import logging
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from sklearn.model_selection import train_test_split

from jobs.pictures.samples.faces import faces
from jobs.pictures.samples.moving_blob import DIRECTIONS, encode_mp4, moving_blobs
from jobs.pictures.samples.pairs import pairs
from jobs.pictures.samples.shapes import shapes
from jobs.pictures.samples.signals_and_volumes import signals, volumes
from jobs.pictures.samples.styles import styles
from jobs.runtime.command import run_command
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage, StorageConfig, relative

logger = logging.getLogger(__name__)

NUM_TEST_DIGITS = 360
DIGIT_PX = 32
"""the digits are 8x8; enlarged, a person can read them"""
NUM_SHARDS = {"train": 3, "test": 2}
ROW_GROUP_ROWS = 120
PHOTOS = ("china", "flower")
PIECES_PER_PHOTO = 24
DIGITS_SCHEMA = pa.schema([("id", pa.string()), ("image", pa.binary()), ("label", pa.string())])

NUM_CLIPS = {"train": 40, "test": 20}
"""of each direction"""

Files = Iterator[tuple[str, bytes]]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is made, and where."""

    out: str = "runs/make_samples"
    """run directory, local path or s3:// URI"""
    kind: Literal[
        "all", "digits", "photos", "shapes", "signals", "volumes", "clips", "faces", "styles",
        "pairs", "broken",
    ] = "all"  # fmt: skip
    """which samples; all: but broken"""
    with_broken: bool = False
    """also make the folder of odd and broken files"""
    seed: int = 0
    """of the split into train and test, of the pieces and of the damage"""
    storage: StorageConfig = StorageConfig()
    """how object storage is reached"""


def main(config: Config) -> None:
    """Write the samples that are not there yet."""
    storage = Storage(config.storage)
    identity = {"seed": config.seed}
    with Run.open(
        config.out, job="make_samples", config=config, identity=identity, storage=storage
    ) as run:
        wanted = [name for name in TREES if is_asked_for(config, name)]
        if "clips" in wanted and find_spec("av") is None:
            wanted.remove("clips")
            logger.info("no clips: they need the package av: pip install -e '.[video]'")
        trees: dict[str, Any] = run.manifest.get("counts", {})
        missing = [name for name in wanted if name not in trees or trees[name] != found(run, name)]
        if not missing:
            logger.info("%s: already there: %s", run.uri, ", ".join(wanted))
            return
        run.note(status="running")
        for name in missing:
            num_written = write_tree(run, TREES[name](config.seed))
            trees = {**trees, name: found(run, name)}
            logger.info("%s: %s, %d files written", run.uri, name, num_written)
        run.finish(counts=trees)


def is_asked_for(config: Config, tree: str) -> bool:
    """Whether a tree of TREES is to be made."""
    if tree == "broken":
        return config.with_broken or config.kind == tree
    return config.kind in ("all", tree)


def found(run: Run, tree: str) -> dict[str, int]:
    """Files and bytes that lie in the run directory under a tree's name."""
    single = run.storage.stat(run.path(f"{tree}.tar"))
    entries = run.storage.find(run.path(tree)) + ([single] if single else [])
    return {"files": len(entries), "bytes": sum(entry.size for entry in entries)}


def write_tree(run: Run, files: Files) -> int:
    """Put the files that are not there at their size; returns how many were put.

    A file that is there keeps its time of change: runs that planned it go on.
    """
    there = {relative(entry.uri, run.uri): entry.size for entry in run.storage.find(run.uri)}
    num_written = 0
    for name, data in files:
        if there.get(name) != len(data):
            run.put(name, data)
            num_written += 1
    return num_written


def digits(seed: int) -> Files:
    """scikit-learn's 1,797 handwritten digits (UCI, Alpaydin and Kaynak 1998), split by class."""
    images, labels = load_digits(return_X_y=True)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=NUM_TEST_DIGITS, stratify=labels, random_state=seed
    )
    for split, chosen in (("train", train), ("test", test)):
        shards = np.array_split(chosen, NUM_SHARDS[split])
        for number, rows in enumerate(shards):
            table = pa.table(
                {
                    "id": [f"digit-{row:04}" for row in rows],
                    "image": [digit_png(images[row].reshape(8, 8)) for row in rows],
                    "label": [str(labels[row]) for row in rows],
                },
                schema=DIGITS_SCHEMA,
            )
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, row_group_size=ROW_GROUP_ROWS, compression="zstd")
            name = f"digits/{split}/{split}-{number:05}-of-{len(shards):05}.parquet"
            yield name, sink.getvalue().to_pybytes()


def digit_png(values: np.ndarray) -> bytes:
    """A digit of 8x8 values 0..16 as a grey PNG, enlarged by bicubic interpolation."""
    image = Image.fromarray(np.round(values * (255 / 16)).astype(np.uint8))
    return encode(image.resize((DIGIT_PX, DIGIT_PX), Image.Resampling.BICUBIC), "PNG")


def photos(seed: int) -> Files:
    """Pieces of the two photographs as a folder per photograph, and as one WebDataset tar."""
    random = np.random.default_rng(seed)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index, photo in enumerate(PHOTOS):
            whole = Image.fromarray(load_sample_image(f"{photo}.jpg"))
            for number in range(PIECES_PER_PHOTO):
                data = encode(_piece(whole, random), "JPEG", quality=90)
                yield f"photos/{photo}/piece-{number:02}.jpg", data
                # every third key has dots, as exported names have
                key = f"piece-{number:02}" + (".v1.final" if number % 3 == 0 else "")
                _add_member(tar, f"{photo}/{key}.jpg", data)
                _add_member(tar, f"{photo}/{key}.cls", str(index).encode())
    yield "photos.tar", archive.getvalue()


def _piece(whole: Image.Image, random: np.random.Generator) -> Image.Image:
    width, height = (int(size) for size in random.integers(96, 256, 2))
    left = int(random.integers(0, whole.width - width + 1))
    top = int(random.integers(0, whole.height - height + 1))
    return whole.crop((left, top, left + width, top + height))


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """An image as the bytes of a file."""
    target = io.BytesIO()
    image.save(target, format, **options)
    return target.getvalue()


def clips(seed: int) -> Files:
    """Moving blobs, which only the order of their frames tells apart: a folder per direction."""
    random = np.random.default_rng(seed)
    for split, count in NUM_CLIPS.items():
        for name in DIRECTIONS:
            for number, frames in enumerate(moving_blobs([name] * count, random)):
                yield f"clips/{split}/{name}/clip-{number:02}.mp4", encode_mp4(frames)


def broken(seed: int) -> Files:
    """What a bucket holds beside good pictures. Fine files are `fine-…`, or named for a quirk."""
    random = np.random.default_rng(seed)
    picture = Image.fromarray(load_sample_image("china.jpg")).crop((200, 100, 360, 220))
    families = (
        _formats(picture),
        _modes(picture),
        _cut_off(picture),
        _damaged(picture, random),
        _mislabelled(picture),
        _sizes(picture),
        _names(picture),
        _rotated(picture),
        _animated(picture),
    )
    for family in families:
        for name, data in family:
            yield f"broken/{name}", data


def _formats(picture: Image.Image) -> Files:
    """Formats and endings that are read."""
    yield "fine-baseline.jpg", encode(picture, "JPEG")
    yield "fine-progressive.jpeg", encode(picture, "JPEG", progressive=True)
    yield "fine-old.jpe", encode(picture, "JPEG", quality=30)
    yield "fine-windows.jfif", encode(picture, "JPEG")
    yield "fine-lossy.webp", encode(picture, "WEBP", quality=80)
    yield "fine-lossless.webp", encode(picture, "WEBP", lossless=True)
    yield "fine-still.gif", encode(picture, "GIF")
    yield "fine-plain.bmp", encode(picture, "BMP")
    yield "fine-headerless.dib", encode(picture, "DIB")
    yield "fine-plain.tiff", encode(picture, "TIFF")
    yield "fine-lzw.tif", encode(picture, "TIFF", compression="tiff_lzw")


def _modes(picture: Image.Image) -> Files:
    """Colours other than 8-bit RGB."""
    grey = picture.convert("L")
    alpha = Image.linear_gradient("L").resize(picture.size)
    see_through = picture.copy()
    see_through.putalpha(alpha)
    palette = picture.quantize(16)
    yield "cmyk.jpg", encode(picture.convert("CMYK"), "JPEG")
    yield "cmyk.tif", encode(picture.convert("CMYK"), "TIFF")
    yield "grey.jpg", encode(grey, "JPEG")
    yield "grey-alpha.png", encode(Image.merge("LA", (grey, alpha)), "PNG")
    yield "grey-16-bit.png", encode(Image.fromarray(np.asarray(grey, np.uint16) * 257), "PNG")
    yield "grey-16-bit.tif", encode(Image.fromarray(np.asarray(grey, np.uint16) * 257), "TIFF")
    yield "grey-float.tif", encode(grey.convert("F"), "TIFF")
    yield "one-bit.png", encode(picture.convert("1"), "PNG")
    yield "palette.png", encode(palette, "PNG")
    yield "palette-transparent.png", encode(palette, "PNG", transparency=3)
    yield "palette-transparent.gif", encode(palette, "GIF", transparency=3)
    yield "alpha.png", encode(see_through, "PNG")
    yield "alpha.webp", encode(see_through, "WEBP", lossless=True)
    yield "lab.tif", encode(Image.merge("LAB", (grey, grey, grey)), "TIFF")


def _cut_off(picture: Image.Image) -> Files:
    """Files that end too early, as broken uploads do."""
    whole = {
        "baseline.jpg": encode(picture, "JPEG"),
        "progressive.jpg": encode(picture, "JPEG", progressive=True),
        "plain.png": encode(picture, "PNG"),
        "lossy.webp": encode(picture, "WEBP"),
        "still.gif": encode(picture, "GIF"),
    }
    for name, data in whole.items():
        for percent in (2, 50, 95):
            yield f"cut-at-{percent:02}-percent-{name}", data[: len(data) * percent // 100]
    yield "cut-end-marker.jpg", whole["baseline.jpg"][:-2]
    yield "cut-at-50-percent-plain.bmp", encode(picture, "BMP")[:28_000]
    yield "cut-at-50-percent-plain.tiff", encode(picture, "TIFF")[:28_000]


def _damaged(picture: Image.Image, random: np.random.Generator) -> Files:
    """Forty bytes overwritten in the middle."""
    for name, format in (("photo.jpg", "JPEG"), ("drawing.png", "PNG"), ("photo.webp", "WEBP")):
        data = bytearray(encode(picture, format))
        middle = len(data) // 2
        data[middle : middle + 40] = random.bytes(40)
        yield f"damaged-{name}", bytes(data)
    yield "damaged-header.png", b"\x89PNG\r\n\x1a\n" + random.bytes(200)


def _mislabelled(picture: Image.Image) -> Files:
    """Files that are not what their names say, with a picture inside or without."""
    jpeg = encode(picture, "JPEG")
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr(zipfile.ZipInfo("photo.jpg"), jpeg)
    yield "empty.jpg", b""
    yield "one-byte.png", b"\x00"
    yield "zeros.jpg", bytes(4096)
    yield "text.jpg", b"This is not a picture.\n"
    yield "not-found.jpg", b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n"
    yield "answer.png", b'{"error": "AccessDenied"}\n'
    yield "drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9"/></svg>\n'
    yield "archive.jpg", bundle.getvalue()
    yield "compressed.jpg", gzip.compress(jpeg, mtime=0)
    yield "fine-jpeg-named.png", jpeg
    yield "fine-png-named.jpg", encode(picture, "PNG")
    yield "fine-webp-named.jpg", encode(picture, "WEBP")
    yield "notes.txt", b"shot on holiday\n"
    yield "no-extension", jpeg
    yield "phone.heic", b"\x00\x00\x00\x18ftypheic" + bytes(64)


def _sizes(picture: Image.Image) -> Files:
    """From one pixel to more than there is memory for."""
    yield "one-pixel.png", encode(picture.resize((1, 1)), "PNG")
    yield "one-pixel.gif", encode(picture.resize((1, 1)), "GIF")
    yield "1x3000.png", encode(picture.resize((1, 3000)), "PNG")
    yield "3000x1.jpg", encode(picture.resize((3000, 1)), "JPEG")
    yield "bomb-60000x60000.png", png_of_header(60_000, 60_000)
    yield "bomb-of-144-megapixels.png", encode(Image.new("1", (12_000, 12_000)), "PNG")
    yield "bomb-65535x65535.gif", b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(3)
    yield "no-height.png", png_of_header(16, 0)


def png_of_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds one line of nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _names(picture: Image.Image) -> Files:
    """Fine pictures with names that break what takes a name for a URL or a pattern."""
    data = encode(picture, "JPEG", quality=60)
    for name in (
        *("with space.jpg", "hash#1.jpg", "percent%20.jpg", "plus+plus.jpg", "question?.jpg"),
        *("brackets[1].jpg", "quote'.jpg", "many.dots.in.name.jpg", "größe.jpg", "日本語.jpg"),
        *("UPPER.JPG", "Mixed.JpEg", "deep/er/than/others.jpg"),
    ):
        yield f"names/{name}", data


def _rotated(picture: Image.Image) -> Files:
    """EXIF orientations that turn the picture, and two that mean nothing."""
    for orientation in (3, 6, 8, 0, 99):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"exif-orientation-{orientation}.jpg", encode(picture, "JPEG", exif=exif)


def _animated(picture: Image.Image) -> Files:
    """Moving pictures, of which the first frame counts."""
    later = [picture.rotate(90), picture.rotate(180)]
    for suffix, format in (("gif", "GIF"), ("apng", "PNG"), ("webp", "WEBP")):
        yield f"animated.{suffix}", encode(picture, format, save_all=True, append_images=later)


TREES: dict[str, Callable[[int], Files]] = {
    "digits": digits,
    "photos": photos,
    "shapes": shapes,
    "signals": signals,
    "volumes": volumes,
    "clips": clips,
    "faces": faces,
    "styles": styles,
    "pairs": pairs,
    "broken": broken,
}
"""folder of the run directory -> its files, always the same for a seed"""


def parse(arguments: list[str]) -> Config:
    """The options of the command line."""
    return tyro.cli(Config, args=arguments, prog="python -m jobs.make_samples", description=__doc__)


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
