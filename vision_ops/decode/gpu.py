"""JPEGs decoded and fitted on a GPU, many in one call; all else goes the CPU's road.

nvJPEG decodes a group (TorchCodec calls it; from the A100 on GPUs have engines of their own for
that), torch resizes there, and pixels of the network's size come back. Light on purpose: torch is
imported where a GPU is opened.

The CPU's road takes what nvJPEG does not know or would guess at: other formats, CMYK, pictures
stored as RGB or with arithmetic coding, files whose markers are not where they must be (cut off, or
with junk between them), and whatever nvJPEG refuses. So both refuse the same files, but for damage
inside a scan or a table that leaves the markers whole: only libjpeg-turbo tells that.
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
    from PIL.ImageFile import ImageFile

SMALLEST = bytes.fromhex(
    "ffd8ffdb004300080606070605080707070909080a0c140d0c0b0b0c1912130f141d1a1f1e1d1a1c1c20242e"
    "2720222c231c1c2837292c30313434341f27393d38323c2e333432ffc0000b080008000801011100ffc40014"
    "000100000000000000000000000000000000ffc40014100100000000000000000000000000000000ffda0008"
    "010100003f003fffd9"
)
"""8 x 8 grey pixels"""
GROUP = 64
"""files that are given to the GPU at once, at most"""
MAX_GROUP_PX = 128_000_000
"""pixels of a group of several, at most: 3 bytes each, 12 more while a picture is resized"""
MIN_PSNR_DB = 20.0
"""between a group's first picture and the CPU's; below, all of it goes the CPU's road"""
FILTERS = ("bilinear", "bicubic")
"""of torch's that are antialiased as PIL's are"""
SAMPLINGS = ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2))
"""of luma, across and down, where chroma has one sample; those that nvJPEG has names for"""
MAX_SCALE = 45.0
"""by which torch's antialiased kernels reduce on a GPU: their filter lies in 48 KB there"""
MAX_REFUSALS = 16
"""calls of nvJPEG for a group that end with a refusal: two files of 64 are found by so many"""
RGB_IDS = [ord(letter) for letter in "RGB"]
"""component ids by which libjpeg knows a JPEG that is stored as RGB"""

PROGRESSIVE = 0xC2
FRAMES = frozenset((0xC0, 0xC1, PROGRESSIVE))
"""start of frame: baseline, extended, progressive; Huffman coded all"""
WHOLE_SPECTRUM = bytes((0, 63, 0))
"""end of the header of a scan that is not progressive"""
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
    Picklable; bad bytes never raise, a GPU that fails for good does.
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
        """Wake the GPU. Raises RuntimeError where this process has none that decodes."""
        try:
            import torch
            from torchcodec.decoders import decode_jpeg  # pyright: ignore[reportPrivateImportUsage]

            if self.device == "cuda" and not torch.cuda.is_available():
                raise RuntimeError("this process has no GPU")
            self._fit(decode_jpeg([SMALLEST], device=self.device)[0]).cpu()
        except (ImportError, OSError, RuntimeError) as failure:
            raise RuntimeError(f"decode.mode cuda: {failure}") from failure

    def __call__(self, data: bytes, out: np.ndarray) -> str:
        """As `Decode` has it, of one file."""
        (extent,) = self.many([data], out[None])
        reason = "" if extent else self.usual(data, out)
        self.extent = extent or self.usual.extent
        return reason

    def many(self, files: Sequence[bytes], out: np.ndarray) -> list[tuple[int, ...] | None]:
        """Write uint8 sRGB pixels of each file into out (B, H, W, 3).

        Of each height and width of the upright picture; None where it goes the CPU's road: by
        `usual`.
        """
        extents: list[tuple[int, ...] | None] = [None] * len(files)
        jpegs = {k: jpeg for k, data in enumerate(files) if (jpeg := self._read(data))}
        for group in _groups(jpegs):
            pictures = self._fitted(group)
            if not self._is_believed([(files[k], pixels) for k, pixels in pictures.items()]):
                continue
            for k, pixels in pictures.items():
                out[k, : pixels.shape[0], : pixels.shape[1]] = pixels
                extents[k] = (group[k].height, group[k].width)
        return extents

    def _read(self, data: bytes) -> _Jpeg | None:
        """What nvJPEG is to decode; None: the CPU's road."""
        config = self.usual.config
        picture = opened_jpeg(data, config)
        if picture is None or max(picture.size) > EXTREME_ASPECT * min(picture.size):
            return None
        profile = (picture.info.get("icc_profile") or b"") if config.apply_icc else b""
        if not _is_known(picture) or (picture.mode == "L" and profile):
            return None
        bare = bare_jpeg(data)
        if bare is None:
            return None
        turn, stored = turn_of(picture), picture.size
        width, height = stored[::-1] if MIRRORED[turn][0] else stored
        size, _ = self._sizes(height, width)
        is_small = isinstance(self.usual, DecodeWhole) and min(size) < self.usual.least_px
        if is_small or max(height / size[0], width / size[1]) > MAX_SCALE:
            return None
        return _Jpeg(bare, turn, profile, height, width)

    def _sizes(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of an upright picture resized, and of what is cut out of it then."""
        if isinstance(self.usual, DecodeWhole):
            size = self.usual.canvas.size_of(height, width)
            return size, size
        preprocess = self.usual.preprocess
        crop = (preprocess.height_px, preprocess.width_px)
        resize_px = preprocess.resize_px
        return (resized_shape(height, width, resize_px) if resize_px else crop), crop

    def _fitted(self, jpegs: Mapping[int, _Jpeg]) -> dict[int, np.ndarray]:
        """Pixels (h, w, 3) of those that the GPU took."""
        import torch

        fitted: dict[int, torch.Tensor] = {}
        with torch.inference_mode():
            decoded = self._decoded([jpeg.data for jpeg in jpegs.values()])
            for (k, jpeg), image in zip(jpegs.items(), decoded, strict=True):
                if image is not None:
                    with self._refusals():
                        upright = _turned(image, jpeg.turn)
                        if upright.shape[1:] == (jpeg.height, jpeg.width):  # else what is it?
                            fitted[k] = self._fit(upright)
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
        """Pictures (3, H, W) uint8 on the device; one that is refused is looked for by halves.

        Each refusal costs a decoder, which is made anew: after MAX_REFUSALS none is looked for.
        """
        from torchcodec.decoders import decode_jpeg  # pyright: ignore[reportPrivateImportUsage]

        found: list[torch.Tensor | None] = [None] * len(files)
        parts, refusals = [(0, len(files))], 0
        while parts and refusals < MAX_REFUSALS:
            start, stop = parts.pop()
            with self._refusals():
                group = list(files[start:stop])
                found[start:stop] = decode_jpeg(group, mode="RGB", device=self.device)
                continue
            refusals += 1
            if stop - start > 1:
                middle = (start + stop) // 2
                parts += [(start, middle), (middle, stop)]
        return found

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Of pictures, or for want of memory; a GPU that answers nothing any more raises."""
        import torch

        try:
            yield
        except RuntimeError:
            if self.device == "cuda":
                torch.cuda.synchronize()

    def _fit(self, image: "torch.Tensor") -> "torch.Tensor":
        """An upright picture (3, H, W) in the size that is wanted (h, w, 3)."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as transforms

        size, crop = self._sizes(*image.shape[1:])
        kind = "bilinear"
        if isinstance(self.usual, Decode):
            kind = self.usual.preprocess.interpolation
        image = transforms.resize(image, list(size), InterpolationMode(kind), antialias=True)
        return transforms.center_crop(image, list(crop)).permute(1, 2, 0)

    def _is_believed(self, pictures: Sequence[tuple[bytes, np.ndarray]]) -> bool:
        """Whether the first of these, with their files, that the CPU decodes is its own, roughly.

        What the GPU took stays taken where the CPU would refuse it, first in its group or not.
        """
        out = np.empty(self.shape, self.dtype)
        for data, pixels in pictures:
            if not self.usual(data, out):
                expected = out[: pixels.shape[0], : pixels.shape[1]].astype(np.float32)
                error = float(np.square(expected - pixels).mean())
                return error <= 255**2 / 10 ** (MIN_PSNR_DB / 10)
        return True


def _is_known(picture: "ImageFile") -> bool:
    """Whether nvJPEG knows the components of a JPEG, and takes them for the colours they are."""
    layers = picture.layer  # pyright: ignore[reportAttributeAccessIssue]
    factors = [(across, down) for _, across, down, _ in layers]
    if picture.mode == "L":
        return len(factors) == 1
    is_rgb = picture.info.get("adobe_transform") == 0 or [each[0] for each in layers] == RGB_IDS
    return (
        picture.mode == "RGB"
        and not is_rgb
        and factors[0] in SAMPLINGS
        and factors[1:] == [(1, 1), (1, 1)]
    )


def _turned(image: "torch.Tensor", turn: Image.Transpose | None) -> "torch.Tensor":
    """A stored picture (3, H, W) upright."""
    swapped, *mirrored = MIRRORED[turn]
    if axes := [axis for axis, each in enumerate(mirrored, start=1) if each]:
        image = image.flip(axes)
    return image.transpose(1, 2) if swapped else image


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

    Even: one frame, then scans of it up to the end marker, nothing but segments between them; and
    the scans of a picture that is not progressive say so.
    """
    octets = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(octets[:-1] == 0xFF)
    after = octets[places + 1]
    places = places[(after != 0) & (after != 0xFF) & ((after < 0xD0) | (after > 0xD7))]
    kept, place, in_scan, frame = [data[:2]], 2, False, 0
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
        if marker in FRAMES:
            if frame:
                return None
            frame = marker
        if marker == SCAN and (
            not frame or (frame != PROGRESSIVE and data[end - 3 : end] != WHOLE_SPECTRUM)
        ):
            return None
        if known:
            kept.append(data[start:end])
        in_scan = in_scan or marker == SCAN
        place = end
