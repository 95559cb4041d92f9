"""What torchvision and timm publish: where a network's weights lie and what goes with them."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from vision_ops.card import DETECTOR, Card
from vision_ops.models.detection import build_detector, coco_classes, detectors
from vision_ops.models.external import AUXILIARY, build_torchvision, import_timm
from vision_ops.preprocess import Preprocess
from vision_ops.weights.convert import Origin, convert, save_with_card
from vision_ops.weights.licence import SWAG, TORCHVISION, UNKNOWN

DETECTOR_PX = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": 320,
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
}
USUAL_DETECTOR_PX = 800
"""to what the others enlarge a picture's shorter side"""
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.\w+$")


@dataclass(frozen=True, kw_only=True)
class Published:
    """One set of weights, as its publisher describes it."""

    name: str
    """the full name, with the weights' tag"""
    url: str
    """the file"""
    origin: Origin
    """the card's part"""
    places: tuple[Path, ...]
    """where the publisher's own tools keep the file on this machine"""

    @property
    def file_name(self) -> str:
        """The last part of the URL."""
        return Path(urlsplit(self.url).path).name

    @property
    def sha256_prefix(self) -> str:
        """The first digits of the file's sha256, where the publisher puts them in its name."""
        found = HASH_IN_NAME.search(self.file_name)
        return found[1] if found else ""


def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 class names of ImageNet, in the usual order, as torchvision ships them."""
    from torchvision.models import SqueezeNet1_1_Weights

    return tuple(SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"])


def published(name: str) -> Published:
    """Look up `torchvision:NAME[/WEIGHTS]`, `torchvision_detection:NAME[/WEIGHTS]` or
    `timm:NAME[.TAG]`; no network is asked.

    Raises ValueError for what is not published, naming what is.
    """
    family, _, rest = name.partition(":")
    if f"{family}:" == DETECTOR:
        return _detector(rest)
    return _torchvision(rest) if family == "torchvision" else _timm(rest)


def make_checkpoint(item: Published, state_path: Path, out: Path) -> Card:
    """Convert the published file to a checkpoint. Raises ValueError when it does not fit."""
    if not item.name.startswith("timm:"):
        return convert(state_path, item.origin, out)
    overlay = {"file": str(state_path), "custom_load": False}
    try:  # timm's loader knows how each of its networks was renamed since
        with torch.random.fork_rng(devices=[]):
            model = import_timm().create_model(
                item.name.partition(":")[2], pretrained=True, pretrained_cfg_overlay=overlay
            )
    except RuntimeError as wrong:
        raise ValueError(f"{state_path}: does not fit {item.name}: {wrong}") from wrong
    return save_with_card(model, item.origin, state_path, out)


def _torchvision(rest: str) -> Published:
    from torchvision import models

    name, _, tag = rest.partition("/")
    if name not in models.list_models(module=models):
        build_torchvision(name, 1)  # raises, with the names that exist
    weights = _weights_of(name, tag, "torchvision:")
    swag = "SWAG" in str(weights.meta.get("license", ""))
    full_name = f"torchvision:{name}/{weights.name}"
    item = Origin(
        network=f"torchvision:{name}",
        classes=tuple(weights.meta.get("categories") or imagenet_classes()),
        preprocess=_torchvision_preprocess(name, weights.transforms()),
        licence=SWAG if swag else TORCHVISION,
        source=full_name,
    )
    return Published(name=full_name, url=weights.url, origin=item, places=(_cached(weights.url),))


def _detector(rest: str) -> Published:
    """A detector learnt from COCO. Pictures are squashed to the size that it would enlarge them to:
    its card knows one size, where torchvision keeps each picture's shape.
    """
    name, _, tag = rest.partition("/")
    if name not in detectors():
        build_detector(name, 1)  # raises, with the names that exist
    weights = _weights_of(name, tag, DETECTOR)
    full_name, size = f"{DETECTOR}{name}/{weights.name}", DETECTOR_PX.get(name, USUAL_DETECTOR_PX)
    black, white = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # its mean and scale are inside
    item = Origin(
        network=f"{DETECTOR}{name}",
        classes=coco_classes(),
        preprocess=Preprocess(height_px=size, width_px=size, resize_px=0, mean=black, std=white),
        licence=TORCHVISION,
        source=full_name,
    )
    return Published(name=full_name, url=weights.url, origin=item, places=(_cached(weights.url),))


def _weights_of(name: str, tag: str, family: str) -> Any:
    """torchvision's entry of these weights; without a tag, the newest."""
    from torchvision import models

    choices = models.get_model_weights(name)
    if (tag or "DEFAULT") not in choices.__members__:
        raise ValueError(f"{family}{name}/{tag}: weights are {', '.join(choices.__members__)}")
    return choices[tag or "DEFAULT"]


def _cached(url: str) -> Path:
    """Where torchvision's own downloads lie."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name


def _torchvision_preprocess(name: str, transform: Any) -> Preprocess:
    """The card's words for torchvision's ImageClassification preset."""
    # googlenet and inception_v3 turn ImageNet's scaling into -1..1 inside; ours is told directly
    half = name in AUXILIARY
    return Preprocess(
        height_px=transform.crop_size[0],
        width_px=transform.crop_size[0],
        resize_px=transform.resize_size[0],
        interpolation=transform.interpolation.value,
        mean=(0.5, 0.5, 0.5) if half else tuple(transform.mean),
        std=(0.5, 0.5, 0.5) if half else tuple(transform.std),
    )


def _timm(rest: str) -> Published:
    timm = import_timm()
    if not timm.is_model_pretrained(rest):
        near = timm.list_pretrained(f"{rest.partition('.')[0]}.*")
        raise ValueError(
            f"timm:{rest}: no such published weights; near it: {', '.join(near) or 'none'}"
        )
    config = timm.get_pretrained_cfg(rest)
    name = f"{config.architecture}.{config.tag}" if config.tag else config.architecture
    if not config.num_classes:
        raise ValueError(f"timm:{name}: gives features, no classes; name a classifier")
    url, places = _timm_file(config)
    if not url:
        raise ValueError(f"timm:{name}: its weights are not published as one file")
    item = Origin(
        network=f"timm:{config.architecture}",
        classes=_timm_classes(config),
        preprocess=_timm_preprocess(config, name),
        licence=config.license or UNKNOWN,
        source=f"timm:{name}",
    )
    return Published(name=f"timm:{name}", url=url, origin=item, places=places)


def _timm_file(config: Any) -> tuple[str, tuple[Path, ...]]:
    """URL of the weights, and where timm's own downloads lie."""
    from huggingface_hub import constants, hf_hub_url  # comes with timm

    places = []
    if config.url:
        file_name = Path(urlsplit(config.url).path).name
        places.append(Path(torch.hub.get_dir()) / "checkpoints" / file_name)
    if not config.hf_hub_id:
        return config.url or "", tuple(places)
    repository, _, revision = config.hf_hub_id.partition("@")
    file_name = config.hf_hub_filename or constants.SAFETENSORS_SINGLE_FILE
    cache = Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE)
    snapshots = cache / f"models--{repository.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob(f"*/{file_name}"), key=lambda path: path.stat().st_mtime)
    url = hf_hub_url(
        repository, file_name, revision=revision or None, endpoint=os.environ.get("HF_ENDPOINT")
    )
    return url, (*found[-1:], *places) if found else (snapshots / "*" / file_name, *places)


def _timm_classes(config: Any) -> tuple[str, ...]:
    """Class names that timm knows: given ones, ImageNet's, WordNet ids; else the indices."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    if config.label_names and len(config.label_names) == config.num_classes:
        return tuple(config.label_names)
    if config.num_classes == 1000:
        return imagenet_classes()
    subset = infer_imagenet_subset({"num_classes": config.num_classes})
    if subset:
        return tuple(ImageNetInfo(subset).label_names())
    return tuple(str(index) for index in range(config.num_classes))


def _timm_preprocess(config: Any, name: str) -> Preprocess:
    """The card's words for timm's evaluation transform at the network's own size."""
    if config.crop_mode not in ("center", "squash") or config.input_size[0] != 3:
        raise ValueError(
            f"timm:{name}: crop mode {config.crop_mode}, {config.input_size[0]} channels; "
            "Argus does centre crop and squash, on 3 channels"
        )
    height, width = config.input_size[1:]
    scaled = math.floor(min(height, width) / config.crop_pct)
    return Preprocess(
        height_px=height,
        width_px=width,
        resize_px=0 if config.crop_mode == "squash" else scaled,
        interpolation=config.interpolation,
        mean=tuple(config.mean),
        std=tuple(config.std),
    )
