"""Volumes: how a network wants them, and bytes -> voxels or the reason why not.

Light on purpose: drivers and decoder processes import it and start without torch; nibabel is
imported where a NIfTI file is decoded. A volume is (D, H, W) with D from feet to head, H from back
to front and W from the person's left to the right: the axes of NIfTI's closest RAS+, last first.
"""

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from vision_ops.arrays import MAGIC, UnreadableArrayError, check_count, check_finite, read_npy
from vision_ops.decode import DecodeConfig
from vision_ops.decode.formats import too_much
from vision_ops.resampling import resample, standardise

Scaling = Literal["standardise", "none"]

MAX_VOXELS = 1_024
"""along an axis of what a network sees"""
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".npy")
GZIP = b"\x1f\x8b"
HEADER_BYTES = {348: 1, 540: 2}
"""the first number of a NIfTI file, in either order of bytes -> which NIfTI it is"""
MAX_TAIL = 1 << 20
"""bytes after the last voxel that are passed over; more is no volume"""
SHOWN = (1.0, 99.0)
"""percentiles of the values between which a thumbnail goes from black to white"""


@dataclass(frozen=True, kw_only=True)
class VolumePreprocess:
    """How a network wants its volumes: one grid of voxels, one channel."""

    depth: int = 32
    """D, voxels from feet to head"""
    height: int = 32
    """H, voxels from back to front"""
    width: int = 32
    """W, voxels from the person's left to the right"""
    scaling: Scaling = "standardise"
    """standardise: each volume to mean 0 and standard deviation 1 over the grid (MR has no unit);
    none: values as they are stored, slope and intercept applied (Hounsfield units, say)"""

    def __post_init__(self) -> None:
        for name in ("depth", "height", "width"):
            if not 1 <= getattr(self, name) <= MAX_VOXELS:
                raise ValueError(f"{name} {getattr(self, name)}: must be 1..{MAX_VOXELS}")
        if self.scaling not in get_args(Scaling):
            raise ValueError(f"scaling {self.scaling!r}: not one of {get_args(Scaling)}")

    @property
    def num_channels(self) -> int:
        """Of what the network sees."""
        return 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a decoded volume: (D, H, W)."""
        return (self.depth, self.height, self.width)

    @property
    def dtype(self) -> np.dtype:
        """Of a decoded volume: half the memory where that costs nothing.

        Standardised values lie within sqrt(D * H * W) of 0, at most 32,768: float16 holds them to
        0.05 %, far below the noise of a scanner. Values as stored have any range: float32.
        """
        return np.dtype(np.float16 if self.scaling == "standardise" else np.float32)

    @property
    def network_shape(self) -> tuple[int, ...]:
        """Of what the network sees: (1, D, H, W)."""
        return (1, *self.shape)

    def describe(self) -> dict[str, str]:
        """What a person is told of it."""
        scaling = {"standardise": "to mean 0, deviation 1", "none": "as stored"}[self.scaling]
        grid = " x ".join(map(str, self.shape))
        return {
            "volume": f"closest RAS+, resampled to {grid} (depth x height x width)",
            "input": f"{scaling}, {self.dtype}",
        }


class DecodeVolume:
    """Decoder of volumes: NIfTI-1 and -2 in one file, gzipped or not, and .npy of (D, H, W).

    NIfTI is turned to the closest canonical orientation (RAS+) and scaled by scl_slope and
    scl_inter. A run of volumes (a fourth axis) becomes its mean over time: the usual reference of
    a functional run, free of a choice, and quieter than any one of its volumes. The grid is
    stretched over the whole field of view; sizes of voxels are not kept. Failed: what is truncated,
    damaged, empty, too large by its header, complex or in colours, or holds a value that is missing
    or infinite. Picklable.
    """

    def __init__(self, config: DecodeConfig, preprocess: VolumePreprocess) -> None:
        self.config = config
        self.preprocess = preprocess
        self.shape = preprocess.shape
        self.dtype = preprocess.dtype
        self.suffixes: tuple[str, ...] = VOLUME_SUFFIXES
        self.extent: tuple[int, ...] = ()
        """depth, height and width in voxels of the volume decoded last, turned to RAS+"""

    def __call__(self, data: bytes, out: np.ndarray) -> str:
        """Write (D, H, W) into out; return "" or why it is not there."""
        config = self.config
        try:
            if len(data) > config.max_megabytes * 1e6:
                return too_much(len(data), "megabytes", config.max_megabytes)
            volume = read_volume(data, config.max_megapixels * 1e6)
            extent = volume.shape
            for axis, size in enumerate(self.shape):
                volume = resample(volume, size, axis)
            if self.preprocess.scaling == "standardise":
                volume = standardise(volume, axes=(0, 1, 2))
            out[...] = volume
            self.extent = extent
        except UnreadableArrayError as refusal:
            return str(refusal)
        except MemoryError:
            return "not enough memory for this volume"
        return ""


def read_volume(data: bytes, max_voxels: float = 100e6) -> np.ndarray:
    """The volume in a NIfTI or .npy file: finite float32 (D, H, W), at its own size.

    max_voxels counts those of all volumes of a run. Raises UnreadableArrayError.
    """
    if not len(data):
        raise UnreadableArrayError("empty file")
    data = bytes(data)  # the decoder's memory is reused while views of it may live
    if not data.startswith(MAGIC):
        return _read_nifti(data, max_voxels)
    volume = read_npy(data, max_voxels)
    if volume.ndim != 3:
        raise UnreadableArrayError(f"{volume.ndim} axes: a volume is (depth, height, width)")
    with np.errstate(over="ignore"):  # of a float64: becomes infinite, and is refused as such
        volume = volume.astype(np.float32)
    check_finite(volume)
    return volume


def _read_nifti(data: bytes, max_voxels: float) -> np.ndarray:
    stream = gzip.GzipFile(fileobj=io.BytesIO(data)) if data.startswith(GZIP) else io.BytesIO(data)
    try:
        header = _read_header(stream.read(544))
        shape = _checked_shape(header, max_voxels)
        start, size = _place(header, shape)
        stream.seek(0)
        body = stream.read(start + size)
        if len(body) == start + size and len(stream.read(MAX_TAIL + 1)) > MAX_TAIL:
            raise UnreadableArrayError("more bytes than its header tells of")
    except EOFError as wrong:
        raise UnreadableArrayError("truncated gzip") from wrong
    except (OSError, zlib.error) as wrong:
        raise UnreadableArrayError(f"damaged gzip: {wrong}") from wrong
    if len(body) < start + size:
        raise UnreadableArrayError(f"truncated NIfTI: {len(body):,} bytes of {start + size:,}")
    stored = np.frombuffer(body, header.get_data_dtype(), math.prod(shape), start)
    return _scaled_and_turned(stored.reshape(shape, order="F"), header)


def _read_header(data: bytes) -> Any:
    """A nibabel header of NIfTI-1 or -2, checked by nibabel."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    sizes = {int.from_bytes(data[:4], order) for order in ("little", "big")}
    version = next((HEADER_BYTES[size] for size in sizes if size in HEADER_BYTES), 0)
    if not version:
        raise UnreadableArrayError("neither a NIfTI file nor a .npy file")
    kind, needed = {1: (Nifti1Header, 348), 2: (Nifti2Header, 540)}[version]
    if len(data) < needed:
        raise UnreadableArrayError("truncated NIfTI: not even its header is there")
    if data[344:347] == b"ni1":
        raise UnreadableArrayError("a NIfTI header without its voxels (.hdr of a .hdr/.img pair)")
    try:
        header = kind.from_fileobj(io.BytesIO(data[:needed]), check=False)
        header.get_data_dtype()
    except (HeaderDataError, KeyError, ValueError, TypeError) as wrong:
        raise UnreadableArrayError(f"damaged NIfTI header: {_line(wrong)}") from wrong
    return header


def _checked_shape(header: Any, max_voxels: float) -> tuple[int, ...]:
    """(X, Y, Z) or (X, Y, Z, T). Raises UnreadableArrayError for what is none, or too large."""
    num_axes, *sizes = (int(size) for size in header["dim"])
    if not 1 <= num_axes <= 7 or min(sizes[:num_axes]) < 0:
        raise UnreadableArrayError(f"damaged NIfTI header: dim {[num_axes, *sizes]}")
    shape = tuple(sizes[:num_axes])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    check_count(shape, max_voxels)
    if len(shape) not in (3, 4):
        told = " x ".join(map(str, shape))
        raise UnreadableArrayError(f"{told}: a volume has three axes, or time as the fourth")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise UnreadableArrayError(f"voxels of type {dtype}: accepted are integers and floats")
    return shape


def _place(header: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Where voxels begin, and how many bytes they take."""
    offset = float(header["vox_offset"])
    least = int(header["sizeof_hdr"])
    if not least <= offset <= least + 64 * MAX_TAIL:  # extensions may lie between
        raise UnreadableArrayError(f"damaged NIfTI header: voxels begin at byte {offset:g}")
    return int(offset), math.prod(shape) * header.get_data_dtype().itemsize


def _scaled_and_turned(stored: np.ndarray, header: Any) -> np.ndarray:
    """(X, Y, Z[, T]) as stored -> float32 (D, H, W): mean over time, slope, closest RAS+."""
    from nibabel.orientations import apply_orientation, io_orientation
    from nibabel.spatialimages import HeaderDataError

    with np.errstate(over="ignore", invalid="ignore"):
        if stored.ndim == 4:
            volume = stored.mean(axis=3, dtype=np.float64)
        else:
            volume = stored.astype(np.float64)
        try:
            slope, intercept = header.get_slope_inter()
            orientation = io_orientation(header.get_best_affine())
        except (HeaderDataError, ValueError, np.linalg.LinAlgError) as wrong:
            raise UnreadableArrayError(f"damaged NIfTI header: {_line(wrong)}") from wrong
        if slope is not None:
            volume = volume * slope + (intercept or 0)
        volume = volume.astype(np.float32)
    check_finite(volume)
    if np.isnan(orientation).any():
        raise UnreadableArrayError("damaged NIfTI header: its axes have no direction")
    turned = apply_orientation(volume, orientation)
    return np.ascontiguousarray(turned.transpose(2, 1, 0))


def middle_slice(data: bytes, size_px: int = 96) -> bytes:
    """The middle slice across the body, as a PNG for a report, longer side size_px.

    Front above, the person's left to the left; grey between two percentiles of the volume. Raises
    UnreadableArrayError, a ValueError.
    """
    volume = read_volume(data)
    low, high = np.percentile(volume, SHOWN)
    if low == high:  # something small in much of nothing
        low, high = volume.min(), volume.max()
    plane = volume[len(volume) // 2, ::-1]
    part = (plane - low) / (high - low) if high > low else np.zeros_like(plane)
    image = Image.fromarray((part.clip(0, 1) * 255).round().astype(np.uint8))
    scale = size_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    target = io.BytesIO()
    image.resize(size, Image.Resampling.BILINEAR).save(target, "PNG", optimize=True)
    return target.getvalue()


def _line(wrong: BaseException) -> str:
    return " ".join(str(wrong).split())[:200] or type(wrong).__name__
