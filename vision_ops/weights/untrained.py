"""Checkpoints of networks that nobody trained: made here, the same on every machine."""

from pathlib import Path

from torch import nn

from vision_ops.card import Card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.models import build, embedding_size, head_of
from vision_ops.preprocess import Preprocess

UNTRAINED: dict[str, tuple[str, Preprocess]] = {
    "untrained:textures": (
        "textures",
        Preprocess(resize_px=256, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    ),
}
"""name -> network, and how it wants its pictures"""


def check_untrained(name: str) -> None:
    """Raise ValueError where there is none of this name, naming those that there are."""
    if name not in UNTRAINED:
        raise ValueError(f"weights {name}: not one of {', '.join(UNTRAINED)}")


def make_untrained(name: str, out: Path) -> Card:
    """Write the checkpoint: the network as it is built, its last layer all zeros."""
    network, preprocess = UNTRAINED[name]
    model = build(network, num_classes=1).eval()
    head = head_of(model)
    nn.init.zeros_(head.weight)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    card = Card(
        network=network,
        classes=("nothing learnt",),
        preprocess=preprocess,
        licence="Apache-2.0",
        source=name,
        embedding_size=embedding_size(model, preprocess.network_shape),
    )
    save_checkpoint(out, model, card)
    return card
