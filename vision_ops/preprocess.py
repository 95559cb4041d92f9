"""What lies between a decoded picture and a network: size, crop, scale, channel order.

Light on purpose (PIL only): decoder processes import it and start without torch.
`fit` is the half that decoders do, on uint8; `vision_ops.normalize` is what the device does.
`fit_stored` is `fit` where speed matters more than the last level.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "lanczos"]
Channels = Literal["RGB", "BGR"]

RESAMPLING: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}
HARD = ("nearest", "box")
"""filters with hard edges: moved by a hair, they take other pixels"""
EXTREME_ASPECT = 16
"""longer : shorter side from which `fit` computes nothing but the pixels of the crop"""
MAX_SIZE_PX = 8_192
"""of height, width and resize; Pillow warns of a crop beyond 89 megapixels"""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a network wants its pictures. The defaults are ImageNet's usual evaluation transform."""

    height_px: int = 224
    """height that the network sees"""
    width_px: int = 224
    """width that the network sees"""
    resize_px: int = 256
    """shorter side before the centre crop; 0: no crop, squash straight to height x width"""
    interpolation: Interpolation = "bilinear"
    """filter of the resize, antialiased as PIL's are (nearest apart)"""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """subtracted from pixel / scale, in the order of `channels`"""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """divided by after the mean, in the order of `channels`"""
    channels: Channels = "RGB"
    """order in which the network wants its channels"""
    scale: float = 255.0
    """what a pixel of 0..255 is divided by first; 1 for networks that want 0..255"""

    def __post_init__(self) -> None:
        for name in ("height_px", "width_px", "resize_px"):
            value, least = getattr(self, name), 0 if name == "resize_px" else 1
            if not least <= value <= MAX_SIZE_PX:
                raise ValueError(f"{name} {value}: must be {least}..{MAX_SIZE_PX}")
        for name, accepted in (("interpolation", Interpolation), ("channels", Channels)):
            if getattr(self, name) not in get_args(accepted):
                raise ValueError(f"{name} {getattr(self, name)!r}: not one of {get_args(accepted)}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if len(value) != 3 or not all(abs(number) < float("inf") for number in value):
                raise ValueError(f"{name} {value}: must be three finite numbers, one a channel")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std}: must be above 0")
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale {self.scale}: must be above 0 and finite")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a decoded picture: (H, W, 3)."""
        return (self.height_px, self.width_px, 3)

    @property
    def dtype(self) -> np.dtype:
        """Of a decoded picture."""
        return np.dtype(np.uint8)

    @property
    def num_channels(self) -> int:
        """Of what the network sees."""
        return 3

    @property
    def network_shape(self) -> tuple[int, ...]:
        """Of what the network sees, channels first: (3, H, W)."""
        return (3, self.height_px, self.width_px)

    def describe(self) -> dict[str, str]:
        """What a person is told of it."""
        resize = f"resize {self.resize_px}, crop" if self.resize_px else "squash"
        return {
            "pixels": f"{resize} to {self.height_px} x {self.width_px} (height x width), "
            f"{self.interpolation}",
            "input": f"{self.channels}, pixel / {self.scale:g}, mean {self.mean}, std {self.std}",
        }


def fit(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Resize and crop a picture to exactly height_px x width_px, RGB.

    Bit for bit torchvision's `Resize(resize_px)` and `CenterCrop((height_px, width_px))` on PIL
    pictures, zeros around a picture smaller than the crop included; with resize_px 0
    `Resize((height_px, width_px))`. One exception: where one side is over EXTREME_ASPECT times the
    other (a strip of 1 x 5,000 would become 256 x 1,280,000 pixels, 1.3 GB), only the pixels
    inside the crop are computed; see `fit_stored` for how near they come.
    """
    image = image if image.mode == "RGB" else image.convert("RGB")
    method = RESAMPLING[preprocess.interpolation]
    crop_height, crop_width = preprocess.height_px, preprocess.width_px
    if preprocess.resize_px == 0:
        return _resize(image, crop_height, crop_width, method)
    height, width = resized_shape(image.height, image.width, preprocess.resize_px)
    if max(image.height, image.width) > EXTREME_ASPECT * min(image.height, image.width):
        return _resize_crop(image, _windows(image.height, image.width, preprocess), method)
    image = _resize(image, height, width, method)
    top, left = _crop_start(height, crop_height), _crop_start(width, crop_width)
    if (height, width) == (crop_height, crop_width):
        return image
    return image.crop((left, top, left + crop_width, top + crop_height))  # outside: zeros


def least_side(preprocess: Preprocess) -> int:
    """Shorter side (px) down to which a picture may be reduced before `fit_stored`; 0: not at all.

    Twice what it is resized to: what the reduction takes away, the resize would have too. HARD
    filters show which pixels there were.
    """
    if preprocess.interpolation in HARD:
        return 0
    return 2 * (preprocess.resize_px or max(preprocess.height_px, preprocess.width_px))


def fit_stored(
    image: Image.Image,
    preprocess: Preprocess,
    extent: tuple[float, float],
    turn: Image.Transpose | None,
) -> Image.Image:
    """`fit` of a picture as it is stored, still to be turned, and perhaps reduced; the crop alone.

    extent: height and width of the picture in pixels of `image`, of which the last row and column
    may lie partly outside. Where nothing was reduced: within 1 level of `fit` on the upright
    picture; with box and nearest bit for bit; with bicubic and lanczos more at edges where these
    overshoot black or white, as Pillow resizes along the cheaper side first and clips in between.
    """
    image = image if image.mode == "RGB" else image.convert("RGB")
    if preprocess.interpolation in HARD:  # a rounded coordinate is another pixel, not a level
        return fit(image if turn is None else image.transpose(turn), preprocess)
    swapped, *mirrored = MIRRORED[turn]
    if swapped:
        preprocess = replace(
            preprocess, height_px=preprocess.width_px, width_px=preprocess.height_px
        )
    windows = _windows(*extent, preprocess, *mirrored)
    image = _resize_crop(image, windows, RESAMPLING[preprocess.interpolation])
    return image if turn is None else image.transpose(turn)


MIRRORED: dict[Image.Transpose | None, tuple[bool, bool, bool]] = {
    None: (False, False, False),
    Image.Transpose.FLIP_LEFT_RIGHT: (False, False, True),
    Image.Transpose.ROTATE_180: (False, True, True),
    Image.Transpose.FLIP_TOP_BOTTOM: (False, True, False),
    Image.Transpose.TRANSPOSE: (True, False, False),
    Image.Transpose.ROTATE_270: (True, True, False),
    Image.Transpose.TRANSVERSE: (True, True, True),
    Image.Transpose.ROTATE_90: (True, False, True),
}
"""Turn -> whether it swaps height and width; which of the stored ones it mirrors"""


def resized_shape(height: float, width: float, resize_px: int) -> tuple[int, int]:
    """Height and width after a resize of the shorter side to resize_px, rounded as torchvision."""
    if height < width:
        return resize_px, int(resize_px * width / height)
    return int(resize_px * height / width), resize_px


def _resize(image: Image.Image, height: int, width: int, method: Image.Resampling) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), method)


def _crop_start(size: int, crop: int) -> int:
    """First row or column of torchvision's CenterCrop; negative where it pads."""
    return round((size - crop) / 2) if size >= crop else -((crop - size) // 2)


class Placement(NamedTuple):
    """Where a picture lies in what the network sees: x' = x * scale_x - left, y alike."""

    scale_y: float
    scale_x: float
    top: int
    """first row of the crop; negative where it pads"""
    left: int


def placement(height: float, width: float, preprocess: Preprocess) -> Placement:
    """How `fit` maps the pixels of an upright picture of this size to the network's."""
    crop = (preprocess.height_px, preprocess.width_px)
    resized = resized_shape(height, width, preprocess.resize_px) if preprocess.resize_px else crop
    top, left = (_crop_start(size, part) for size, part in zip(resized, crop, strict=True))
    return Placement(resized[0] / height, resized[1] / width, top, left)


class _Window(NamedTuple):
    """Along one side: what the crop takes of a picture, and where it goes."""

    crop: int
    """pixels of the crop"""
    place: int
    """first of them that shows the picture; those before it are zeros"""
    seen: int
    """how many show the picture"""
    start: float
    """first of the picture's pixels that are seen"""
    stop: float
    """where they end"""


def _window(extent: float, resized: int, crop: int, mirrored: bool) -> _Window:
    start = _crop_start(resized, crop)
    start = resized - crop - start if mirrored else start
    first, last = max(start, 0), min(start + crop, resized)
    scale = extent / resized
    return _Window(crop, first - start, last - first, first * scale, min(last * scale, extent))


def _windows(
    height: float,
    width: float,
    preprocess: Preprocess,
    mirrored_y: bool = False,
    mirrored_x: bool = False,
) -> tuple[_Window, _Window]:
    """Along the height and along the width of a picture."""
    crop_height, crop_width = preprocess.height_px, preprocess.width_px
    resized = (crop_height, crop_width)
    if preprocess.resize_px:
        resized = resized_shape(height, width, preprocess.resize_px)
    return (
        _window(height, resized[0], crop_height, mirrored_y),
        _window(width, resized[1], crop_width, mirrored_x),
    )


def _resize_crop(
    image: Image.Image, windows: tuple[_Window, _Window], method: Image.Resampling
) -> Image.Image:
    """Centre crop of the resized picture without making the rest of it."""
    y, x = windows
    seen = image.resize((x.seen, y.seen), method, box=(x.start, y.start, x.stop, y.stop))
    if (y.seen, x.seen) == (y.crop, x.crop):
        return seen
    canvas = Image.new("RGB", (x.crop, y.crop))
    canvas.paste(seen, (x.place, y.place))
    return canvas
