"""What lies between a decoded picture and a network: size, crop, scale, channel order.

Light on purpose (PIL only): decoder processes import it and start without torch.
`fit` is the half that decoders do, on uint8; `vision_ops.normalize` is what the device does.
"""

from dataclasses import dataclass
from typing import Literal, get_args

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


def fit(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Resize and crop a picture to exactly height_px x width_px, RGB.

    Bit for bit torchvision's `Resize(resize_px)` and `CenterCrop((height_px, width_px))` on PIL
    pictures, zeros around a picture smaller than the crop included; with resize_px 0
    `Resize((height_px, width_px))`. One exception: where one side is over EXTREME_ASPECT times the
    other (a strip of 1 x 5,000 would become 256 x 1,280,000 pixels, 1.3 GB), only the pixels
    inside the crop are computed; they are torchvision's within 1 level of rounding.
    """
    image = image if image.mode == "RGB" else image.convert("RGB")
    method = RESAMPLING[preprocess.interpolation]
    crop_height, crop_width = preprocess.height_px, preprocess.width_px
    if preprocess.resize_px == 0:
        return _resize(image, crop_height, crop_width, method)
    height, width = resized_shape(image.height, image.width, preprocess.resize_px)
    if max(image.height, image.width) > EXTREME_ASPECT * min(image.height, image.width):
        return _resize_crop(image, (height, width), (crop_height, crop_width), method)
    image = _resize(image, height, width, method)
    top, left = _crop_start(height, crop_height), _crop_start(width, crop_width)
    if (height, width) == (crop_height, crop_width):
        return image
    return image.crop((left, top, left + crop_width, top + crop_height))  # outside: zeros


def resized_shape(height: int, width: int, resize_px: int) -> tuple[int, int]:
    """Height and width after a resize of the shorter side to resize_px, rounded as torchvision."""
    if height < width:
        return resize_px, int(resize_px * width / height)
    return int(resize_px * height / width), resize_px


def _resize(image: Image.Image, height: int, width: int, method: Image.Resampling) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), method)


def _crop_start(size: int, crop: int) -> int:
    """First row or column of torchvision's CenterCrop; negative where it pads."""
    return round((size - crop) / 2) if size >= crop else -((crop - size) // 2)


def _resize_crop(
    image: Image.Image,
    resized: tuple[int, int],
    crop: tuple[int, int],
    method: Image.Resampling,
) -> Image.Image:
    """Centre crop of the resized picture without making the rest of it; (height, width) pairs."""
    (height, width), (crop_height, crop_width) = resized, crop
    top, left = _crop_start(height, crop_height), _crop_start(width, crop_width)
    bottom, right = min(top + crop_height, height), min(left + crop_width, width)
    seen_top, seen_left = max(top, 0), max(left, 0)
    y_scale, x_scale = image.height / height, image.width / width
    box_right, box_bottom = min(right * x_scale, image.width), min(bottom * y_scale, image.height)
    box = (seen_left * x_scale, seen_top * y_scale, box_right, box_bottom)
    seen = image.resize((right - seen_left, bottom - seen_top), method, box=box)
    if seen.size == (crop_width, crop_height):
        return seen
    canvas = Image.new("RGB", (crop_width, crop_height))
    canvas.paste(seen, (seen_left - left, seen_top - top))
    return canvas
