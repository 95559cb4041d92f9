"""Learning to paint any picture in a style in one pass, or in each of several."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from numpy import ndarray
from torch import Tensor, nn

from vision_ops.augment import AugmentConfig, augment
from vision_ops.card import STYLE_TRANSFORM, read_card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.inputs import Inputs
from vision_ops.learners.descent import Descent, mean_loss
from vision_ops.learners.optimizer import OptimConfig, make_optimizer
from vision_ops.learners.painters import CONVENTION, AdainPainter, Painter, TransformPainter
from vision_ops.losses.style import content_loss, total_variation
from vision_ops.models import in_fast_layout
from vision_ops.preprocess import Preprocess
from vision_ops.style.features import FeatureNetwork

LAYERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "torchvision:squeezenet1_1": (
        "features.4",
        ("features.1", "features.4", "features.7", "features.10"),
    ),
    "torchvision:vgg16": (
        "features.15",
        ("features.3", "features.8", "features.15", "features.22"),
    ),
    "torchvision:vgg19": (
        "features.17",
        ("features.3", "features.8", "features.17", "features.26"),
    ),
    "textures": (
        "stages.1.see",
        ("stages.0.see", "stages.1.see", "stages.2.see", "stages.3.see"),
    ),
    "residual": ("blocks.0", ("stem.2", "blocks.0", "blocks.1", "blocks.2")),
}
"""feature network -> layer of the content, layers of the style, where nothing else is asked for; of
VGG those of Johnson et al. (2016, sec. 4.1), VGG-19's the last of the same stages"""
ADAIN_LAYERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "torchvision:squeezenet1_1": (
        "features.4",
        ("features.1", "features.3", "features.4", "features.7"),
    ),
    "torchvision:vgg19": ("relu4_1", ("relu1_1", "relu2_1", "relu3_1", "relu4_1")),
    "textures": ("stages.1.see", ("stages.0.see", "stages.1.see", "stages.2.see")),
    "residual": ("blocks.1", ("stem.2", "blocks.0", "blocks.1")),
}
"""the same of a network for any style, which exchanges features at the content's layer; of VGG-19
those of Huang and Belongie (2017, sec. 6)"""


@dataclass(frozen=True, kw_only=True)
class StyleModelConfig:
    """A network that paints in the styles that it learns."""

    width: int = 16
    """channels at full size; 32 in the paper, four times the work of 16"""
    preprocess: Inputs = field(
        default_factory=lambda: Preprocess(height_px=128, width_px=128, resize_px=144)
    )
    """size and crop of the pictures it learns from; it paints pictures of any size"""
    licence: str = "unknown"
    """of the weights that come out: said in the checkpoint"""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"model.width {self.width}: must be at least 1")
        _refuse_other_inputs(self.preprocess)

    @property
    def network(self) -> str:
        """As the checkpoint will name it."""
        return f"{STYLE_TRANSFORM}{self.width}"


@dataclass(frozen=True, kw_only=True)
class AdainModelConfig:
    """A network that paints in the style of any picture: see `vision_ops.models.adain`.

    Its encoder is the feature network up to loss.content_layer, its decoder learns.
    """

    preprocess: Inputs = field(
        default_factory=lambda: Preprocess(height_px=128, width_px=128, resize_px=144)
    )
    """size and crop of the pictures it learns from; it paints pictures of any size"""
    licence: str = "unknown"
    """of the decoder's weights: said in the checkpoint beside that of the encoder"""

    def __post_init__(self) -> None:
        _refuse_other_inputs(self.preprocess)


def _refuse_other_inputs(preprocess: Inputs) -> None:
    if not isinstance(preprocess, Preprocess):
        raise ValueError("model.preprocess: styles are of pictures")


@dataclass(frozen=True, kw_only=True)
class StyleLossConfig:
    """What is minimised: content + style_weight * style + smooth_weight * total variation.

    All are `relative`, see `vision_ops.losses.style`; the style is the mean over its layers. Learnt
    styles are compared by Gram matrices, any style by means and deviations (Huang and Belongie
    2017, eq. 11 to 13), whose content is that after the exchange of features.
    """

    style_weight: float = 3.0
    """of the style, where the content counts 1"""
    smooth_weight: float = 1.0
    """of the total variation of pictures 0..1"""
    content_layer: str = ""
    """module of the feature network; empty: the usual one of a network that is known. For any
    style features are exchanged there"""
    style_layers: tuple[str, ...] = ()
    """modules of the feature network; empty: the usual ones of a network that is known"""

    def __post_init__(self) -> None:
        for name in ("style_weight", "smooth_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"loss.{name} {getattr(self, name)}: must be 0 or more")

    def layers(
        self, network: str, model: "StyleModelConfig | AdainModelConfig"
    ) -> tuple[str, tuple[str, ...]]:
        """That of the content, those of the style. Raises ValueError where none is usual."""
        known = ADAIN_LAYERS if isinstance(model, AdainModelConfig) else LAYERS
        content, style = known.get(network, ("", ()))
        content, style = self.content_layer or content, self.style_layers or style
        if not (content and style):
            raise ValueError(
                f"loss.content_layer, loss.style_layers: must be named for features of {network}; "
                f"known are {', '.join(known)}"
            )
        return content, style


@dataclass(frozen=True, kw_only=True)
class StylePicture:
    """A picture whose style is learnt."""

    name: str
    """as the checkpoint will call the style"""
    pixels: UInt8[ndarray, "H W 3"]
    """sRGB 0..255, of the size at which its strokes are to be learnt"""


@dataclass(frozen=True, kw_only=True)
class StyleLearnerConfig:
    """All that a learner is made of: the same config and batches give the same weights."""

    model: StyleModelConfig | AdainModelConfig = field(default_factory=StyleModelConfig)
    """which network"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """how it learns"""
    loss: StyleLossConfig = field(default_factory=StyleLossConfig)
    """what is minimised"""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """how training pictures are varied"""
    features: str
    """checkpoint of the network whose features are compared"""
    styles: tuple[StylePicture, ...]
    """pictures to learn from, a style each"""
    num_steps: int
    """steps of the whole training, for the schedule"""
    seed: int = 0
    """of the first weights, of the augmentation and of the styles that a step draws"""
    num_passes: int = 1
    """pieces that a batch is gone through in: gradients are added up, memory is saved"""
    source: str = "trained from random weights"
    """said in the checkpoint: what it was trained on"""

    def __post_init__(self) -> None:
        names = [style.name for style in self.styles]
        if not names or len(set(names)) != len(names):
            raise ValueError(
                f"styles {', '.join(names) or 'none'}: one or more, of different names"
            )
        for name in ("num_steps", "num_passes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")


class StyleLearner:
    """A network that paints, in training: see `vision_ops.learners.painters` for the two kinds.

    reads   pixels   uint8    (B, H, W, 3)  sRGB, 0..255
            row      int64    (B,)          number of the picture: says the style it is evaluated in

    Each picture of a step is painted in a style that chance draws. What is lowered: see
    `StyleLossConfig`; the content is that of the picture as it is seen, augmented.
    """

    def __init__(self, config: StyleLearnerConfig, device: torch.device | str = "cpu") -> None:
        """Raises ValueError for features that are none, or have not the layers asked for."""
        self.config = config
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.painter = make_painter(config, self.device)
        network = in_fast_layout(self.painter.network.to(self.device))
        self.descent = Descent(
            network,
            make_optimizer(network, config.optim),
            config.optim,
            config.num_steps,
            seed=config.seed,
            num_passes=config.num_passes,
        )

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network that learns or is evaluated, by name."""
        return self.descent.networks

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Share gradients with other processes: forward passes of training go through `wrap`."""
        self.descent.distribute(wrap)

    def begin(self, sample: Callable[[int], Mapping[str, Tensor]]) -> None:
        """Nothing: no first weight depends on the data."""

    def reseed(self, seed: int, rank: int = 0, num_workers: int = 1) -> None:
        """Begin anew what the next step draws."""
        self.descent.reseed(seed, rank, num_workers)

    def step(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """One gradient step; what it lowers (before it), the gradient's norm, and the rate used."""
        descent, config = self.descent, self.config
        pixels = augment(batch["pixels"].to(self.device), config.augment, descent.draws)
        images = as_images(pixels)
        drawn = descent.draws.uniform(len(images), 1)[:, 0] * len(config.styles)
        styles = drawn.long().clamp_max(len(config.styles) - 1).to(self.device)

        def loss(piece: slice) -> Tensor:
            wanted, painted = self._painted(descent.forward, images[piece], styles[piece])
            return self._total(self._costs(painted, wanted, styles[piece])).mean()

        return descent.lower(len(images), loss)

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Sums over the batch, to be added up: loss and its square, its parts, pictures.

        `unchanged` is the loss of the pictures as they are, unpainted. Each picture is in one
        style, that of its number modulo the number of styles.
        """
        network = self.descent.evaluated.eval()
        names = ("loss", "loss_squared", "content", "style", "unchanged", "count")
        total: dict[str, float] = {name: 0.0 for name in names}
        for first in range(0, len(batch["pixels"]), EVALUATED_AT_ONCE):
            piece = slice(first, first + EVALUATED_AT_ONCE)
            images = as_images(batch["pixels"][piece].to(self.device))
            styles = batch["row"][piece].to(self.device) % len(self.config.styles)
            wanted, found = self._painted(network, images, styles)
            painted = self._costs(found, wanted, styles)
            losses = self._total(painted).double()
            unchanged = self._total(self._costs(images, wanted, styles))
            total["loss"] += losses.sum().item()
            total["loss_squared"] += losses.square().sum().item()
            total["content"] += painted["content"].double().sum().item()
            total["style"] += painted["style"].double().sum().item()
            total["unchanged"] += unchanged.double().sum().item()
            total["count"] += len(images)
        return total

    @staticmethod
    def summarize(sums: Mapping[str, float]) -> dict[str, float]:
        """From the added sums of `evaluate`: means, and the loss's standard error."""
        parts = ("content", "style", "unchanged")
        return {**mean_loss(sums), **{name: sums[name] / sums["count"] for name in parts}}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; `torch.load(weights_only=True)` reads it."""
        return self.descent.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.descent.load_state_dict(state)

    def save(self, path: Path) -> None:
        """Write what `evaluate` evaluates as a checkpoint; its card says by which costs."""
        config, loss = self.config, self.config.loss
        styles = tuple(style.name for style in config.styles)
        source = (
            f"{config.source}; costs: {CONVENTION}, content 1, style {loss.style_weight:g}, "
            f"variation {loss.smooth_weight:g}"
        )
        card = self.painter.card(styles, config.model.licence, source)
        save_checkpoint(path, self.painter.whole(self.descent.evaluated), card)

    def _painted(
        self, network: nn.Module, images: Float[Tensor, "B 3 H W"], styles: Int64[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B _ _ _"], Float[Tensor, "B 3 H W"]]:
        """The features that painted pictures shall have, and these."""
        with torch.no_grad():
            wanted = self.painter.wanted(images, styles)
        return wanted, self.painter.paint(network, images, styles, wanted)

    def _costs(
        self,
        painted: Float[Tensor, "B 3 H W"],
        wanted: Float[Tensor, "B _ _ _"],
        styles: Int64[Tensor, " B"],
    ) -> dict[str, Float[Tensor, " B"]]:
        """Content, style and roughness of painted pictures, each for itself."""
        maps = self.painter.maps(painted)
        return {
            "content": content_loss(maps[self.painter.content_layer], wanted, CONVENTION),
            "style": self.painter.style_costs(maps, styles),
            "roughness": total_variation(painted, CONVENTION),
        }

    def _total(self, costs: Mapping[str, Float[Tensor, " B"]]) -> Float[Tensor, " B"]:
        loss = self.config.loss
        return (
            costs["content"]
            + loss.style_weight * costs["style"]
            + loss.smooth_weight * costs["roughness"]
        )


EVALUATED_AT_ONCE = 16
"""pictures, to keep maps of features small"""


def make_painter(config: StyleLearnerConfig, device: torch.device) -> Painter:
    """What the config asks for, with first weights by torch's own generator."""
    model, told = config.model, read_card(config.features).network
    content_layer, style_layers = config.loss.layers(told, model)
    features = FeatureNetwork(config.features, (content_layer, *style_layers), device)
    pixels = [torch.from_numpy(style.pixels.copy())[None] for style in config.styles]
    styles = [as_images(each.to(device)) for each in pixels]
    if isinstance(model, AdainModelConfig):
        return AdainPainter(features, content_layer, style_layers, styles)
    return TransformPainter(model.network, features, content_layer, style_layers, styles)


def as_images(pixels: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    """sRGB 0..255 -> 0..1, channels first; the memory order stays."""
    return pixels.permute(0, 3, 1, 2).float() / 255
