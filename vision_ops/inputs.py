"""The kinds of input that a network may be made for, by the name that a card has for them.

Light on purpose, as what it lists is: drivers and decoder processes import it without torch.
"""

from vision_ops.canvas import Canvas
from vision_ops.clips import ClipPreprocess
from vision_ops.faces import FacePreprocess
from vision_ops.noise import Noise
from vision_ops.pairs import PairPreprocess
from vision_ops.preprocess import Preprocess
from vision_ops.signals import SignalPreprocess
from vision_ops.volumes import VolumePreprocess

Inputs = (
    Preprocess
    | ClipPreprocess
    | SignalPreprocess
    | VolumePreprocess
    | FacePreprocess
    | Canvas
    | PairPreprocess
    | Noise
)
"""how a kind of input becomes what a network sees: its `shape`, `dtype` and `network_shape`"""
KINDS: dict[str, type[Inputs]] = {
    "picture": Preprocess,
    "clip": ClipPreprocess,
    "signal": SignalPreprocess,
    "volume": VolumePreprocess,
    "face": FacePreprocess,
    "canvas": Canvas,
    "pair": PairPreprocess,
    "noise": Noise,
}


def kind_of_input(preprocess: Inputs) -> str:
    """The name in KINDS."""
    return next(name for name, kind in KINDS.items() if type(preprocess) is kind)
