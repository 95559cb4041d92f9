"""What training lowers. Light: what the losses are made of is in the modules."""

from typing import Literal

StyleConvention = Literal["paper", "mean", "relative"]
"""how the costs of style transfer are normalised, see `vision_ops.losses.style`"""
