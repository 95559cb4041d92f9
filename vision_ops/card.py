"""The card of a network: what its weights mean, and how it is read from their file.

Light on purpose (safetensors' header alone): drivers read cards and start without torch. The card
is JSON under `argus_card` in the header of a safetensors file, in the metadata of an ONNX file, in
`card.json` of a network compiled by `vision_ops.precision`.
"""

import hashlib
import json
import os
import tempfile
import zipfile
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vision_ops.canvas import Canvas
from vision_ops.clips import CLIP_NETWORKS
from vision_ops.faces import FacePreprocess
from vision_ops.inputs import KINDS, Inputs, kind_of_input
from vision_ops.noise import Noise
from vision_ops.preprocess import Preprocess
from vision_ops.views import view_size

CARD_KEY = "argus_card"
COMPILED_SUFFIX = ".openvino"
LOCALIZER, DETECTOR = "localizer:", "torchvision_detection:"
"""begin the names of networks that say where: before the name of their encoder, of their kind"""
STYLE_TRANSFORM = "style_transform:"
"""begins the names of networks whose outputs are pictures: before their width"""
ADAIN = "adain:"
"""likewise, of those that paint in the style of any picture: before ENCODER/LAYER"""
UNET, DCGAN = "unet:", "dcgan:"
"""begin the names of generators: of pictures from pictures, WIDTHxDEPTH, and from noise,
WIDTHxSIZE"""
POLICY, POLICY_GRU = "policy:", "policy_gru:"
"""begin the names of what agents decide with, without and with memory: before ENCODER/FRAMES"""
EMBEDDERS = ("mobilefacenet", "iresnet18", "iresnet34", "iresnet50", "iresnet100")
"""networks of ours whose outputs are an embedding of a face"""
FIXED_SIZE_PX = {
    **{"cnn_224": 224, "cnn_cifar10": 32, "fast_cifar10": 32},
    **dict.fromkeys(EMBEDDERS, 112),
}
"""the networks of ours that take square pictures of one size only"""
NUM_AXES = {
    **{"cnn_224": 2, "cnn_cifar10": 2, "fast_cifar10": 2, "residual": 2, "resnet20": 2},
    "textures": 2,
    **{"convnet_1d": 1, "convnet_2d": 2, "convnet_3d": 3},
    **dict.fromkeys(EMBEDDERS, 2),
}
"""axes, beside channels, of what networks of ours take: 1 signals, 2 pictures, 3 volumes, clips"""
CARD_FORMAT = 1
"""raised when a field changes its meaning or goes; read_card refuses what it does not know"""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a network's weights mean: enough to run them and to say where they come from."""

    network: str
    """a name that models.build knows, or `onnx` where the file holds the network itself"""
    activation: str = "relu"
    """relu, sigmoid or tanh; networks of ours only"""
    classes: tuple[str, ...]
    """class names, in the order of the logits; none where these are an embedding of a face, or
    where the network finds faces, paints in any style or is a generator; names of styles where it
    learnt these; of actions where it steers an agent"""
    preprocess: Inputs
    """how pictures (clips, signals, volumes) become the network's input"""
    licence: str
    """of the weights: an SPDX name, a person's words, or `unknown`"""
    source: str
    """where the weights come from: a URL, a file name, a training run"""
    parent: str = ""
    """sha256 of the checkpoint or state file that it was made from"""
    embedding_size: int
    """length of the penultimate features, of a face's embedding, of noise; 0: it finds faces, or
    makes pictures of pictures"""

    def __post_init__(self) -> None:
        if self.is_painter and not isinstance(self.preprocess, Canvas):
            kind = kind_of_input(self.preprocess)
            raise ValueError(f"{self.network} takes whole pictures (canvas), not {kind}s")
        wrong = self.is_translator and not isinstance(self.preprocess, Canvas)
        if wrong or self.is_dreamer != isinstance(self.preprocess, Noise):
            raise ValueError(f"{self.network} does not take {kind_of_input(self.preprocess)}s")
        nameless = isinstance(self.preprocess, FacePreprocess | Canvas | Noise)
        nameless = nameless and (self.paints_any_style or not self.is_painter)
        if bool(self.classes) == nameless or len(set(self.classes)) != len(self.classes):
            twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
            raise ValueError(f"classes: {len(self.classes)} names, given twice: {twice[:5]}")
        if self.embedding_size < (not isinstance(self.preprocess, Canvas)):
            raise ValueError(f"embedding_size {self.embedding_size}: must be at least 1")
        check_size(self.network, self.preprocess)

    @property
    def is_embedder(self) -> bool:
        """Whether the outputs are the embedding of a face themselves, and name nothing."""
        return isinstance(self.preprocess, FacePreprocess)

    @property
    def is_painter(self) -> bool:
        """Whether the outputs are pictures, and `classes` the styles they may be in, or any."""
        return self.network.startswith((STYLE_TRANSFORM, ADAIN))

    @property
    def paints_any_style(self) -> bool:
        """Whether the outputs are pictures in the style of others that it is given as well."""
        return self.network.startswith(ADAIN)

    @property
    def is_translator(self) -> bool:
        """Whether it makes pictures of pictures, in the one way that it learnt."""
        return self.network.startswith(UNET)

    @property
    def is_dreamer(self) -> bool:
        """Whether it makes pictures of noise, `embedding_size` numbers."""
        return self.network.startswith(DCGAN)

    @property
    def makes_pictures(self) -> bool:
        """Whether the outputs are pictures, of whatever kind the inputs are."""
        return self.is_painter or self.is_translator or self.is_dreamer

    @property
    def is_policy(self) -> bool:
        """Whether it steers an agent: `classes` are actions, `preprocess` is of one view."""
        return self.network.startswith((POLICY, POLICY_GRU))

    @property
    def num_outputs(self) -> int:
        """Numbers that the network gives for an input: logits, or the embedding of a face.

        Of what paints: the number of its styles, 0 for any; of what makes pictures of noise: its
        length.
        """
        return len(self.classes) or self.embedding_size


def check_size(network: str, preprocess: Inputs) -> None:
    """Raise ValueError where a network is given another kind of input, or size, than it takes."""
    family, _, encoder = network.partition(":")
    is_of_clips = family in CLIP_NETWORKS
    if network != "onnx":
        _check_clips(network, preprocess)
    num_axes = len(preprocess.network_shape) - 1
    if NUM_AXES.get(network, num_axes) != num_axes:
        kind = kind_of_input(preprocess)
        raise ValueError(
            f"{network} takes inputs of {NUM_AXES[network]} axes, a {kind} has {num_axes}"
        )
    if f"{family}:" in (POLICY, POLICY_GRU):
        return check_size(encoder.rpartition("/")[0], preprocess)
    encoder = encoder if is_of_clips else network
    side = FIXED_SIZE_PX.get(encoder)
    size = (side, side) if side else view_size(encoder)
    if size is not None and preprocess.shape[-3:] != (*size, 3):
        told = " x ".join(map(str, preprocess.shape[-3:]))
        raise ValueError(f"{network} takes pictures of {size[0]} x {size[1]} pixels, not {told}")


def _check_clips(network: str, preprocess: Inputs) -> None:
    """Raise ValueError where clips meet a network of something else, or it meets something else."""
    family, _, encoder = network.partition(":")
    kind, is_of_clips = kind_of_input(preprocess), family in CLIP_NETWORKS
    frames_by = encoder if is_of_clips else network
    of_pictures = NUM_AXES.get(frames_by, 2) == 2
    of_pictures = of_pictures and frames_by.partition(":")[0] not in CLIP_NETWORKS
    if is_of_clips and kind != "clip":
        raise ValueError(f"network {network}: takes clips, not {kind}s")
    if is_of_clips and not of_pictures:
        raise ValueError(f"network {network}: {encoder} takes no pictures, which clips are made of")
    if kind == "clip" and not is_of_clips:
        would = f"; {CLIP_NETWORKS[0]}:{network} would" if of_pictures else ""
        raise ValueError(f"network {network}: takes no clips{would}")


def check_names(card: Card, weights: str, job: str = "embed_faces") -> None:
    """Raise ValueError where a network names no classes: of faces, an embedder or what finds them;
    what paints pictures.

    `weights` says where it comes from, field included; `job` wants it.
    """
    if card.is_painter:
        styles = f"the styles {', '.join(card.classes)}" if card.classes else "any style"
        raise ValueError(
            f"{weights}: {card.network} paints pictures in {styles} "
            "and names nothing; `python -m jobs.stylize` is for it"
        )
    if card.is_policy:
        raise ValueError(
            f"{weights}: {card.network} steers an agent; `python -m jobs.evaluate_navigation` is "
            "for it. The encoder that lies beside it names the action of a picture"
        )
    if card.is_translator or card.is_dreamer:
        makes, job = ("noise", "generate") if card.is_dreamer else ("pictures", "stylize")
        raise ValueError(
            f"{weights}: {card.network} makes pictures of {makes} and names nothing; "
            f"`python -m jobs.{job}` is for it"
        )
    if not card.classes:
        does = "embeds" if card.is_embedder else "finds"
        raise ValueError(
            f"{weights}: {card.network} {does} faces and names nothing; `python -m jobs.{job}` "
            "is for it"
        )


def check_pixels(card: Card, preprocess: Preprocess, weights: str, name: str) -> None:
    """Raise ValueError where a network of pictures learnt from other values than it would see now.

    `weights` and `name` say where it comes from and what `preprocess` is called.
    """
    for each in ("mean", "std", "scale", "channels"):
        made, wanted = getattr(card.preprocess, each, None), getattr(preprocess, each)
        if made != wanted:
            raise ValueError(
                f"model.weights {weights}: learnt with {each} {made}; --{name}.{each} is {wanted}"
            )


def check_activation(card: Card, activation: str, weights: str) -> None:
    """Raise ValueError where a network learnt with another function between its layers."""
    if card.activation != activation:
        raise ValueError(
            f"model.weights {weights}: learnt with {card.activation} between its layers, not "
            f"{activation}"
        )


def read_card(path: str | Path) -> Card:
    """The card of a checkpoint, from the header alone. Raises ValueError, naming the file."""
    if is_onnx(path):
        from vision_ops.models.onnx_file import read_metadata  # the one module of the extra

        text = read_metadata(_existing(path)).get(CARD_KEY)
    elif is_compiled(path):
        text = _read_compiled(_existing(path))
    else:
        text = _read_header(_existing(path))
    if text is None:
        raise ValueError(
            f"{path}: has no Argus card; `python -m jobs.weights import` makes a checkpoint of it"
        )
    try:
        return card_from_json(text)
    except ValueError as wrong:
        raise ValueError(f"{path}: {wrong}") from wrong


def sha256_file(path: str | Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_onnx(path: str | Path) -> bool:
    """Whether a file's name says that it is ONNX."""
    return str(path).lower().endswith(".onnx")


def is_compiled(path: str | Path) -> bool:
    """Whether a file's name says that it is a network compiled by `vision_ops.precision`."""
    return str(path).endswith(COMPILED_SUFFIX)


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a local file by a temporary one and a rename; folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def card_to_json(card: Card) -> str:
    """The card as it stands in a file: one JSON object with `format` beside the fields."""
    values = asdict(card)
    values["preprocess"] = {"kind": kind_of_input(card.preprocess), **values["preprocess"]}
    return json.dumps({"format": CARD_FORMAT} | values, ensure_ascii=False)


def card_from_json(text: str) -> Card:
    """The reverse of card_to_json. Raises ValueError for any other format, field or type."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as wrong:
        raise ValueError(f"card is not JSON: {wrong}") from wrong
    if not isinstance(values, dict):
        raise ValueError(f"card is a {type(values).__name__}, not an object")
    version = values.pop("format", None)
    if version != CARD_FORMAT:
        raise ValueError(f"card of format {version!r}; this Argus reads format {CARD_FORMAT}")
    return _made(Card, values, "card")


JSON_TYPES: dict[object, tuple[type, ...]] = {
    str: (str,),
    bool: (bool,),
    int: (int,),
    float: (float, int),
}
"""what a field's JSON may be; tuples are lists, literals are strings, dataclasses are objects"""


def _made(kind: type[Any], values: object, where: str) -> Any:
    """A dataclass from its JSON object. Raises ValueError for any other field or type."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is a {type(values).__name__}, not an object")
    _check_fields(values, kind, where)
    made: dict[str, Any] = {}
    for field in fields(kind):
        value = values[field.name]
        if field.name == "preprocess" and kind is Card:
            value = _made_input(value)
        elif is_dataclass(field.type):
            value = _made(field.type, value, f"{where}.{field.name}")  # pyright: ignore[reportArgumentType]
        elif isinstance(value, list):
            value = tuple(value if "str" in str(field.type) else map(float, value))
        elif field.type is float:
            value = float(value)
        made[field.name] = value
    return kind(**made)


def _made_input(values: object) -> Inputs:
    """How inputs are prepared; a card that names no kind is of pictures."""
    if not isinstance(values, dict):
        raise ValueError(f"card.preprocess is a {type(values).__name__}, not an object")
    name = values.get("kind", "picture")
    if name not in KINDS:
        raise ValueError(f"card.preprocess.kind {name!r}: not one of {', '.join(KINDS)}")
    held = {key: value for key, value in values.items() if key != "kind"}
    return _made(KINDS[name], held, "card.preprocess")


def _check_fields(values: dict[str, object], kind: type[Any], where: str) -> None:
    known = {field.name: field.type for field in fields(kind)}
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{where} has fields that this Argus does not know: {unknown}")
    if missing := [name for name in known if name not in values]:
        raise ValueError(f"{where} lacks {missing}")
    for name, annotation in known.items():
        if not _is_of(values[name], annotation):
            raise ValueError(f"{where}.{name} {str(values[name])[:80]!r}: not {annotation}")


def _is_of(value: object, annotation: object) -> bool:
    if is_dataclass(annotation) or annotation == Inputs:
        return isinstance(value, dict)
    if str(annotation).startswith("tuple"):
        inner = (str,) if "str" in str(annotation) else (float, int)
        return isinstance(value, list) and all(
            isinstance(item, inner) and not isinstance(item, bool) for item in value
        )
    accepted = JSON_TYPES.get(annotation, (str,))
    return isinstance(value, accepted) and (annotation is bool or not isinstance(value, bool))


def _read_header(path: Path) -> str | None:
    try:
        with safe_open(path, framework="np") as file:
            return (file.metadata() or {}).get(CARD_KEY)
    except SafetensorError as wrong:
        raise ValueError(f"{path}: not a whole safetensors file ({wrong})") from wrong


def _read_compiled(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read("card.json").decode()
    except (zipfile.BadZipFile, KeyError) as wrong:
        raise ValueError(f"{path}: not a whole compiled network ({wrong})") from wrong


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    return Path(path)
