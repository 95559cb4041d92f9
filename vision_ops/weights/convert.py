"""Weights that others saved -> a checkpoint of ours. Nothing is unpickled."""

import pickle
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vision_ops.card import (
    CARD_KEY,
    DETECTOR,
    Card,
    card_to_json,
    check_size,
    sha256_file,
    write_whole,
)
from vision_ops.checkpoint import load_state, save_checkpoint
from vision_ops.faces import FacePreprocess
from vision_ops.models import build, head_of, logits_and_embeddings
from vision_ops.models.external import AUXILIARY
from vision_ops.preprocess import Preprocess

WRAPPERS = ("state_dict", "model")
"""keys under which training scripts keep the state in a larger dict"""
PREFIXES = ("module.", "_orig_mod.")
"""what DataParallel and torch.compile put before every name"""
DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AssertionError,
    struct.error,
)
"""what torch.load was seen to raise on files with changed bytes"""
COUNT = ".num_batches_tracked"
SIDE_CLASSIFIERS = ("aux1.", "aux2.", "AuxLogits.")
OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)$")
"""densenets were published with `norm.1`, `conv.2`; the layers are called norm1, conv2 today"""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What cannot be read off a state file and must be said."""

    network: str
    """a name that models.build knows, or `onnx`"""
    activation: str = "relu"
    """of a network of ours"""
    classes: tuple[str, ...]
    """class names, in the order of the logits; none of an embedder of faces"""
    preprocess: Preprocess
    """how pictures become the network's input"""
    licence: str
    """of the weights"""
    source: str
    """where they come from"""

    def __post_init__(self) -> None:
        check_size(self.network, self.preprocess)
        if bool(self.classes) == self.is_embedder:
            told = "an embedder of faces has none" if self.classes else "none given"
            raise ValueError(f"classes {self.classes[:5]}: {told}")

    @property
    def is_embedder(self) -> bool:
        """Whether the network's outputs are the embedding of a face."""
        return isinstance(self.preprocess, FacePreprocess)


def convert(state_path: Path, origin: Origin, out: Path) -> Card:
    """Make a checkpoint of a state file: .pth, .pt, .safetensors, or .onnx for network "onnx".

    Raises ValueError, naming the file, for one that needs unpickling, is damaged, does not fit
    the network, or gives another number of classes.
    """
    if origin.network == "onnx":
        return _convert_onnx(state_path, origin, out)
    state = _renamed(read_state(state_path), origin.network)
    num_outputs = len(origin.classes) or _embedding_size(origin, state, state_path)
    with torch.random.fork_rng(devices=[]):
        model = build(origin.network, num_outputs, origin.activation)
    if origin.network.startswith(DETECTOR):
        state = _with_counts_of(model, state)
    load_state(model, state, str(state_path))
    return save_with_card(model, origin, state_path, out)


def save_with_card(model: nn.Module, origin: Origin, state_path: Path, out: Path) -> Card:
    """Save a network that has its weights, after one picture of zeros went through it."""
    card = _card(model, origin, state_path)
    save_checkpoint(out, model, card)
    return card


def read_state(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a state file, free of wrappers and prefixes. Raises ValueError."""
    state = _load_tensors(path)
    for key in WRAPPERS:
        if isinstance(inner := state.get(key), dict):
            state = inner
    for prefix in PREFIXES:
        if state and all(str(name).startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    others = [str(name) for name in state if str(name) not in tensors]
    if others or not state:
        raise ValueError(
            f"{path}: not a state_dict: "
            f"{', '.join(others[:5]) if state else 'nothing in it'} where tensors should be"
        )
    return tensors


def _load_tensors(path: Path) -> dict[Any, Any]:
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as wrong:
            raise ValueError(f"{path}: not a whole safetensors file ({wrong})") from wrong
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as wrong:
        cause = (str(wrong).splitlines() or [type(wrong).__name__])[0]
        raise ValueError(
            f"{path}: holds more than tensors, or is damaged, and Argus unpickles nothing "
            f"({cause[:200]}); where it comes from, save `model.state_dict()`"
        ) from wrong
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, not a state_dict")
    return state


def _renamed(state: dict[str, Tensor], network: str) -> dict[str, Tensor]:
    """Torchvision's published states as today's networks name things."""
    family, _, name = network.partition(":")
    if f"{family}:" == DETECTOR:
        return {f"network.{key}": value for key, value in state.items()}
    if family != "torchvision":
        return state
    if name in AUXILIARY:
        state = {k: v for k, v in state.items() if not k.startswith(SIDE_CLASSIFIERS)}
    return {OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}


def _embedding_size(origin: Origin, state: dict[str, Tensor], state_path: Path) -> int:
    """How many numbers an embedder's last layer gives, by its state. Raises ValueError."""
    with torch.device("meta"):
        model = build(origin.network, 1, origin.activation)
    head = head_of(model)
    name = next(name for name, layer in model.named_modules() if layer is head)
    if f"{name}.weight" not in state:
        raise ValueError(f"{state_path}: not of {origin.network}: has no {name}.weight")
    return state[f"{name}.weight"].shape[0]


def _with_counts_of(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A detector's state with the counts of batches that the network's norms have, and no other.

    Published ones were learnt with frozen norms, which count nothing: no result depends on it.
    """
    counts = {k: v for k, v in model.state_dict().items() if k.endswith(COUNT)}
    return counts | {k: v for k, v in state.items() if k in counts or not k.endswith(COUNT)}


def _convert_onnx(state_path: Path, origin: Origin, out: Path) -> Card:
    from vision_ops.models.onnx_file import OnnxNetwork, with_metadata

    card = _card(OnnxNetwork(state_path, "cpu"), origin, state_path)
    write_whole(out, with_metadata(state_path, {CARD_KEY: card_to_json(card)}))
    return card


def _card(model: nn.Module, origin: Origin, state_path: Path) -> Card:
    preprocess = origin.preprocess
    zeros = torch.zeros(1, *preprocess.network_shape)
    try:
        with torch.inference_mode():
            logits, embedding = logits_and_embeddings(
                model.eval(), zeros, is_embedder=origin.is_embedder
            )
    except (RuntimeError, AssertionError) as wrong:  # torch's and timm's words for a wrong size
        raise ValueError(
            f"{origin.network} does not take pictures of "
            f"{preprocess.height_px} x {preprocess.width_px} (height x width): {wrong}"
        ) from wrong
    if logits.shape != (1, len(origin.classes) or embedding.shape[1]):
        raise ValueError(
            f"{state_path}: gives {tuple(logits.shape[1:])} numbers for a picture, "
            f"and there are {len(origin.classes)} classes"
        )
    return Card(
        network=origin.network,
        activation=origin.activation,
        classes=origin.classes,
        preprocess=preprocess,
        licence=origin.licence,
        source=origin.source,
        parent=sha256_file(state_path),
        embedding_size=embedding.shape[1],
    )
