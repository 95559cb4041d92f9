"""Style transfer by optimising the picture itself (Gatys et al. 2016)."""

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from vision_ops.arrays import as_shared
from vision_ops.device import one_thread, pick_device
from vision_ops.style import Stylised
from vision_ops.style.gatys_config import TILE_PX, GatysConfig
from vision_ops.style.objective import Objective, Targets, mixed

Picture = UInt8[np.ndarray, "_ _ 3"]
Images = Float[Tensor, "B 3 H W"]
TOGETHER_PX = 4_000_000
"""pixels of pictures that are optimised in one batch on an accelerator"""
HISTORY, HISTORY_BYTES = 20, 2_000_000_000
"""steps that L-BFGS remembers, two copies of the picture each; fewer of one of 4 million pixels
or more, but 3"""
LAST_RATE = 0.1
"""the learning rate of the last step, in parts of that of the first"""


class Gatys:
    """Pictures in the style of others; a `Stylist`.

    `weights` are a checkpoint of a classifier of pictures, for example of torchvision:vgg19.
    `styles` are pictures, sRGB 0..255, `shares` how much of each (all equal where none are given);
    their Gram matrices are mixed by these, and one of weight 0 counts as not given. Each style goes
    through the network once a level, when that is first needed, however many pictures follow, in
    however many threads.

    Pictures and styles of more than `tile_px` squared pixels are seen in tiles, see `Objective`:
    beside a few copies of the picture and the content's maps, memory is that of a tile.

    Raises ValueError for no styles, shares that do not fit, styles too small for the network or
    of which it makes what is no number, and what `FeatureNetwork` raises for.
    """

    def __init__(
        self,
        config: GatysConfig,
        weights: str | Path,
        styles: Sequence[Picture],
        shares: Sequence[float] = (),
        tile_px: int = TILE_PX,
    ) -> None:
        self.config = config
        self.device = pick_device()
        self.objective = Objective(config, weights, self.device, tile_px)
        self.features = self.objective.features
        self._take(styles, shares)
        if config.precision == "bf16":
            self.objective.halve(self._style_image(self.styles[0][0], 0), config.seed)

    def in_styles(self, styles: Sequence[Picture], shares: Sequence[float] = ()) -> "Gatys":
        """The same for other styles, by the same network; for the same thread."""
        other = copy.copy(self)
        other._take(styles, shares)
        return other

    def by(self, objective: Objective) -> "Gatys":
        """The same for another thread, which has this `Objective.twin` of its own.

        Gram matrices are shared: they are found by whichever thread needs them first.
        """
        other = copy.copy(self)
        other.objective, other.features = objective, objective.features
        return other

    def _take(self, styles: Sequence[Picture], shares: Sequence[float]) -> None:
        parts = _shares(len(styles), shares)
        for number, style in enumerate(styles):
            self._check_style(number, style)
        pairs = zip(styles, parts, strict=True)
        self.styles = [(style, share) for style, share in pairs if share > 0]
        self.grams: dict[int, dict[str, Tensor]] = {}
        self.finding = Lock()

    def __call__(self, contents: Sequence[Picture]) -> list[Stylised]:
        """Each picture, sRGB 0..255, as one of the same size, with the costs of what is given.

        On a CPU one at a time and in one thread: what shares a batch, or how many threads share the
        work, may change the last bit of a sum; cores are used by several objects. On an
        accelerator those of one size together, which no picture notices but for such bits. One
        that is shorter or narrower than the network needs is enlarged for the while. Raises
        ArithmeticError where the costs become what is no number.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, content in enumerate(contents):
            groups.setdefault(content.shape, []).append(index)
        done: dict[int, Stylised] = {}
        for (height, width, _), indices in groups.items():
            most = 1 if self.device.type == "cpu" else max(1, TOGETHER_PX // (height * width))
            for first in range(0, len(indices), most):
                part = indices[first : first + most]
                with one_thread() if self.device.type == "cpu" else nullcontext():
                    batch = self.optimise(np.stack([contents[index] for index in part]))
                done.update(zip(part, batch, strict=True))
        return [done[index] for index in range(len(contents))]

    def follow(self, content: Picture, before: Picture | None) -> Stylised:
        """See `Follower`: at the picture's own size alone, with the rate that others end with."""
        begin = None if before is None else before[None]
        with one_thread() if self.device.type == "cpu" else nullcontext():
            return self.optimise(content[None], begin)[0]

    def optimise(
        self,
        contents: UInt8[np.ndarray, "B H W 3"],
        begin: UInt8[np.ndarray, "B H W 3"] | None = None,
    ) -> list[Stylised]:
        """The same of pictures of one size, in one batch; beginning with others, if given."""
        pixels = _to_images(contents, self.device)
        least = self.features.least_side_px
        height, width = contents.shape[1:3]
        full = _resize(pixels, *_scaled(height, width, 1.0, least))
        image, targets = None, None
        if begin is not None:
            image = _resize(_to_images(begin, self.device), *full.shape[2:])
        for level in reversed(range(1 if begin is not None else self.config.levels)):
            size = _scaled(full.shape[2], full.shape[3], 0.5**level, 1)
            if level and min(size) < least:
                continue
            content = _resize(full, *size)
            targets = Targets(self.objective.content(content), self._style(level))
            image = self._start(content) if image is None else _resize(image, *size)
            fade = 1.0 if begin is None else LAST_RATE
            image = self._descend(image.clamp(0, 1), targets, fade)
        assert image is not None
        assert targets is not None
        if not image.isfinite().all():
            raise ArithmeticError(f"pixels became what is no number: {self.config}")
        found = _to_pixels(_resize(image, height, width))
        before = self.objective.costs(self._start(full), targets)
        seen = _resize(_to_images(found, self.device), *full.shape[2:])
        after = self.objective.costs(seen, targets)
        if not after.total.isfinite().all():
            raise ArithmeticError(f"costs became what is no number: {self.config}")
        return [_stylised(*each) for each in zip(found, *after, before.total, strict=True)]

    def _check_style(self, number: int, style: Picture) -> None:
        least = self.features.least_side_px
        if min(style.shape[:2]) < least:
            height, width, _ = style.shape
            raise ValueError(
                f"style {number}: {height} x {width} px (height x width), "
                f"{self.features.weights} needs {least} px a side"
            )

    def _style(self, level: int) -> dict[str, Tensor]:
        """Gram matrix of each style layer, mixed; styles are reduced as the picture is."""
        with self.finding:
            if level not in self.grams:
                self.grams[level] = self._find_style(level)
            return self.grams[level]

    def _find_style(self, level: int) -> dict[str, Tensor]:
        found = [
            (self.objective.grams(self._style_image(style, level)), share)
            for style, share in self.styles
        ]
        grams = mixed(found)
        if bad := [layer for layer, gram in grams.items() if not gram.isfinite().all()]:
            raise ValueError(f"{self.features.weights}: no numbers at {', '.join(bad)}")
        return grams

    def _style_image(self, style: Picture, level: int) -> Images:
        height, width, _ = style.shape
        scale = min(1.0, self.config.style_longest_px / max(height, width)) * 0.5**level
        image = _to_images(style[None], self.device)
        return _resize(image, *_scaled(height, width, scale, self.features.least_side_px))

    def _start(self, content: Images) -> Images:
        """The content, or the same noise for every picture of a size."""
        if self.config.start == "content":
            return content
        generator = torch.Generator().manual_seed(self.config.seed)
        return torch.rand(1, *content.shape[1:], generator=generator).to(content).expand_as(content)

    def _descend(self, images: Images, targets: Targets, fade: float) -> Images:
        """With a learning rate of Adam that is multiplied by `fade`."""
        if self.config.optimiser == "adam":
            return self._descend_by_adam(images, targets, fade)
        return torch.cat(
            [
                self._descend_by_lbfgs(image[None], targets.of(index))
                for index, image in enumerate(images)
            ]
        )

    def _descend_by_adam(self, images: Images, targets: Targets, fade: float) -> Images:
        image = images.clone().requires_grad_()
        optimizer = torch.optim.Adam([image], eps=1e-12)
        (group,) = optimizer.param_groups
        for step in range(self.config.steps):
            fallen = (1 + math.cos(math.pi * step / self.config.steps)) / 2
            group["lr"] = fade * self.config.rate * (LAST_RATE + (1 - LAST_RATE) * fallen)
            _, image.grad = self.objective.gradient(image, targets)
            optimizer.step()
            with torch.no_grad():
                image.clamp_(0, 1)
        return image.detach()

    def _descend_by_lbfgs(self, images: Images, targets: Targets) -> Images:
        image = images.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [image],
            lr=self.config.rate,
            max_iter=self.config.steps,
            history_size=max(3, min(HISTORY, HISTORY_BYTES // (2 * image.nbytes))),
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        def evaluate() -> Tensor:
            total, image.grad = self.objective.gradient(image, targets)
            return total.sum()

        optimizer.step(evaluate)
        return image.detach()


def _shares(num_styles: int, weights: Sequence[float]) -> list[float]:
    if not num_styles:
        raise ValueError("styles: none given, at least one picture is needed")
    weights = weights or [1.0] * num_styles
    if len(weights) != num_styles:
        raise ValueError(f"style weights {list(weights)}: {len(weights)} for {num_styles} styles")
    if not (all(0 <= each < math.inf for each in weights) and sum(weights) > 0):
        raise ValueError(f"style weights {list(weights)}: must be 0 or more, one above 0")
    return [each / sum(weights) for each in weights]


def _to_images(pixels: UInt8[np.ndarray, "B H W 3"], device: torch.device) -> Images:
    """0..255 -> 0..1, channels first."""
    tensor = torch.from_numpy(as_shared(pixels))
    return tensor.to(device).permute(0, 3, 1, 2).float().div(255).contiguous()


def _to_pixels(images: Images) -> UInt8[np.ndarray, "B H W 3"]:
    """0..1 -> 0..255, channels last."""
    rounded = images.clamp(0, 1).mul(255).round().to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _scaled(height: int, width: int, scale: float, least: int) -> tuple[int, int]:
    """Both sides by one factor: `scale`, or more where the shorter one would be below `least`."""
    scale = max(scale, least / min(height, width))
    return max(least, round(height * scale)), max(least, round(width * scale))


def _resize(
    images: Float[Tensor, "B 3 _ _"], height: int, width: int
) -> Float[Tensor, "B 3 {height} {width}"]:
    if images.shape[2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True).clamp(0, 1)


def _stylised(
    pixels: Picture, content: Tensor, style: Tensor, total: Tensor, at_start: Tensor
) -> Stylised:
    named = {"content": content, "style": style, "total": total, "total_at_start": at_start}
    return Stylised(pixels, {name: value.item() for name, value in named.items()})
