"""Random changes to a training batch that leave its labels true, on the device, from a seed.

pixels come and go as uint8 NHWC, so one cast and one `normalize` serve training and evaluation.
MixUp and CutMix, which change labels too, are the learner's: see `mix`.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How far a training picture may be changed; all zero: not at all."""

    rotation_deg: float = 0.0
    """turned by up to this many degrees either way"""
    shift: float = 0.0
    """moved by up to this fraction of height and width"""
    scale: float = 0.0
    """enlarged or reduced by up to this fraction: 0.1 is 1/1.1 .. 1.1"""
    flip: bool = False
    """half of the pictures mirrored, left to right; not for digits or letters"""
    crop_pad_px: int = 0
    """moved by up to this many whole pixels, mirrored at the border (He et al. 2016, sec. 4.2)"""
    colour: float = 0.0
    """brightness, contrast and saturation changed by up to this fraction each"""
    randaugment: int = 0
    """operations a picture, drawn from RandAugment's (Cubuk et al. 2020); 2 is usual"""
    mixup: float = 0.0
    """alpha of MixUp (Zhang et al. 2018): pairs of pictures and of labels are blended; often 0.2"""
    cutmix: float = 0.0
    """alpha of CutMix (Yun et al. 2019): a patch comes from another picture; with mixup, one of
    both by chance"""

    def __post_init__(self) -> None:
        if not 0 <= self.rotation_deg <= 180:
            raise ValueError(f"augment.rotation_deg {self.rotation_deg}: must be 0..180")
        for name in ("shift", "scale", "colour"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"augment.{name} {getattr(self, name)}: must be 0 or more, below 1"
                )
        for name in ("crop_pad_px", "randaugment", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"augment.{name} {getattr(self, name)}: must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random numbers of a batch that several workers share: each takes those of its own pictures.

    So a picture is changed in the same way however many workers there are. Worker `rank` of n has
    every n-th picture of the batch, as many as any other.
    """

    generator: torch.Generator
    """on the CPU: a seed gives the same pictures on any device"""
    rank: int = 0
    num_workers: int = 1
    num_frames: int = 1
    """pictures in a row that get the same numbers: the frames of a clip"""

    def uniform(self, count: int, columns: int) -> Float[Tensor, "B C"]:
        """0 <= x < 1 for each of this worker's `count` pictures."""
        clips = count // self.num_frames
        whole = torch.rand(clips * self.num_workers, columns, generator=self.generator)
        return whole[self.rank :: self.num_workers].repeat_interleave(self.num_frames, dim=0)


def augment(
    pixels: UInt8[Tensor, "B *T H W 3"], config: AugmentConfig, draws: Draws
) -> UInt8[Tensor, "B *T H W 3"]:
    """A changed copy of each picture, sRGB 0..255; the very tensor where nothing is to change.

    Each image draws its own numbers, each clip (B, T, H, W, 3) those of all its frames. Order:
    turn, move and scale (one bilinear sampling), crop, flip, colour, RandAugment. A flip makes
    another clip of what moves to the left.
    """
    if pixels.ndim == 5:
        each = replace(draws, num_frames=pixels.shape[1])
        return augment(pixels.flatten(0, 1), config, each).unflatten(0, pixels.shape[:2])
    affine = max(config.rotation_deg, config.shift, config.scale) > 0
    if affine or config.crop_pad_px or config.flip or config.colour:
        images = pixels.permute(0, 3, 1, 2).float()  # (B, 3, H, W)
        if affine:
            images = _draw_and_warp(images, config, draws)
        if config.crop_pad_px:
            images = _crop(images, config.crop_pad_px, draws)
        if config.flip:
            mirrored = draws.uniform(len(images), 1)[:, 0] < 0.5
            images = torch.where(
                mirrored.to(images.device)[:, None, None, None], images.flip(3), images
            )
        if config.colour:
            images = _colour(images, config.colour, draws)
        pixels = images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    if config.randaugment:
        pixels = _randaugment(pixels, config.randaugment, draws)
    return pixels


def mix(
    images: Float[Tensor, "B *T 3 H W"],
    target: Int64[Tensor, " B"],
    num_classes: int,
    config: AugmentConfig,
) -> tuple[Float[Tensor, "B *T 3 H W"], Float[Tensor, "B K"]]:
    """MixUp or CutMix of a batch with itself shifted by one, and the blended one-hot labels.

    Clips are mixed as a whole, CutMix's patch is at one place in all frames. Draws
    from torch's own generator, once a batch: pairs are of one worker, and differ with their number.
    """
    wanted = {v2.MixUp: config.mixup, v2.CutMix: config.cutmix}
    mixers = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in wanted.items() if alpha]
    mixer = mixers[int(torch.randint(len(mixers), ()))]
    if images.ndim == 5:
        mixed, target = mixer(tv_tensors.Video(images), target)
        return mixed.as_subclass(Tensor), target
    return mixer(images, target)


def _colour(
    images: Float[Tensor, "B 3 H W"], strength: float, draws: Draws
) -> Float[Tensor, "B 3 H W"]:
    """Brightness, contrast about the mean grey, saturation about each pixel's grey (ITU-R 601).

    The frames of a clip have one mean grey.
    """
    factors = 1 + strength * (2 * draws.uniform(len(images), 3) - 1)
    brightness, contrast, saturation = factors.to(images.device)[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp(0, 255)
    grey = v2.functional.rgb_to_grayscale(images).mean(dim=(1, 2, 3), keepdim=True)
    clips = grey.unflatten(0, (-1, draws.num_frames)).mean(dim=1)  # one grey for all its frames
    grey = clips.repeat_interleave(draws.num_frames, dim=0)
    images = torch.lerp(grey, images, contrast).clamp(0, 255)
    return torch.lerp(v2.functional.rgb_to_grayscale(images), images, saturation)


def _randaugment(
    pixels: UInt8[Tensor, "B H W 3"], operations: int, draws: Draws
) -> UInt8[Tensor, "B H W 3"]:
    """torchvision's, picture by picture: it draws from torch's own generator."""
    change = v2.RandAugment(num_ops=operations)
    seeds = (draws.uniform(len(pixels), 1)[:, 0] * 2**31).long().tolist()
    changed = []
    with torch.random.fork_rng(devices=[]):
        for seed, image in zip(seeds, pixels.permute(0, 3, 1, 2), strict=True):
            torch.manual_seed(seed)
            changed.append(change(image))
    return torch.stack(changed).permute(0, 2, 3, 1)


def _draw_and_warp(
    images: Float[Tensor, "B 3 H W"], config: AugmentConfig, draws: Draws
) -> Float[Tensor, "B 3 H W"]:
    draw = 2 * draws.uniform(len(images), 4) - 1  # (B, 4), -1..1
    turn = draw[:, 0] * math.radians(config.rotation_deg)
    size = torch.exp(draw[:, 1] * math.log1p(config.scale))
    return warp(images, turn, size, draw[:, 2:] * config.shift)


def warp(
    images: Float[Tensor, "B 3 H W"],
    turn: Float[Tensor, " B"],
    size: Float[Tensor, " B"],
    move: Float[Tensor, "B 2"],
) -> Float[Tensor, "B 3 H W"]:
    """Each picture turned by `turn` rad counter-clockwise and enlarged by `size` about its centre.

    `move` shifts what is seen to the left and upwards, in fractions of width and height. What
    comes in from outside repeats the border. The matrix maps where a pixel goes to where it comes
    from, in -1..1 of width and height; a turn is corrected by the picture's aspect.
    """
    height, width = images.shape[2:]
    cosine, sine = turn.cos() / size, turn.sin() / size
    aspect = height / width
    matrix = torch.stack(
        [
            torch.stack([cosine, -sine * aspect, 2 * move[:, 0]], dim=1),
            torch.stack([sine / aspect, cosine, 2 * move[:, 1]], dim=1),
        ],
        dim=1,
    ).to(images.device)  # (B, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _crop(images: Float[Tensor, "B 3 H W"], pad_px: int, draws: Draws) -> Float[Tensor, "B 3 H W"]:
    """A window of the picture's own size, moved by whole pixels over the mirrored border."""
    count, _, height, width = images.shape
    if pad_px >= min(height, width):
        raise ValueError(f"augment.crop_pad_px {pad_px}: pictures are only {height}x{width} px")
    start = (draws.uniform(count, 2) * (2 * pad_px + 1)).long().to(images.device)
    rows = start[:, :1] + torch.arange(height, device=images.device)  # (B, H)
    columns = start[:, 1:] + torch.arange(width, device=images.device)  # (B, W)
    padded = F.pad(images, (pad_px, pad_px, pad_px, pad_px), mode="reflect").permute(0, 2, 3, 1)
    image = torch.arange(count, device=images.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
