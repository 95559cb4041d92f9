"""Faces by MTCNN, all pictures of a call at once.

P-Net goes over every picture at every size; what it takes for faces, of all pictures together,
goes through R-Net in full passes, and what is left through O-Net (Zhang et al. 2016, sec. II-A).
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from vision_ops.card import sha256_file
from vision_ops.checkpoint import load_checkpoint
from vision_ops.device import pick_device
from vision_ops.faces import Faces
from vision_ops.faces.choose import choose
from vision_ops.faces.detect import DetectorConfig
from vision_ops.faces.passes import (
    Normalised,
    Picture,
    Scaling,
    View,
    pass_size_on,
    passes,
    tensor_of,
    view,
)
from vision_ops.models.mtcnn import O_WINDOW, P_STRIDE, P_WINDOW, R_WINDOW, Mtcnn
from vision_ops.precision.forward import Forward, open_forward

SCALING = Scaling(mean=(127.5, 127.5, 127.5), std=128.0)
FACTOR = 0.709
"""from one size of the pyramid to the next; the area halves"""
LEAST = (0.6, 0.7)
"""probability from which P-Net's and R-Net's word is passed on, as in the authors' release"""
IOU_LEVEL, IOU = 0.5, 0.7
"""suppression within a size of the pyramid; within a picture before R-Net and O-Net"""
MULTIPLE = 32
"""sizes of pyramids are rounded up to it, so that pictures share passes and few shapes occur"""
MAX_HALVES = 10
R_PASS, O_PASS = 64, 32
"""crops in a pass; larger ones are not faster on CPUs"""


class Windows(NamedTuple):
    """What is still taken for a face, in all pictures of a call, on the CPU."""

    image: Int[Tensor, "N"]
    """which picture"""
    boxes: Float[Tensor, "N 4"]
    """in its pixels"""
    confidence: Float[Tensor, "N"]


class MtcnnDetector:
    """A `Detector`; see `vision_ops.models.mtcnn` for the networks.

    Not the release's in three things, each for batches: crops are averaged bilinearly at exact
    places (its corners are whole pixels), what lies outside of a picture is black, and the last
    suppression divides by the union as the others do.
    """

    def __init__(
        self, config: DetectorConfig, path: str | Path, callers: int = 1, pass_size: int = 0
    ) -> None:
        self.config = config
        self.device = pick_device()
        self.pass_size = pass_size or pass_size_on(self.device)
        networks, _ = load_checkpoint(path, self.device)
        assert isinstance(networks, Mtcnn)  # by the card
        sha256 = sha256_file(path)[:16]

        def opened(part: nn.Module, name: str, example: Tensor, any_size: bool = False) -> Forward:
            name, example = f"{sha256}-{name}-{len(example)}", example.to(self.device)
            return open_forward(part, name, example, any_size=any_size, callers=callers)

        view = torch.zeros(self.pass_size, MULTIPLE, MULTIPLE, 3, dtype=torch.uint8)
        self.pnet = opened(Normalised(networks.pnet, SCALING), "pnet", view, any_size=True)
        self.rnet = opened(networks.rnet, "rnet", torch.zeros(R_PASS, 3, R_WINDOW, R_WINDOW))
        self.onet = opened(networks.onet, "onet", torch.zeros(O_PASS, 3, O_WINDOW, O_WINDOW))

    @torch.inference_mode()
    def __call__(self, images: Sequence[Picture]) -> list[Faces]:
        """The faces of each picture."""
        windows, halves = self._propose(images), Halves(images, self.device)
        confidence, offsets = self._judge(self.rnet, halves, windows, R_WINDOW, R_PASS)
        windows = calibrated(windows._replace(confidence=confidence), offsets)
        windows = squared(suppressed(sure(windows, LEAST[1]), IOU))
        confidence, offsets, points = self._judge(self.onet, halves, windows, O_WINDOW, O_PASS)
        corners, sides = windows.boxes[:, None, :2], windows.boxes[:, None, 2:]
        landmarks = corners + points * (sides - corners)
        windows = calibrated(windows._replace(confidence=confidence), offsets)
        found = []
        for image in range(len(images)):
            mine = windows.image == image
            found.append((windows.boxes[mine], landmarks[mine], windows.confidence[mine]))
        return [choose([each], self.config) for each in found]

    def _propose(self, images: Sequence[Picture]) -> Windows:
        """P-Net over the pyramids; square windows."""
        views = [
            view(k, picture, scale)
            for k, picture in enumerate(images)
            for scale in pyramid(picture.shape[0], picture.shape[1], self.config.min_face_px)
        ]
        found: list[list[Windows]] = [[] for _ in images]
        for part, rows in passes(views, MULTIPLE, self.pass_size, SCALING, self.device):
            maps = self.pnet(rows)
            for each, probability, offsets in zip(part, *maps, strict=False):
                found[each.image].append(read_map(each, probability, offsets))
        return squared(suppressed(joined(list(chain(*found))), IOU))

    def _judge(
        self,
        network: Forward,
        halves: "Halves",
        windows: Windows,
        size_px: int,
        pass_size: int,
    ) -> tuple[Tensor, ...]:
        """What R-Net or O-Net says of each window, in full passes whatever picture they are of."""
        answers: list[tuple[Tensor, ...]] = []
        for start in range(0, max(len(windows.boxes), 1), pass_size):
            part = Windows(*(each[start : start + pass_size] for each in windows))
            rows = torch.zeros(pass_size, 3, size_px, size_px, device=self.device)
            for image in part.image.unique().tolist():
                mine = part.image == image
                crops = cut(halves, image, part.boxes[mine], size_px)
                rows[: len(mine)][mine.to(self.device)] = crops
            rows = rows.contiguous(memory_format=torch.channels_last)
            answers.append(tuple(each[: len(part.boxes)].cpu() for each in network(rows)))
        return tuple(torch.cat(each) for each in zip(*answers, strict=True))


def pyramid(height: int, width: int, min_face_px: float) -> list[float]:
    """Parts of a picture's size at which P-Net's window finds faces from min_face_px upwards."""
    scales, scale = [], P_WINDOW / min_face_px
    while min(round(height * scale), round(width * scale)) >= P_WINDOW:
        scales.append(scale)
        scale *= FACTOR
    return scales


def read_map(
    seen: View, probability: Float[Tensor, "h w"], offsets: Float[Tensor, "4 h w"]
) -> Windows:
    """P-Net's windows in one view, those that lie within it, each face once."""
    height, width = ((side - P_WINDOW) // P_STRIDE + 1 for side in seen.pixels.shape[:2])
    inside = probability[:height, :width]
    row, column = (inside >= LEAST[0]).nonzero(as_tuple=True)
    corner = torch.stack([column, row], dim=1).float() * P_STRIDE
    boxes = torch.cat([corner, corner + P_WINDOW], dim=1)
    boxes = boxes / boxes.new_tensor([seen.across, seen.down]).repeat(2)
    found = Windows(torch.full_like(row, seen.image).cpu(), boxes.cpu(), inside[row, column].cpu())
    kept = nms(found.boxes, found.confidence, IOU_LEVEL)
    moved = calibrated(found, offsets[:, row, column].T.cpu())
    return Windows(*(each[kept] for each in moved))


def calibrated(windows: Windows, offsets: Float[Tensor, "N 4"]) -> Windows:
    """Each edge moved by its part of the window's side (Zhang et al. 2016, eq. 2)."""
    sides = (windows.boxes[:, 2:] - windows.boxes[:, :2]).repeat(1, 2)
    return windows._replace(boxes=windows.boxes + offsets * sides)


def squared(windows: Windows) -> Windows:
    """Each box grown to a square around its centre."""
    centres = (windows.boxes[:, :2] + windows.boxes[:, 2:]) / 2
    half = (windows.boxes[:, 2:] - windows.boxes[:, :2]).amax(dim=1, keepdim=True) / 2
    return windows._replace(boxes=torch.cat([centres - half, centres + half], dim=1))


def sure(windows: Windows, least: float) -> Windows:
    """Those of at least this confidence."""
    kept = windows.confidence >= least
    return Windows(*(each[kept] for each in windows))


def suppressed(windows: Windows, iou: float) -> Windows:
    """Non-maximum suppression in each picture by itself, so that no other changes a bit of it."""
    parts = []
    for image in windows.image.unique().tolist():
        mine = Windows(*(each[windows.image == image] for each in windows))
        kept = nms(mine.boxes, mine.confidence, iou)
        parts.append(Windows(*(each[kept] for each in mine)))
    return joined(parts)


def joined(parts: Sequence[Windows]) -> Windows:
    """Of several, also of none."""
    nothing = Windows(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0))
    return Windows(*(torch.cat(each) for each in zip(nothing, *parts, strict=True)))


class Halves:
    """Pictures at their size, at half of it, a quarter and so on, each made when it is asked for.

    Halves are means of 2 x 2 pixels, of what there is of them at the right and lower border.
    """

    def __init__(self, images: Sequence[Picture], device: torch.device) -> None:
        self.images = images
        self.device = device
        self.made: dict[tuple[int, int], Float[Tensor, "1 3 _ _"]] = {}

    def __call__(self, image: int, times: int) -> Float[Tensor, "1 3 h w"]:
        """A picture halved so many times, 0..255."""
        if (image, times) not in self.made:
            if times:
                planes = F.avg_pool2d(self(image, times - 1), 2, ceil_mode=True)
            else:
                pixels = tensor_of(self.images[image]).to(self.device)
                planes = pixels.permute(2, 0, 1)[None].float().contiguous()
            self.made[image, times] = planes
        return self.made[image, times]


def cut(
    halves: Halves, image: int, boxes: Float[Tensor, "N 4"], size_px: int
) -> Float[Tensor, "N 3 size_px size_px"]:
    """What lies in square boxes of a picture, scaled as the networks see it.

    Each is taken from the picture halved until the box has less than twice the crop's side. Each
    pixel of a crop is the mean of bilinear samples, about one for each pixel there (RoIAlign, He et
    al. 2017, sec. 3). What lies outside of the picture is black.
    """
    sides = (boxes[:, 2] - boxes[:, 0]).clamp(min=1)
    times = (sides / size_px).log2().floor().clamp(0, MAX_HALVES).int()
    crops = torch.empty(len(boxes), 3, size_px, size_px, device=halves.device)
    for number in times.unique().tolist():
        mine = times == number
        planes, scaled = halves(image, number), (boxes[mine] / 2**number).to(halves.device)
        found = roi_align(planes, [scaled], size_px, aligned=True)
        crops[mine.to(halves.device)] = found
    return (crops - SCALING.mean[0]) / SCALING.std
