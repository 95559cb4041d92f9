"""What `vision_ops.style.gatys` is asked for. Light: drivers read it without torch."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from vision_ops.losses import StyleConvention

Pooling = Literal["as_trained", "average", "max"]
Optimiser = Literal["adam", "lbfgs"]
Start = Literal["content", "noise"]
Precision = Literal["fp32", "bf16"]

STYLE_WEIGHTS: dict[StyleConvention, float] = {"paper": 8e3, "mean": 1.2e3, "relative": 40.0}
"""looked at with SqueezeNet 1.1 and 256 px. Other networks want others, but in `relative`; so do
other sizes in `paper`, whose content cost grows with the picture"""
MOST_WEIGHT = 1e12
"""of a cost: squares of gradients would leave float32 some way above it, and no step be made"""
TILE_PX = 768
"""side of what is seen at a time of larger pictures"""
LEARNING_RATES: dict[Optimiser, float] = {"adam": 0.05, "lbfgs": 1.0}


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """By which activations of a network pictures are compared."""

    content_layers: tuple[str, ...] = ()
    """names of its modules, relu4_2 and the like for a VGG; none: those that
    `vision_ops.style.layers.LAYERS` has for the network"""
    style_layers: tuple[str, ...] = ()
    """likewise"""
    style_layer_weights: tuple[float, ...] = ()
    """lambda_l of each style layer; none: what `vision_ops.style.layers.LAMBDAS` has where
    style_layers are not named either, else equal ones that add up to 1, as in the paper"""
    pooling: Pooling = "as_trained"
    """average in place of maximum is smoother (Gatys et al. 2016, sec. 2)"""

    def __post_init__(self) -> None:
        _check_choice("pooling", self.pooling, Pooling)
        for name in ("content_layers", "style_layers"):
            layers = getattr(self, name)
            if len(set(layers)) < len(layers):
                raise ValueError(f"{name} {layers}: a layer is named twice")
        weights = self.style_layer_weights
        if weights and not (all(0 <= each < math.inf for each in weights) and sum(weights) > 0):
            raise ValueError(f"style_layer_weights {weights}: must be 0 or more, one above 0")


@dataclass(frozen=True, kw_only=True)
class CostsConfig:
    """What is lowered: content_weight * J_content + style_weight * sum_l lambda_l E_l
    + variation_weight * TV (Gatys et al. 2016, eq. 7, and a third term that smooths)."""

    convention: StyleConvention = "relative"
    """how the three are normalised, see `vision_ops.losses.style`; it says what weights mean"""
    content_weight: float = 1.0
    """alpha"""
    style_weight: float | Literal["auto"] = "auto"
    """beta; auto: what STYLE_WEIGHTS has for the convention"""
    variation_weight: float = 0.0
    """of the total variation; of `relative` and `mean` 1 to 5 smooths a little"""

    def __post_init__(self) -> None:
        _check_choice("convention", self.convention, StyleConvention)
        for name in ("content_weight", "style_weight", "variation_weight"):
            value = getattr(self, name)
            if value != "auto" and not 0 <= value <= MOST_WEIGHT:
                raise ValueError(f"{name} {value}: must be 0..{MOST_WEIGHT:g}")
        if self.beta == 0 and self.content_weight == 0:
            raise ValueError("content_weight 0, style_weight 0: nothing would be lowered")

    @property
    def beta(self) -> float:
        """The style's weight as it is used."""
        return STYLE_WEIGHTS[self.convention] if self.style_weight == "auto" else self.style_weight


@dataclass(frozen=True, kw_only=True)
class GatysConfig:
    """Style transfer by optimising the picture itself (Gatys et al. 2016)."""

    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    """by which activations of the network pictures are compared"""
    costs: CostsConfig = field(default_factory=CostsConfig)
    """what is lowered"""
    optimiser: Optimiser = "adam"
    """adam; lbfgs: as the paper, with a line search of the strong Wolfe conditions"""
    learning_rate: float | Literal["auto"] = "auto"
    """of adam: the first steps change pixels of 0..1 by as much, the last ones by a tenth of it; of
    lbfgs: the step that a line search tries first, in parts of Newton's; auto: 0.05, and 1"""
    steps: int = 60
    """at each level: of adam, or iterations of lbfgs, which evaluates a quarter more often at most,
    but for the last line search"""
    start: Start = "content"
    """what is optimised: the content itself; or noise, in which the content is found again only
    with a style_weight of about a tenth of `auto` and twice the steps"""
    levels: int = 2
    """1: at the picture's size at once; more: at half of it, a quarter and so on first, coarse to
    fine (Gatys et al. 2017, sec. 6), which carries large patterns into the result"""
    style_longest_px: int = 256
    """longer side that larger style pictures are reduced to: patterns become as large in the result
    as they are in them"""
    seed: int = 0
    """of the noise"""
    precision: Precision = "fp32"
    """of the network while gradients are taken; bf16 only where it tells the cost of noise within
    2 % of fp32, else fp32, which is said. Costs that are told are always of fp32"""

    def __post_init__(self) -> None:
        _check_choice("optimiser", self.optimiser, Optimiser)
        _check_choice("start", self.start, Start)
        _check_choice("precision", self.precision, Precision)
        if self.learning_rate != "auto" and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate {self.learning_rate}: must be above 0")
        for name, most in (("steps", 100_000), ("levels", 8), ("style_longest_px", 16_384)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} {getattr(self, name)}: must be 1..{most}")

    @property
    def rate(self) -> float:
        """The learning rate as it is used."""
        rate = self.learning_rate
        return LEARNING_RATES[self.optimiser] if rate == "auto" else rate


def _check_choice(name: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} {value!r}: not one of {get_args(choices)}")
