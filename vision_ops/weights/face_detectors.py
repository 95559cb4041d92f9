"""Published detectors of faces -> a checkpoint of ours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vision_ops.canvas import Canvas
from vision_ops.card import CARD_KEY, Card, card_to_json, is_onnx, sha256_file, write_whole
from vision_ops.checkpoint import load_checkpoint, load_state, save_checkpoint
from vision_ops.faces import FACE_DETECTOR
from vision_ops.faces.detect import DetectorConfig, make_detector
from vision_ops.faces.onnx_format import FORMAT_KEY, format_to_json, named_format
from vision_ops.models import FACE_DETECTORS, build
from vision_ops.models.mtcnn import Mtcnn
from vision_ops.weights.convert import read_state

ONNX = f"{FACE_DETECTOR}onnx"
YUNET = f"{FACE_DETECTOR}yunet"
MTCNN_PARTS = ("pnet", "rnet", "onet")


def suffix_of(network: str) -> str:
    """What the checkpoint of a detector is called: .safetensors or .onnx."""
    return ".safetensors" if network in FACE_DETECTORS else ".onnx"


def convert_detector(
    network: str, states: Sequence[Path], licence: str, source: str, out: Path
) -> Card:
    """Make a checkpoint of published files; their sha256s, joined by commas, are its parent.

    face_detector:mtcnn         one state of all three networks, or three files named after them
    face_detector:retinaface    a state
    face_detector:yunet         OpenCV's ONNX file
    face_detector:onnx:FORMAT   an ONNX file; a name or .json file of `vision_ops.faces.onnx_format`

    Raises ValueError, naming the file, for what does not fit or does not run.
    """
    family, _, told = network.removeprefix(FACE_DETECTOR).partition(":")
    network = f"{FACE_DETECTOR}{family}"
    if network != ONNX and told:
        raise ValueError(f"network {network}:{told}: only {ONNX} is given a format")
    card = Card(
        network=network,
        classes=(),
        preprocess=Canvas(),
        licence=licence,
        source=source,
        parent=",".join(sha256_file(path) for path in states),
        embedding_size=0,
    )
    if network in FACE_DETECTORS:
        save_checkpoint(out, _with_states(network, states), card)
    elif network in (ONNX, YUNET):
        _convert_onnx(_only(states, network), card, told, out)
    else:
        accepted = (*FACE_DETECTORS, YUNET, f"{ONNX}:FORMAT")
        raise ValueError(f"network {network}: not one of {', '.join(accepted)}")
    check_detector(out)
    return card


def check_detector(path: Path) -> None:
    """Raise ValueError where a detector does not load, or answers with what is no number."""
    detector = make_detector(DetectorConfig(), path)
    grey = np.full((64, 96, 3), 127, np.uint8)
    if is_onnx(path):
        from vision_ops.models.onnx_file import weights_are_finite  # of the extra

        finite = weights_are_finite(path)
    else:
        state = load_checkpoint(path, "cpu")[0].state_dict()
        finite = all(tensor.isfinite().all() for tensor in state.values())
    if not finite:
        raise ValueError(f"{path}: has weights that are not finite")
    detector([grey])


def _with_states(network: str, states: Sequence[Path]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        model = build(network, 0)
    if isinstance(model, Mtcnn) and len(states) > 1:
        for part, path in _named(states).items():
            load_state(model.get_submodule(part), read_state(path), str(path))
    else:
        path = _only(states, network)
        load_state(model, read_state(path), str(path))
    return model


def _named(states: Sequence[Path]) -> dict[str, Path]:
    """The file of each of MTCNN's networks. Raises ValueError where a name is not clear."""
    found = {part: [path for path in states if part in path.name.lower()] for part in MTCNN_PARTS}
    if len(states) != len(MTCNN_PARTS) or any(len(paths) != 1 for paths in found.values()):
        names = ", ".join(path.name for path in states)
        raise ValueError(
            f"state {names}: mtcnn takes three files, with {', '.join(MTCNN_PARTS)} in their names"
        )
    return {part: paths[0] for part, paths in found.items()}


def _only(states: Sequence[Path], network: str) -> Path:
    if len(states) != 1:
        raise ValueError(f"state: {len(states)} files; {network} takes one")
    return states[0]


def _convert_onnx(state: Path, card: Card, told: str, out: Path) -> None:
    from vision_ops.models.onnx_file import with_metadata

    entries = {CARD_KEY: card_to_json(card)}
    if card.network == ONNX:
        entries[FORMAT_KEY] = format_to_json(named_format(told))
    write_whole(out, with_metadata(state, entries))
