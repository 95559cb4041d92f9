"""Weights and the card that explains them, in one file.

A checkpoint is a safetensors file whose header holds the card; an ONNX file holds it in its
metadata. Nothing is unpickled. The same weights and card give the same bytes, so a checkpoint's
sha256 names it.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vision_ops.card import (
    CARD_KEY,
    Card,
    card_to_json,
    is_compiled,
    is_onnx,
    read_card,
    write_whole,
)
from vision_ops.models import build


def save_checkpoint(path: str | Path, model: nn.Module, card: Card) -> None:
    """Write weights and card whole: a reader sees the old file or the new one, never a half."""
    # copies: safetensors refuses tensors that share memory
    state = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    write_whole(path, save(state, metadata={CARD_KEY: card_to_json(card)}))


def load_checkpoint(path: str | Path, device: torch.device | str) -> tuple[nn.Module, Card]:
    """The network, in eval mode on the device, and its card.

    Raises ValueError, naming the file, for a file that is no checkpoint, a card that is not
    understood, and weights that are missing, unexpected or of another shape. The state of torch's
    random generator is left as it was.
    """
    card = read_card(path)
    if is_compiled(path):
        raise ValueError(f"{path}: a compiled network; `vision_ops.precision` opens it")
    if is_onnx(path):
        from vision_ops.models.onnx_file import OnnxNetwork

        return OnnxNetwork(Path(path), device).eval(), card
    with torch.random.fork_rng(devices=[]):
        try:
            channels = card.preprocess.num_channels
            model = build(card.network, card.num_outputs, card.activation, channels)
        except ValueError as wrong:
            raise ValueError(f"{path}: {wrong}") from wrong
    load_state(model, load_file(path), str(path))
    return model.to(device).eval(), card


def load_state(model: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Copy a state into a network, strictly. Raises ValueError that lists what does not fit."""
    wanted = model.state_dict()
    complaints = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
            for key, tensor in wanted.items()
            if key in state and state[key].shape != tensor.shape
        ],
    }
    found = [f"{len(keys)} {what}: {_some(keys)}" for what, keys in complaints.items() if keys]
    if found:
        raise ValueError(f"{name}: weights do not fit {type(model).__name__}; {'; '.join(found)}")
    model.load_state_dict(state)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (", …" if len(keys) > 5 else "")
