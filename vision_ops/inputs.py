"""The kinds of input that a network may be made for, by the name that a card has for them.

Light on purpose, as what it lists is: drivers and decoder processes import it without torch.
"""

from vision_ops.preprocess import Preprocess

Inputs = Preprocess
"""how a kind of input becomes what a network sees: its `shape`, `dtype` and `network_shape`"""
KINDS: dict[str, type[Inputs]] = {"picture": Preprocess}


def kind_of_input(preprocess: Inputs) -> str:
    """The name in KINDS."""
    return next(name for name, kind in KINDS.items() if type(preprocess) is kind)
