"""From a face in a picture to the crop that an embedder was trained on.

The similarity that brings five landmarks nearest to a template (Umeyama 1991), then one bilinear
look at the picture for each pixel of the crop: all faces of a batch at once, on their device.
Matrices and pixels are OpenCV's: (x, y) of pixel centres, border 0. As there, nothing is averaged
where a large face is reduced: published embedders are trained and measured on such crops.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int, Shaped, UInt8
from torch import Tensor

from vision_ops.arrays import as_shared
from vision_ops.device import keep_memory
from vision_ops.faces import Template

TEMPLATES: dict[str, tuple[tuple[float, float], ...]] = {
    "arcface": (
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ),
}
"""x, y of LANDMARKS in a crop of 112 px"""
BOX_MARGIN = 0.02
"""what a crop from a box alone is larger than the box's longer side, as a part of it"""
BOX_RISE = 0.08
"""how far the middle of such a crop lies above the box's, as a part of the crop's side. Both are
medians over faces found by RetinaFace in photographs: crops from boxes then show what others do"""
LEAST_FACE_PX, GREATEST_FACE_PX = 1.0, 1e6
"""how much of a picture a crop shows, along its side: outside, landmarks or box are no face's"""
FAR_PX = 2.0**22
"""a crop with a corner so far from the picture's is black: float32 counts whole pixels to 2**24"""
PROBES = 16
"""places along a crop's side where it is asked whether it shows the picture"""
FACES_AT_ONCE = {"cpu": 32}
"""looked up together: fewer and the calls cost more than the pixels"""
USUAL_AT_ONCE = 4096
"""on other devices: about 4 GB of their memory at 112 px"""

Picture = UInt8[Tensor, "_ _ 3"] | UInt8[np.ndarray, "_ _ 3"]


def template(size_px: int, name: Template = "arcface") -> Float64[Tensor, "5 2"]:
    """x, y of the five landmarks in an aligned crop of this size.

    112 px as published with ArcFace (Deng et al. 2019); 128 px and its multiples: the same face,
    8 px further right in a frame that is wider on both sides and longer below, as insightface cuts
    them. Any other size, 160 px (facenet) among them: that of 112 px, enlarged. facenet's own
    weights were learnt on unaligned crops somewhat wider than that. Raises ValueError below 1.
    """
    if size_px < 1:
        raise ValueError(f"size_px {size_px}: must be at least 1")
    points = torch.tensor(TEMPLATES[name], dtype=torch.float64)
    if size_px % 128 == 0:
        return (points + torch.tensor([8.0, 0.0], dtype=torch.float64)) * (size_px / 128)
    return points * (size_px / 112)


def similarity(
    landmarks: Shaped[Tensor, "N 5 2"] | Shaped[np.ndarray, "N 5 2"],
    size_px: int,
    name: Template = "arcface",
) -> Float64[Tensor, "N 2 3"]:
    """The turn, scale and shift that brings landmarks nearest to the template, least squares.

    landmarks: x, y of LANDMARKS in pixels of the picture, any number type. With points as complex
    numbers z and the template's as w, both about their means: a = sum(conj(z) w) / sum(|z|^2), and
    crop = a picture + b; this is Umeyama's (1991, eq. 40-43) optimum in two dimensions, a mirror
    image never being one. Not a number where a landmark is none, or where all are one point.
    """
    points = torch.as_tensor(landmarks).to(torch.float64)
    aims = template(size_px, name).to(points.device)
    middles, aim = points.mean(dim=1), aims.mean(dim=0)
    z, w = points - middles[:, None], aims - aim
    spread = z.square().sum(dim=(1, 2))
    real = (z * w).sum(dim=(1, 2)) / spread
    imaginary = (z[..., 0] * w[:, 1] - z[..., 1] * w[:, 0]).sum(dim=1) / spread
    turn = torch.stack([real, -imaginary, imaginary, real], dim=1).view(-1, 2, 2)
    shift = aim - (turn @ middles[..., None])[..., 0]
    return torch.cat([turn, shift[..., None]], dim=2)


def box_similarity(
    boxes: Shaped[Tensor, "N 4"] | Shaped[np.ndarray, "N 4"], size_px: int
) -> Float64[Tensor, "N 2 3"]:
    """An upright square for a box, BOX_MARGIN larger than its longer side, BOX_RISE higher.

    boxes: x0, y0, x1, y1 in pixels of the picture, borders of pixels (the first begins at 0, its
    centre is at 0.5), any number type. Not a number where a box is none, or of no extent.
    """
    corners = torch.as_tensor(boxes).to(torch.float64)
    sides = (corners[:, 2:] - corners[:, :2]).amax(dim=1)
    scale = size_px / (sides.clamp(min=0) * (1 + BOX_MARGIN))
    middles = (corners[:, :2] + corners[:, 2:]) / 2 - 0.5
    aim = torch.tensor([0.0, BOX_RISE * size_px], dtype=torch.float64, device=corners.device)
    shift = (size_px - 1) / 2 + aim - scale[:, None] * middles
    turn = scale[:, None, None] * torch.eye(2, dtype=torch.float64, device=corners.device)
    return torch.cat([turn, shift[..., None]], dim=2)


def crop_matrices(
    boxes: Shaped[Tensor, "N 4"] | Shaped[np.ndarray, "N 4"],
    landmarks: Shaped[Tensor, "N 5 2"] | Shaped[np.ndarray, "N 5 2"],
    size_px: int,
    name: Template = "arcface",
) -> Float64[Tensor, "N 2 3"]:
    """By the landmarks where they are a face's, else by the box; see `similarity`.

    Landmarks are not where one is not a number (a detector that gives none), or where the crop
    would show less than 1 px or more than a million px of the picture (all landmarks at a point or
    in disorder). Where the box is no better the matrix is not a number, and its crop is black.
    """
    by_landmarks = similarity(landmarks, size_px, name)
    by_box = box_similarity(boxes, size_px).to(by_landmarks.device)
    found = torch.where(_usable(by_landmarks, size_px)[:, None, None], by_landmarks, by_box)
    return torch.where(_usable(found, size_px)[:, None, None], found, torch.nan)


def align(
    pictures: Picture | UInt8[Tensor, "B H W 3"] | UInt8[np.ndarray, "B H W 3"] | Sequence[Picture],
    matrices: Float[Tensor, "N 2 3"],
    size_px: int,
    owners: Sequence[int] | Int[np.ndarray, "N"] | Int[Tensor, "N"] | None = None,
    extents: Int[np.ndarray, "B 2"] | Int[Tensor, "B 2"] | None = None,
) -> UInt8[Tensor, "N S S 3"]:
    """Crops of faces, as `cv2.warpAffine(picture, matrix, (S, S))`: bilinear, border 0.

    pictures  one (H, W, 3), several of different sizes, or a canvas (B, H, W, 3); sRGB 0..255
    matrices  from pixels of the picture to those of the crop; the crop is black where one is not
              finite, not invertible, or out of all proportion (FAR_PX)
    owners    which picture each face is in; may be left out where there is one
    extents   height and width of each picture, in the top left of its canvas; else all of it

    Within 1 grey level of OpenCV 5.0 (before 4.11 it rounded where it looks to 1/32 px), on the
    device of the pictures; a canvas tensor is one gather. No picture that holds no face is
    touched. Raises ValueError where owners are not those of N faces in B pictures.
    """
    sources, numbers = _sources(pictures), _numbers(owners, len(matrices))
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(sources):
        raise ValueError(f"owners: up to {int(numbers.max())}, of {len(sources)} pictures")
    sizes = torch.tensor([source.shape[:2] for source in sources], dtype=torch.int64).view(-1, 2)
    sizes = sizes if extents is None else torch.as_tensor(extents).cpu().to(torch.int64)
    device = sources[0].device if sources and isinstance(sources[0], Tensor) else "cpu"
    crops = torch.empty(len(matrices), size_px, size_px, 3, dtype=torch.uint8, device=device)
    if not len(matrices):
        return crops
    if crops.device.type == "cpu":
        keep_memory()  # else half of the time goes into pages that the system gives and takes
    inverses, canvas = _inverted(matrices, size_px).to(device), None
    if isinstance(pictures, Tensor) and pictures.ndim == 4 and bool((sizes > 1).all()):
        canvas = pictures.contiguous()
    at_once = FACES_AT_ONCE.get(crops.device.type, USUAL_AT_ONCE)
    order, done = numbers.argsort(stable=True), 0
    for faces in order.split(at_once):
        if canvas is None:
            runs, seen = _runs(sources, sizes, numbers[faces])
            starts = torch.zeros(len(faces), dtype=torch.int64)
        else:
            _, height, width, _ = canvas.shape
            runs, seen = [_Run(canvas.view(-1), width, len(faces))], sizes[numbers[faces]]
            starts = numbers[faces] * (height * width)
        places = _Places(starts.to(device), seen.to(device), inverses[faces.to(device)])
        _look(runs, places, crops[done : done + len(faces)])
        done += len(faces)
    in_order = bool((numbers.diff() >= 0).all())
    return crops if in_order else crops[order.argsort().to(device)]


def visible(
    matrices: Float[Tensor, "N 2 3"], size_px: int, extents: Int[np.ndarray, "N 2"]
) -> Float64[np.ndarray, "N"]:
    """Part of each crop's middle, three quarters of its side, that shows its picture, 0..1.

    The rest is beside the picture, and black. `extents` are height and width of each face's
    picture. Told by PROBES places along each side.
    """
    edge = size_px / 8
    steps = torch.linspace(edge, size_px - 1 - edge, PROBES, dtype=torch.float64)
    down, right = torch.meshgrid(steps, steps, indexing="ij")
    places = torch.stack([right, down, torch.ones_like(down)]).view(3, -1)
    found = _inverted(matrices, size_px).cpu() @ places
    last = torch.as_tensor(extents).flip(1)[..., None] - 0.5  # the first pixel is from -0.5 to 0.5
    return ((found >= -0.5) & (found <= last)).all(dim=1).double().mean(dim=1).numpy()


class _Run(NamedTuple):
    """Faces one after another whose pixels lie in one table."""

    table: UInt8[Tensor, "P"]
    row: int
    """pixels from one to that below it"""
    num_faces: int


class _Places(NamedTuple):
    """Where faces are looked for."""

    starts: Int[Tensor, "N"]
    """first pixel of the picture in its table"""
    sizes: Int[Tensor, "N 2"]
    """height and width of the picture"""
    inverses: Float64[Tensor, "N 2 3"]
    """from pixels of the crop to those of the picture"""


def _runs(
    sources: list[Picture], sizes: Int[Tensor, "B 2"], numbers: Int[Tensor, "N"]
) -> tuple[list[_Run], Int[Tensor, "N 2"]]:
    """Each picture as a table of its own, with the faces in it, and their pictures' sizes."""
    runs, seen = [], []
    owners, counts = (each.tolist() for each in numbers.unique(return_counts=True))
    for number, count in zip(owners, counts, strict=True):
        height, width = sizes[number].tolist()
        picture = _tensor(sources[number][:height, :width])
        runs.append(_Run(picture.view(-1), picture.shape[1], count))
        seen += [picture.shape[:2]] * count
    return runs, torch.tensor(seen)


def _sources(pictures: object) -> list[Picture]:
    if isinstance(pictures, Tensor | np.ndarray):
        return [pictures] if pictures.ndim == 3 else list(pictures)  # pyright: ignore[reportReturnType]
    return list(pictures)  # pyright: ignore[reportArgumentType]


def _numbers(owners: object, num_faces: int) -> Int[Tensor, "N"]:
    if owners is None:
        return torch.zeros(num_faces, dtype=torch.int64)
    numbers = torch.as_tensor(owners, dtype=torch.int64).cpu()
    if numbers.shape != (num_faces,):
        raise ValueError(f"owners {tuple(numbers.shape)}: of {num_faces} faces")
    return numbers


def _tensor(picture: Picture) -> UInt8[Tensor, "_ _ 3"]:
    """In one piece, and with two pixels along each side at the least: black ones are the border."""
    if not isinstance(picture, Tensor):
        picture = torch.from_numpy(as_shared(np.ascontiguousarray(picture)))
    height, width, _ = picture.shape
    if min(height, width) < 2:
        picture = F.pad(picture, (0, 0, 0, max(0, 2 - width), 0, max(0, 2 - height)))
    return picture.contiguous()


def _usable(matrices: Float64[Tensor, "N 2 3"], size_px: int) -> Shaped[Tensor, "N"]:
    shown = size_px / matrices[:, :, 0].square().sum(dim=1).sqrt()
    sane = (shown >= LEAST_FACE_PX) & (shown <= GREATEST_FACE_PX)
    return sane & matrices.isfinite().all(dim=2).all(dim=1)


def _inverted(matrices: Float[Tensor, "N 2 3"], size_px: int) -> Float64[Tensor, "N 2 3"]:
    """From pixels of the crop to those of the picture; far away where that is not to be had."""
    a, b, c, d = matrices[:, :, :2].to(torch.float64).flatten(1).unbind(dim=1)
    turn = torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2) / (a * d - b * c)[:, None, None]
    found = torch.cat([turn, -turn @ matrices[:, :, 2:].to(torch.float64)], dim=2)
    far = size_px - 1.0
    corners = found.new_tensor([[0, far, 0, far], [0, 0, far, far], [1, 1, 1, 1]])
    near = (found @ corners).abs().amax(dim=(1, 2)) < FAR_PX  # not a number is not near
    away = found.new_tensor([[0.0, 0.0, -9.0], [0.0, 0.0, -9.0]])
    return torch.where(near[:, None, None], found, away)


def _look(runs: list[_Run], places: _Places, crops: UInt8[Tensor, "N S S 3"]) -> None:
    """Fill crops: each of four neighbours counts 1 less its distance along x, times along y."""
    size_px = crops.shape[1]
    at, shares = _neighbours(runs, places, size_px)
    taps = torch.empty(4, len(at), dtype=torch.uint8, device=at.device)
    (left, right), (above, below) = shares
    for channel in range(3):
        done = 0
        for table, row, num_faces in runs:
            part = slice(done, done + num_faces * size_px**2)
            for tap, further in zip(taps, (0, 1, row, row + 1), strict=True):
                offset = channel + 3 * further
                torch.index_select(table[offset:], 0, at[part], out=tap[part])
            done = part.stop
        corners = [tap.view_as(left).float() for tap in taps]
        upper = corners[0].mul_(left).addcmul_(corners[1], right)
        lower = corners[2].mul_(left).addcmul_(corners[3], right)
        crops[..., channel] = upper.mul_(above).addcmul_(lower, below).add_(0.5)


def _neighbours(
    runs: list[_Run], places: _Places, size_px: int
) -> tuple[Int[Tensor, "P"], list[tuple[Float[Tensor, "N S S"], Float[Tensor, "N S S"]]]]:
    """Index of the upper left neighbour of each place, and how much the two count along x and y.

    All four are kept within the picture: where one lies beside it, those taken for it are too far
    away to count, which makes the border 0. Places are counted from each crop's own corner, so that
    float32 is exact enough for them; where all lie inside, distances need no more looking at.
    """
    starts, sizes, inverses = places
    steps = torch.arange(size_px, dtype=torch.float64, device=inverses.device)
    reach = inverses[:, :, :2] * (size_px - 1)
    low = (inverses[:, :, 2] + reach.clamp(max=0).sum(dim=2)).floor()  # (N, 2), x and y
    high = inverses[:, :, 2] + reach.clamp(min=0).sum(dim=2)
    last = sizes.flip(1) - 1.0
    inside = bool(((low >= 0) & (high < last - 0.01)).all())
    nears, shares = [], []
    for axis in (0, 1):
        turn, shift = inverses[:, axis, :2], inverses[:, axis, 2] - low[:, axis]
        right = (turn[:, :1] * steps).float()
        down = (turn[:, 1:] * steps + shift[:, None]).float()
        place = right[:, None, :] + down[:, :, None]  # (N, S, S)
        near = place.floor()
        if not inside:
            first = -low[:, axis, None, None].float()
            near.clamp_(min=first, max=first + (last[:, axis, None, None].float() - 1))
        beyond = place.sub_(near)
        before = 1 - beyond
        if not inside:
            before = torch.minimum(before, 1 + beyond).clamp_(min=0)
            beyond = torch.minimum(beyond, 2 - beyond).clamp_(min=0)
        shares.append((before, beyond))
        nears.append(near)
    longest = max((len(run.table) for run in runs), default=0)
    kind = torch.int32 if longest < 2**31 else torch.int64
    rows = torch.tensor([run.row for run in runs], device=starts.device).repeat_interleave(
        torch.tensor([run.num_faces for run in runs], device=starts.device)
    )
    corner = 3 * (starts + low[:, 1].long() * rows + low[:, 0].long())
    at = nears[1].to(kind).mul_((3 * rows).to(kind)[:, None, None])
    at = at.add_(nears[0].to(kind), alpha=3).add_(corner.to(kind)[:, None, None])
    return at.view(-1), shares
