"""How pictures that a run made are measured: what is asked for, and the figures of one picture."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from jobs.pictures.references import Reference
from jobs.pictures.styles import read_styles
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import IMAGE_SUFFIXES
from jobs.runtime.storage import Storage, absolute, relative
from vision_ops.card import ADAIN, DCGAN, UNET
from vision_ops.decode import DecodeConfig, UnreadableImageError, read_rgb
from vision_ops.losses import StyleConvention
from vision_ops.metrics.colour import colour_error
from vision_ops.metrics.pictures import psnr, ssim
from vision_ops.operators.stylize import style_name
from vision_ops.style.compare import CompareConfig, Comparer, Grams
from vision_ops.style.layers import LAYERS, layers_of
from vision_ops.weights import Resolved, resolve

UNTRAINED = "untrained:textures"
"""the features where a run was made by none"""
SIDES_PX = 11
"""that a picture must have: SSIM's window"""


@dataclass(frozen=True, kw_only=True)
class PictureProtocol:
    """What pictures that a run made are held against, and by which features."""

    features: str = ""
    """network by whose features pictures are compared: checkpoint or name of a classifier; empty:
    that by which the run's pictures were optimised, for pictures that a trained network painted
    `untrained:textures`, which needs no download; FEATURES of a train_style is a good choice too"""
    content_layers: tuple[str, ...] = ()
    """of the content cost; none: those known for the network"""
    style_layers: tuple[str, ...] = ()
    """of style cost, feature distance and (the last one) FID; none: those known for the network"""
    convention: StyleConvention = "relative"
    """of the costs, see `vision_ops.losses.style`; each is the mean over its layers"""
    styles: tuple[str, ...] = ()
    """pictures of the styles: files, folders, globs, called by their files' names; none: those that
    the run was given, or that its network learnt from, where that training's run is still there"""
    style_px: int = 192
    """shorter side that the pictures of `styles` are reduced to"""
    targets: str = ""
    """folder of pictures as they should have become, of the same id but perhaps for the ending"""
    reference: str = ""
    """pictures that all those made are held against as a set, for FID: files, Parquet or tar
    shards, as `data.uri` of other jobs; empty: the targets where there are any, else the contents.
    Beside pictures of noise they are brought to the size of these, cut off where their shape is
    another"""

    def __post_init__(self) -> None:
        if self.style_px < 1:
            raise ValueError(f"pictures.style_px {self.style_px}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Styles:
    """Pictures of styles by name."""

    pictures: Mapping[str, np.ndarray]
    """uint8 (H, W, 3) each, sRGB; empty: no style cost"""
    shares: Mapping[str, float]
    """of each in every picture of the run; they sum to 1"""
    missing: str = ""
    """why there are none"""

    @property
    def sha256(self) -> dict[str, str]:
        """Of each picture's pixels."""
        return {n: hashlib.sha256(p.tobytes()).hexdigest() for n, p in self.pictures.items()}


class Targets:
    """Pictures as those of a run should have become, by the ids of its rows.

    A target has the id itself as its path below the folder, or the same but for the ending.
    """

    def __init__(self, uri: str, storage: Storage) -> None:
        self.root, self.storage = absolute(uri), storage
        self.places: dict[str, str] = {}
        """path, whole and without its ending, -> URI; "" for an ending that is not the only one"""
        found = [entry.uri for entry in storage.find(self.root) if is_picture(entry.uri)]
        if not found:
            raise ValueError(f"pictures.targets: no picture at {self.root}")
        for each in found:
            name = relative(each, self.root)
            bare = str(PurePosixPath(name).with_suffix(""))
            self.places[bare] = "" if bare in self.places else each
        self.places |= {relative(each, self.root): each for each in found}

    def read(self, id: str) -> bytes | None:
        """The file, or None where there is none; of several that differ in their endings, too."""
        bare = str(PurePosixPath(id).with_suffix(""))
        uri = self.places.get(id) or self.places.get(bare, "")
        try:
            return self.storage.read(uri) if uri else None
        except FileNotFoundError:
            return None


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """A protocol opened for a run: everything is there that measuring needs."""

    protocol: PictureProtocol
    features: Resolved
    styles: Styles
    targets: Targets | None
    reference: Reference | None
    """of the set, where one is named"""
    max_megapixels: float
    noise_px: tuple[int, int] | None
    """height and width of pictures that were made of noise: nothing but the reference is there to
    hold them against; None: the pictures were made of others"""

    def identity(self) -> dict[str, object]:
        """What of it can change a result."""
        asked = self.protocol
        return {
            "features": self.features.sha256,
            "layers": [asked.content_layers, asked.style_layers],
            "convention": asked.convention,
            "styles": self.styles.sha256,
            "shares": dict(self.styles.shares),
            "targets": absolute(asked.targets) if asked.targets else "",
            "reference": absolute(asked.reference) if asked.reference else "",
        }


def open_measuring(source: Run, protocol: PictureProtocol, storage: Storage) -> Measuring:
    """Find features, styles and targets. Raises ValueError where one that is named is not there."""
    of_noise = source.manifest["weights"]["network"].startswith(DCGAN)
    if of_noise and (protocol.targets or not protocol.reference):
        raise ValueError(
            "pictures.reference: pictures of noise are held against others as a set and against "
            "nothing else; name some like those that were learnt from"
        )
    decode = source.manifest["config"].get("decode", {})
    return Measuring(
        protocol=protocol,
        features=_features(source, protocol, storage),
        styles=_styles(source, protocol, storage),
        targets=Targets(protocol.targets, storage) if protocol.targets else None,
        reference=Reference.open(protocol.reference, storage) if protocol.reference else None,
        max_megapixels=decode.get("max_megapixels", DecodeConfig().max_megapixels),
        noise_px=_size_of_one(source) if of_noise else None,
    )


def _size_of_one(source: Run) -> tuple[int, int]:
    """Height and width of the first picture of a run whose pictures are of one size."""
    for batch in source.results(("height_px", "width_px")):
        for row in batch.to_pylist():
            return row["height_px"], row["width_px"]
    raise ValueError(f"run: {source.uri} holds no picture")


def _features(source: Run, protocol: PictureProtocol, storage: Storage) -> Resolved:
    own = source.manifest["weights"]
    if protocol.features or not is_optimised(source):
        found = resolve(protocol.features or UNTRAINED, storage.fetch)
        told = f"pictures.features {protocol.features}"
        layers_of(found.card, protocol.content_layers, protocol.style_layers, told, "pictures.")
        return found
    if not (own["network"] in LAYERS or (protocol.content_layers and protocol.style_layers)):
        raise ValueError(
            f"pictures.content_layers, pictures.style_layers: must be named for {own['network']}, "
            f"by which this run was made; or another network, by --pictures.features {UNTRAINED}"
        )
    name = source.manifest["config"]["op"]["weights"]
    try:
        found = resolve(name, storage.fetch, accept_licence=True)  # as whoever made the run did
    except ValueError as absent:
        raise ValueError(f"pictures.features: {absent}; or name others") from absent
    if found.sha256 != own["sha256"]:
        raise ValueError(
            f"pictures.features: {name} is now {found.sha256[:16]}…, the run was made by "
            f"{own['sha256'][:16]}…; name what pictures are to be compared by"
        )
    return found


def is_optimised(source: Run) -> bool:
    """Whether the pictures of a run were optimised by features, not painted by a network."""
    return source.manifest["weights"]["kind"] == "picture"


def _styles(source: Run, protocol: PictureProtocol, storage: Storage) -> Styles:
    """Those told, else those of the run; with none, the reason, but of what needs none."""
    own = source.manifest["weights"]
    if own["network"].startswith((UNET, DCGAN)):
        if protocol.styles:
            raise ValueError(
                f"pictures.styles: pictures that {own['network']} made are in no style; "
                "--pictures.targets or --pictures.reference says what they should be"
            )
        return Styles(pictures={}, shares={})
    op = source.manifest["config"]["op"]
    asked: Sequence[str] = op.get("styles", ())
    from_files = is_optimised(source) or own["network"].startswith(ADAIN)
    names = _names(asked) if from_files else list(asked or own["classes"])
    weights = op.get("style_weights") or (1.0,) * len(names)
    shares = {n: w / sum(weights) for n, w in zip(names, weights, strict=True)}
    if protocol.styles:
        told = {each.name: each.pixels for each in _told(protocol, storage)}
        if unknown := sorted(shares.keys() - told.keys()):
            raise ValueError(
                f"pictures.styles: none is called {', '.join(unknown)}, as styles of the run are; "
                f"there are {', '.join(told)}"
            )
        return Styles(pictures={name: told[name] for name in shares}, shares=shares)
    try:
        if from_files:
            longest_px = op["gatys"]["style_longest_px"]
            uris = dict(zip(names, asked, strict=True))
            pictures = {n: _reduced(storage, uri, longest_px) for n, uri in uris.items()}
        else:
            pictures = _learnt(op["weights"], shares, storage)
    except (ValueError, OSError) as absent:
        return Styles(pictures={}, shares=shares, missing=f"{absent}; --pictures.styles tells them")
    return Styles(pictures=pictures, shares=shares)


def _names(uris: Sequence[str]) -> list[str]:
    """Of files, without their endings; whole where that would not tell them apart."""
    stems = [style_name(uri) for uri in uris]
    return stems if len(set(stems)) == len(stems) else list(uris)


def _told(protocol: PictureProtocol, storage: Storage) -> Sequence[Any]:
    try:
        return read_styles(storage, protocol.styles, protocol.style_px)
    except ValueError as wrong:
        raise ValueError(f"pictures.{wrong}") from wrong


def _learnt(weights: str, names: Mapping[str, float], storage: Storage) -> dict[str, np.ndarray]:
    """What a network of this checkpoint learnt from. ValueError where its training is not there."""
    inside = re.fullmatch(r"(.+)/checkpoints/[^/]+", weights)
    if inside is None:
        raise ValueError(f"{weights}: lies in no run of a training")
    config = Run.load(inside[1], storage).manifest["config"]
    if "styles" not in config:
        raise ValueError(f"{inside[1]}: was no training of styles")
    learnt = {e.name: e.pixels for e in read_styles(storage, config["styles"], config["style_px"])}
    if gone := sorted(names.keys() - learnt.keys()):
        raise ValueError(f"{inside[1]}: the pictures of {', '.join(gone)} are gone")
    return {name: learnt[name] for name in names}


def _reduced(storage: Storage, uri: str, longest_px: int) -> np.ndarray:
    try:
        image = read_rgb(storage.read(absolute(uri)))
    except UnreadableImageError as refusal:
        raise ValueError(f"style {uri}: {refusal}") from refusal
    image.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    return np.asarray(image)


def is_picture(uri: str) -> bool:
    """By its name."""
    return PurePosixPath(uri).suffix.lower() in IMAGE_SUFFIXES


class Judge:
    """The figures of one picture after another; holds the network, and the styles' matrices."""

    def __init__(self, measuring: Measuring) -> None:
        protocol = measuring.protocol
        self.measuring = measuring
        self.known: dict[str, Grams] = {}
        config = CompareConfig(
            weights=str(measuring.features.path),
            content_layers=protocol.content_layers,
            style_layers=protocol.style_layers,
            convention=protocol.convention,
        )
        try:
            self.comparer = Comparer(config)
        except ValueError as wrong:
            raise ValueError(f"pictures.features: {wrong}") from wrong

    def grams(self, style: str) -> Grams | None:
        """Of one of the styles, or (empty) of all, mixed by their shares; None without styles."""
        styles = self.measuring.styles
        if not styles.pictures:
            return None
        if style not in self.known:
            learnt = {style_name(name): name for name in styles.pictures}
            own = style if style in styles.pictures else learnt.get(style, style)
            shares = {own: 1.0} if style else styles.shares
            pictures = [styles.pictures[name] for name in shares]
            self.known[style] = self.comparer.style_of(pictures, list(shares.values()))
        return self.known[style]

    def opened(self, data: bytes) -> Image.Image:
        """An image file, upright, sRGB. Raises UnreadableImageError."""
        return read_rgb(data, self.measuring.max_megapixels)

    def reference_embedding(self, data: bytes) -> np.ndarray:
        """Of a picture of the reference, float32 (D,). Raises UnreadableImageError."""
        image = self.opened(data)
        if size := self.measuring.noise_px:
            height, width = size
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        return self.comparer.embedding(self.comparer.look(np.asarray(image)))

    def measure_dream(self, made: Image.Image) -> dict[str, Any]:
        """What there is to know of a picture of noise: its embedding."""
        return {"embedding": self.comparer.embedding(self.comparer.look(np.asarray(made)))}

    def measure(
        self, made: Image.Image, content: Image.Image, target: Image.Image | None, style: str = ""
    ) -> dict[str, Any]:
        """Every figure of MEASURES that can be had, and the embeddings of picture and reference.

        `style` is the one that it is in, empty: all by their shares. Content and target are resized
        to the picture where they differ. Raises ValueError for one
        with a side below SIDES_PX.
        """
        if min(made.size) < SIDES_PX:
            raise ValueError(f"{made.height} x {made.width} px: less than {SIDES_PX} px a side")
        picture = np.asarray(made)
        maps, seen = self.comparer.look(picture), np.asarray(_as_large(content, made))
        other = self.comparer.look(seen)
        figures: dict[str, Any] = {
            "ssim": ssim(picture, seen),
            "feature_distance": self.comparer.distance(maps, other),
            "content_cost": self.comparer.content_cost(maps, other),
            "colour_error": colour_error(picture, seen),
            "embedding": self.comparer.embedding(maps),
        }
        if (grams := self.grams(style)) is not None:
            figures["style_cost"] = self.comparer.style_cost(maps, grams)
        if target is not None:
            wanted = np.asarray(_as_large(target, made))
            other = self.comparer.look(wanted)
            figures |= {
                "target_ssim": ssim(picture, wanted),
                "target_psnr": psnr(picture, wanted),
                "target_feature_distance": self.comparer.distance(maps, other),
                "target_colour_error": colour_error(picture, wanted),
            }
        if target is not None or not (self.measuring.targets or self.measuring.protocol.reference):
            figures["reference_embedding"] = self.comparer.embedding(other)
        return figures


def _as_large(image: Image.Image, made: Image.Image) -> Image.Image:
    if image.size == made.size:
        return image
    return image.resize(made.size, Image.Resampling.BILINEAR)
