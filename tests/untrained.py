"""Checkpoints that no training was needed for."""

from pathlib import Path
from typing import Any

import torch

from vision_ops.card import Card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.faces import FacePreprocess
from vision_ops.models import build, embedding_size
from vision_ops.preprocess import Preprocess


def save_embedder(
    path: Path, size_px: int, embedding_size: int = 16, flip_sum: bool = False
) -> str:
    """An embedder of square faces: our residual network with weights of seed 0."""
    torch.manual_seed(0)
    card = Card(
        network="residual",
        classes=(),
        preprocess=FacePreprocess(height_px=size_px, width_px=size_px, flip_sum=flip_sum),
        licence="none",
        source="random",
        embedding_size=embedding_size,
    )
    save_checkpoint(path, build("residual", num_classes=embedding_size), card)
    return str(path)


def save_untrained(path: Path, size_px: int) -> str:
    """Ten classes by our residual network with weights of seed 0, over square images."""
    torch.manual_seed(0)
    model = build("residual", num_classes=10)
    card = Card(
        network="residual",
        classes=tuple("0123456789"),
        preprocess=Preprocess(height_px=size_px, width_px=size_px, resize_px=0),
        licence="none",
        source="random",
        embedding_size=embedding_size(model, (3, size_px, size_px)),
    )
    save_checkpoint(path, model, card)
    return str(path)


def save_random(path: Path, network: str, **preprocess: Any) -> str:
    """Two classes by any network with weights of seed 0, over pictures as `preprocess` says."""
    torch.manual_seed(0)
    card = Card(
        network=network,
        classes=("a", "b"),
        preprocess=Preprocess(**preprocess),
        licence="none",
        source="random",
        embedding_size=1,
    )
    save_checkpoint(path, build(network, 2), card)
    return str(path)
