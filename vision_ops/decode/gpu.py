"""JPEGs decoded and fitted on a GPU, many in one call; all else goes the CPU's road.

nvJPEG decodes a group (TorchCodec calls it; from the A100 on GPUs have engines of their own for
that), torch resizes there, and pixels of the network's size come back. Light on purpose: torch is
imported where a GPU is opened.

The CPU's road takes what nvJPEG does not know or would guess at: other formats, CMYK, pictures
stored as RGB or with arithmetic coding, files whose markers are not where they must be (cut off, or
with junk between them), and whatever nvJPEG refuses. So both refuse the same files, but for damage
inside a scan that leaves its markers whole: only libjpeg-turbo tells that.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from vision_ops.decode import Decode, DecodeWhole, opened_jpeg
from vision_ops.decode.colour import to_srgb, turn_of
from vision_ops.preprocess import EXTREME_ASPECT, MIRRORED, resized_shape

if TYPE_CHECKING:
    import torch

GROUP = 64
"""files that are given to the GPU at once, at most"""
MAX_GROUP_PX = 128_000_000
"""pixels of a group of several, at most: 3 bytes each, 12 more while a picture is resized"""
MIN_PSNR_DB = 20.0
"""between a group's first picture and the CPU's; below, all of it goes the CPU's road"""
FILTERS = ("bilinear", "bicubic")
"""of torch's that are antialiased as PIL's are"""
RGB_IDS = [ord(letter) for letter in "RGB"]
"""component ids by which libjpeg knows a JPEG that is stored as RGB"""

FRAMES = frozenset((0xC0, 0xC1, 0xC2))
"""start of frame: baseline, extended, progressive; Huffman coded all"""
TABLES = frozenset((0xC4, 0xDB, 0xDD))
SCAN, END, JFIF, ADOBE = 0xDA, 0xD9, 0xE0, 0xEE
LEFT_OUT = frozenset((*range(0xE1, 0xF0), 0xFE)) - {ADOBE}
"""EXIF, profiles, thumbnails and comments: nothing that a pixel needs"""


class _Jpeg(NamedTuple):
    """A file that nvJPEG is asked to decode."""

    data: bytes
    turn: Image.Transpose | None
    profile: bytes
    height: int
    """of the upright picture"""
    width: int


class DecodeOnGpu:
    """`Decode` or `DecodeWhole` with the JPEGs on a GPU.

    Resized with antialiasing from all their pixels, as torchvision resizes tensors: within 1 level
    of the CPU's exact arithmetic (bicubic, which overshoots at edges, within 6), besides what
    nvJPEG's own differs (it may not smooth chroma that it enlarges). The first picture of each
    group is decoded by the CPU too; where the two have little in common, the GPU is not believed.
    Picklable; bad bytes never raise.
    """

    def __init__(self, usual: Decode | DecodeWhole, device: str = "cuda") -> None:
        """Raises ValueError where TorchCodec is missing, and for filters that torch has not."""
        if find_spec("torchcodec") is None:
            raise ValueError("decode.mode cuda needs torchcodec: pip install -e '.[gpu]'")
        if isinstance(usual, Decode) and usual.preprocess.interpolation not in FILTERS:
            raise ValueError(
                f"decode.mode cuda: resizes {' or '.join(FILTERS)}, and this network wants its "
                f"pictures resized {usual.preprocess.interpolation}"
            )
        self.usual = usual
        self.device = device
        self.num_together = GROUP
        self.shape = usual.shape
        self.dtype = usual.dtype
        self.suffixes = usual.suffixes
        self.extent: tuple[int, ...] = ()
        """height and width of the picture decoded last, upright"""

    def open(self) -> None:
        """Wake the GPU. Raises RuntimeError where this process has none."""
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("decode.mode cuda: this process has no GPU")
        torch.zeros(1, device=self.device)

    def __call__(self, data: bytes, out: np.ndarray) -> str:
        """As `Decode` has it."""
        ((reason, self.extent),) = self.many([data], out[None])
        return reason

    def many(self, files: Sequence[bytes], out: np.ndarray) -> list[tuple[str, tuple[int, ...]]]:
        """Write uint8 sRGB pixels of each file into out (B, H, W, 3).

        Of each a reason, "" where it was decoded, and height and width of the upright picture.
        """
        extents: dict[int, tuple[int, ...]] = {}
        jpegs = {k: jpeg for k, data in enumerate(files) if (jpeg := self._read(data))}
        for group in _groups(jpegs):
            pictures = self._fitted(group)
            first = min(pictures, default=-1)
            if first < 0 or not self._is_true(files[first], pictures[first]):
                continue
            for k, pixels in pictures.items():
                out[k, : pixels.shape[0], : pixels.shape[1]] = pixels
                extents[k] = (group[k].height, group[k].width)
        return [
            ("", extents[k]) if k in extents else self._by_cpu(data, out[k])
            for k, data in enumerate(files)
        ]

    def _by_cpu(self, data: bytes, out: np.ndarray) -> tuple[str, tuple[int, ...]]:
        reason = self.usual(data, out)
        return reason, () if reason else self.usual.extent

    def _read(self, data: bytes) -> _Jpeg | None:
        """What nvJPEG is to decode; None: the CPU's road."""
        config = self.usual.config
        picture = opened_jpeg(data, config)
        if picture is None or picture.mode not in ("L", "RGB"):
            return None
        profile = (picture.info.get("icc_profile") or b"") if config.apply_icc else b""
        components = [layer[0] for layer in picture.layer]  # pyright: ignore[reportAttributeAccessIssue]
        is_rgb = picture.info.get("adobe_transform") == 0 or components == RGB_IDS
        if (picture.mode == "L" and profile) or (len(components) == 3 and is_rgb):
            return None
        if max(picture.size) > EXTREME_ASPECT * min(picture.size):
            return None
        bare = bare_jpeg(data)
        if bare is None:
            return None
        turn, (width, height) = turn_of(picture), picture.size
        if MIRRORED[turn][0]:
            width, height = height, width
        usual = self.usual
        if isinstance(usual, DecodeWhole) and (
            min(usual.canvas.size_of(height, width)) < usual.least_px
        ):
            return None
        return _Jpeg(bare, turn, profile, height, width)

    def _fitted(self, jpegs: Mapping[int, _Jpeg]) -> dict[int, np.ndarray]:
        """Pixels (h, w, 3) of those that the GPU took."""
        import torch

        fitted: dict[int, torch.Tensor] = {}
        with torch.inference_mode():
            decoded = self._decoded([jpeg.data for jpeg in jpegs.values()])
            for (k, jpeg), image in zip(jpegs.items(), decoded, strict=True):
                if image is not None:
                    with self._refusals():
                        fitted[k] = self._fit(image, jpeg.turn)
            del decoded
            if len({image.shape for image in fitted.values()}) == 1:  # in one copy
                fetched = torch.stack(list(fitted.values())).cpu().numpy()
            else:
                fetched = [image.cpu().numpy() for image in fitted.values()]
        pictures = dict(zip(fitted, fetched, strict=True))
        for k, pixels in pictures.items():
            if profile := jpegs[k].profile:
                pictures[k] = np.asarray(to_srgb(Image.fromarray(pixels), profile))
        return pictures

    def _decoded(self, files: Sequence[bytes]) -> "list[torch.Tensor | None]":
        """Pictures (3, H, W) uint8 on the device; one that is refused is looked for by halves."""
        from torchcodec.decoders import decode_jpeg  # pyright: ignore[reportPrivateImportUsage]

        with self._refusals():
            return list(decode_jpeg(list(files), mode="RGB", device=self.device))
        if len(files) == 1:
            return [None]
        middle = len(files) // 2
        return [*self._decoded(files[:middle]), *self._decoded(files[middle:])]

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Of pictures, or for want of memory; a GPU that answers nothing any more raises."""
        import torch

        try:
            yield
        except RuntimeError:
            if self.device == "cuda":
                torch.cuda.synchronize()

    def _fit(self, image: "torch.Tensor", turn: Image.Transpose | None) -> "torch.Tensor":
        """A stored picture (3, H, W) upright and of the size that is wanted (h, w, 3)."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as transforms

        swapped, *mirrored = MIRRORED[turn]
        if axes := [axis for axis, each in enumerate(mirrored, start=1) if each]:
            image = image.flip(axes)
        image = image.transpose(1, 2) if swapped else image
        height, width = image.shape[1:]
        if isinstance(self.usual, DecodeWhole):
            size = self.usual.canvas.size_of(height, width)
            filter = InterpolationMode.BILINEAR
        else:
            preprocess = self.usual.preprocess
            crop = (preprocess.height_px, preprocess.width_px)
            resize_px = preprocess.resize_px
            size = resized_shape(height, width, resize_px) if resize_px else crop
            filter = InterpolationMode(preprocess.interpolation)
        image = transforms.resize(image, list(size), filter, antialias=True)
        if isinstance(self.usual, Decode):
            image = transforms.center_crop(image, list(self.usual.shape[:2]))
        return image.permute(1, 2, 0)

    def _is_true(self, data: bytes, pixels: np.ndarray) -> bool:
        """Whether the GPU's picture is the CPU's, roughly; what the CPU refuses tells nothing."""
        out = np.empty(self.shape, self.dtype)
        if self.usual(data, out):
            return True
        expected = out[: pixels.shape[0], : pixels.shape[1]].astype(np.float32)
        return float(np.square(expected - pixels).mean()) <= 255**2 / 10 ** (MIN_PSNR_DB / 10)


def _groups(jpegs: Mapping[int, _Jpeg]) -> Iterator[dict[int, _Jpeg]]:
    """As many at a time as may lie decoded side by side."""
    group: dict[int, _Jpeg] = {}
    size = 0
    for key, jpeg in jpegs.items():
        pixels = jpeg.height * jpeg.width
        if group and (len(group) == GROUP or size + pixels > MAX_GROUP_PX):
            yield group
            group, size = {}, 0
        group[key] = jpeg
        size += pixels
    if group:
        yield group


def bare_jpeg(data: bytes) -> bytes | None:
    """The first picture of a JPEG without what no pixel needs; None where its markers are odd.

    Whole: from frame to end marker, nothing but segments and scans behind each other.
    """
    octets = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(octets[:-1] == 0xFF)
    after = octets[places + 1]
    places = places[(after != 0) & (after != 0xFF) & ((after < 0xD0) | (after > 0xD7))]
    kept, place, in_scan = [data[:2]], 2, False
    while True:
        number = int(np.searchsorted(places, place))
        if number == len(places):
            return None
        start = int(places[number])
        marker = data[start + 1]
        if in_scan:
            kept.append(data[place:start])
        elif data[place:start].strip(b"\xff"):
            return None
        if marker == END:
            return b"".join((*kept, data[start : start + 2])) if in_scan else None
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        known = marker in FRAMES or marker in TABLES or marker in (SCAN, JFIF, ADOBE)
        if end > len(data) or end < start + 4 or not (known or marker in LEFT_OUT):
            return None
        if known:
            kept.append(data[start:end])
        in_scan = in_scan or marker == SCAN
        place = end
