"""Weights: make a checkpoint of what others saved, look at one, check one, fetch one.

    python -m jobs.weights import --network torchvision:squeezenet1_1 --state X.pth \\
        --classes imagenet --transform imagenet --licence Apache-2.0 --out Y.safetensors
    python -m jobs.weights import --network onnx --state X.onnx --classes names.txt --out Y.onnx
    python -m jobs.weights import --network mobilefacenet --state m.pt --transform mobilefacenet \\
        --licence 'Apache-2.0 (code), MS-Celeb-1M (data): research only' --out faces.safetensors
    python -m jobs.weights import --network face_detector:mtcnn --state pnet.pt,rnet.pt,onet.pt \\
        --licence MIT --out mtcnn.safetensors
    python -m jobs.weights show Y.safetensors
    python -m jobs.weights verify Y.safetensors --sha256 2f9c…
    python -m jobs.weights pull timm:resnet50.a1_in1k
    python -m jobs.weights pull yunet

reads    a state file (.pth, .pt, .safetensors, .onnx), or weights by name: a checkpoint's path,
         s3://…, https://…, torchvision:NAME[/WEIGHTS], timm:NAME[.TAG], yunet, sface

writes   import: one checkpoint, weights and card in one file; pull: the cache ($ARGUS_CACHE)
"""

import logging
import sys
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import nn

from jobs.runtime.command import run_command
from jobs.runtime.storage import Storage, StorageConfig, absolute
from vision_ops.card import Card, sha256_file
from vision_ops.checkpoint import load_checkpoint
from vision_ops.faces import FACE_DETECTOR, FacePreprocess
from vision_ops.faces.transforms import FACE_TRANSFORMS
from vision_ops.models import logits_and_embeddings
from vision_ops.models.detection import coco_classes
from vision_ops.models.policy import Policy
from vision_ops.preprocess import Channels, Interpolation, Preprocess
from vision_ops.weights import Resolved, resolve
from vision_ops.weights.convert import Origin, convert
from vision_ops.weights.face_detectors import (
    MTCNN_PARTS,
    check_detector,
    convert_detector,
    suffix_of,
)
from vision_ops.weights.hub import imagenet_classes
from vision_ops.weights.licence import UNKNOWN

logger = logging.getLogger(__name__)

TRANSFORMS: dict[str, Preprocess] = {
    "imagenet": Preprocess(),
    "none": Preprocess(resize_px=0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    **FACE_TRANSFORMS,
}
Transform = Literal[
    "imagenet", "none", "arcface", "mobilefacenet", "sface", "adaface", "facenet", ""
]
Triple = tuple[float, float, float]
PAINTED_PX = 256
"""side of the pictures that are made to verify what makes pictures: the deepest takes no less"""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Where the network's pictures differ from --transform."""

    height_px: int | None = None
    """height that the network sees; else the transform's: 224"""
    width_px: int | None = None
    """width that the network sees; else the transform's: 224"""
    resize_px: int | None = None
    """shorter side before the centre crop, 0: squash; else the transform's: imagenet 256, none 0"""
    interpolation: Interpolation | None = None
    """filter of the resize; else bilinear"""
    mean: Triple | None = None
    """subtracted from pixel / scale; else the transform's"""
    std: Triple | None = None
    """divided by after the mean; else the transform's"""
    channels: Channels | None = None
    """channel order; else RGB"""
    scale: float | None = None
    """what a pixel of 0..255 is divided by first; else 255, sface 1"""
    flip_sum: bool | None = None
    """faces: add the embedding of the mirror image; else the transform's: mobilefacenet yes"""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make a checkpoint of a state file. Nothing is unpickled."""

    network: str
    """cnn_224, cnn_cifar10, residual, torchvision:NAME, timm:NAME, module:function, onnx; of faces
    mobilefacenet, iresnet18, iresnet34, iresnet50, iresnet100; what finds faces:
    face_detector:mtcnn, :retinaface, :yunet, :onnx:FORMAT"""
    state: str
    """the state file: local path, s3:// or https://; .pth, .pt, .safetensors, .onnx; of mtcnn
    three of them, a,b,c, or their folder"""
    out: str
    """the checkpoint to write, local path or s3:// URI: .safetensors; .onnx for what is ONNX"""
    classes: str = ""
    """class names in the order of the logits: imagenet, coco, a file with one a line, or a,b,c;
    none where the network finds or embeds faces"""
    transform: Transform = ""
    """how pictures become input; imagenet: resize 256, crop 224, its mean and std; none: squash to
    224, 0..1; the others are of aligned faces, see `vision_ops.faces.transforms`; left out where
    the network finds faces"""
    changes: Annotated[Changes, tyro.conf.arg(name="")] = Changes()
    """where that does not fit"""
    activation: str = "relu"
    """relu, sigmoid or tanh; networks of ours only"""
    licence: str = UNKNOWN
    """of the weights, and what the pictures that they learnt from allow ("research only"): the card
    says it, and weights that rule out commercial use are refused without --accept-licence"""
    source: str = ""
    """where the weights come from; empty: the state file's name"""
    storage: StorageConfig = StorageConfig()
    """how object storage is reached"""

    def __post_init__(self) -> None:
        suffix = ".onnx" if self.network == "onnx" else ".safetensors"
        if self.network.startswith(FACE_DETECTOR):
            suffix = suffix_of(self.network)
            if self.classes or self.transform or self.changes != Changes():
                raise ValueError(f"network {self.network}: takes no classes and no transform")
        elif not (self.transform in FACE_TRANSFORMS or (self.classes and self.transform)):
            raise ValueError(
                f"network {self.network}: needs --classes (names in the order of the logits) and "
                f"--transform; embedders of faces need --transform {', '.join(FACE_TRANSFORMS)}"
            )
        if not self.out.endswith(suffix):
            raise ValueError(f"out {self.out}: must end in {suffix} for network {self.network}")


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print the card of a checkpoint."""

    name: tyro.conf.Positional[str]
    """weights by name"""
    storage: StorageConfig = StorageConfig()
    """how object storage is reached"""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Load strictly, run one picture of zeros, compare the sha256."""

    name: tyro.conf.Positional[str]
    """weights by name"""
    sha256: str = ""
    """what the file's sha256 should be; empty: only print it"""
    storage: StorageConfig = StorageConfig()
    """how object storage is reached"""


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Fetch weights into the cache, so that jobs find them without network."""

    name: tyro.conf.Positional[str]
    """weights by name"""
    accept_licence: bool = False
    """fetch weights whose licence is for non-commercial use"""
    storage: StorageConfig = StorageConfig()
    """how object storage is reached"""


Config = (
    Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Pull, tyro.conf.subcommand("pull")]
)


def main(config: Import | Show | Verify | Pull) -> None:
    """Run one of the four and say what came of it. Raises ValueError for a wrong request."""
    match config:
        case Import():
            lines = import_weights(config)
        case Show():
            lines = show(config)
        case Verify():
            lines = verify(config)
        case Pull():
            lines = pull(config)
    width = max(map(len, lines))
    sys.stdout.writelines(f"{name:<{width}}  {value}\n" for name, value in lines.items())


def import_weights(config: Import) -> dict[str, str]:
    """Write the checkpoint; returns what `show` would say of it."""
    if config.licence == UNKNOWN:
        logger.warning(
            "licence: not said; %s will be used without --accept-licence being asked for, whatever "
            "its licence is (--licence says it)",
            config.out,
        )
    storage, out = Storage(config.storage), absolute(config.out)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / Path(out).name
        if config.network.startswith(FACE_DETECTOR):
            card = _import_detector(config, storage, made)
        else:
            origin = Origin(
                network=config.network,
                activation=config.activation,
                classes=read_classes(config.classes) if config.classes else (),
                preprocess=_preprocess(config),
                licence=config.licence,
                source=config.source or Path(config.state).name,
            )
            card = convert(_state(config.state, storage), origin, made)
        sha256 = sha256_file(made)
        storage.put(out, made.read_bytes())
    return _lines(Resolved(path=Path(config.out), card=card, sha256=sha256, source=config.out))


def _import_detector(config: Import, storage: Storage, made: Path) -> Card:
    """One state, several with commas between, or all of a folder."""
    if (folder := Path(config.state)).is_dir():
        states = [p for n in MTCNN_PARTS for p in sorted(folder.iterdir()) if n in p.name]
    else:
        states = [_state(each.strip(), storage) for each in config.state.split(",")]
    source = config.source or ", ".join(path.name for path in states)
    return convert_detector(config.network, states, config.licence, source, made)


def _state(uri: str, storage: Storage) -> Path:
    try:
        return storage.fetch(uri)
    except OSError as absent:
        raise ValueError(f"state {uri}: cannot be read ({absent})") from absent


def show(config: Show) -> dict[str, str]:
    """The card, line by line."""
    return _lines(resolve(config.name, Storage(config.storage).fetch, accept_licence=True))


def verify(config: Verify) -> dict[str, str]:
    """Prove that a checkpoint loads and runs. Raises ValueError when it does not."""
    found = resolve(config.name, Storage(config.storage).fetch, accept_licence=True)
    if config.sha256 and found.sha256 != config.sha256.lower():
        raise ValueError(f"sha256 {config.sha256}: {found.path} has {found.sha256}")
    stated = ", sha256 as stated" if config.sha256 else ""
    if found.card.network.startswith(FACE_DETECTOR):
        check_detector(found.path)
        return _lines(found) | {"verified": f"loads, looks for faces in a grey picture{stated}"}
    model, card = load_checkpoint(found.path, "cpu")
    if card.makes_pictures:
        _check_pictures(model, card, found.path)
        return _lines(found) | {"verified": f"loads strictly, makes pictures of zeros{stated}"}
    if isinstance(model, Policy):
        _check_policy(model, card, found.path)
        return _lines(found) | {"verified": f"loads strictly, decides by a view of zeros{stated}"}
    _check_answers(model, card, found.path)
    return _lines(found) | {"verified": f"loads strictly, runs one picture of zeros{stated}"}


def _check_answers(model: nn.Module, card: Card, path: Path) -> None:
    """Raise ValueError where logits and embedding of zeros are not as the card says."""
    with torch.inference_mode():
        zeros = torch.zeros(1, *card.preprocess.network_shape)
        logits, embedding = logits_and_embeddings(model, zeros, is_embedder=card.is_embedder)
    wanted = (1, card.num_outputs), (1, card.embedding_size)
    if (tuple(logits.shape), tuple(embedding.shape)) != wanted:
        raise ValueError(
            f"{path}: gives {tuple(logits.shape)} and {tuple(embedding.shape)}, "
            f"its card says {wanted[0]} and {wanted[1]}"
        )
    if not (logits.isfinite().all() and embedding.isfinite().all()):
        raise ValueError(f"{path}: gives numbers that are not finite")


def _check_policy(policy: Policy, card: Card, path: Path) -> None:
    """Raise ValueError where what it makes of a view of zeros is no number for each action."""
    frames = torch.zeros(1, 1, policy.num_frames, *card.preprocess.network_shape)
    with torch.inference_mode():
        decision = policy(frames, torch.zeros(1, policy.memory_size))
    if not (decision.logits.isfinite().all() and decision.value.isfinite().all()):
        raise ValueError(f"{path}: gives numbers that are not finite")


def _check_pictures(model: nn.Module, card: Card, path: Path) -> None:
    """Raise ValueError where pictures made of zeros are none. Each learnt style paints one.

    Their values end in a tanh or a sigmoid, which hide weights that are not finite.
    """
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise ValueError(f"{path}: has weights that are not finite")
    zeros = torch.zeros(1, 3, PAINTED_PX, PAINTED_PX)
    with torch.inference_mode():
        if card.is_dreamer:
            made = model(torch.zeros(1, card.embedding_size))
        elif card.is_translator:
            made = model(zeros)
        elif card.paints_any_style:
            made = model(zeros, zeros)
        else:
            made = model(zeros.expand(len(card.classes), -1, -1, -1), torch.eye(len(card.classes)))
    if not made.isfinite().all():
        raise ValueError(f"{path}: gives numbers that are not finite")


def pull(config: Pull) -> dict[str, str]:
    """Fetch; returns path, sha256 and licence."""
    found = resolve(
        config.name, Storage(config.storage).fetch, accept_licence=config.accept_licence
    )
    return {"path": str(found.path), "sha256": found.sha256, "licence": found.card.licence}


def read_classes(text: str) -> tuple[str, ...]:
    """Class names from `imagenet`, `coco`, a file with one a line, or a,b,c. Raises ValueError."""
    if text == "imagenet":
        return imagenet_classes()
    if text == "coco":
        return coco_classes()
    if Path(text).is_file():
        lines = Path(text).read_text(encoding="utf-8").splitlines()
        return tuple(line.strip() for line in lines if line.strip())
    if "," not in text:
        raise ValueError(f"classes {text!r}: no such file; accepted: imagenet, coco, a file, a,b,c")
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _preprocess(config: Import) -> Preprocess:
    assert config.transform  # by Import
    given = {field.name: getattr(config.changes, field.name) for field in fields(Changes)}
    changes = {name: value for name, value in given.items() if value is not None}
    preprocess = TRANSFORMS[config.transform]
    if "flip_sum" in changes and not isinstance(preprocess, FacePreprocess):
        raise ValueError(f"flip_sum: of faces, not of --transform {config.transform}")
    return replace(preprocess, **changes)


def _lines(found: Resolved) -> dict[str, str]:
    card = found.card
    shown = ", ".join(card.classes[:5]) + (", …" if len(card.classes) > 5 else "")
    classes = f"{len(card.classes)}: {shown}" if card.classes else "none"
    embedding = f"{card.embedding_size} numbers" if card.embedding_size else "none"
    if card.makes_pictures:
        styles = {"styles": "any" if card.paints_any_style else classes} if card.is_painter else {}
        named = {"network": card.network, **styles, **card.preprocess.describe()}
    else:
        named = {
            "network": f"{card.network} ({card.activation})",
            "classes": classes,
            **card.preprocess.describe(),
            "embedding": embedding,
        }
    return {
        "path": str(found.path),
        "sha256": found.sha256,
        **named,
        "licence": card.licence,
        "source": card.source,
        "parent": card.parent or "none",
    }


if __name__ == "__main__":
    run_command(main, tyro.cli(Config, prog="python -m jobs.weights", description=__doc__))
