"""Signals and volumes made from seeds and scikit-learn's digits, to try 1-D and 3-D networks on."""

import gzip
import io
import struct
from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits

NUM_SAMPLES = 128
WAVES = ("sine", "square", "sawtooth", "pulse")
CASES = {"train": 24, "test": 24}
"""of each wave"""
SIDE = 16
"""voxels along each axis of a volume"""
DIGITS = {"train": 60, "test": 15}
"""volumes of each digit"""
MAX_TURN_DEG = 20.0

Files = Iterator[tuple[str, bytes]]


def signals(seed: int) -> Files:
    """Waves of four shapes with their own period, phase, height and noise, as the archive's .ts."""
    random = np.random.default_rng([seed, 1])
    for split, count in CASES.items():
        lines = [
            "# made by `python -m jobs.make_samples`: waves of any period and phase, with noise",
            "@problemName Waves",
            "@timeStamps false",
            "@missing false",
            "@univariate true",
            "@equalLength true",
            f"@seriesLength {NUM_SAMPLES}",
            f"@classLabel true {' '.join(WAVES)}",
            "@data",
        ]
        for number in range(count * len(WAVES)):
            name = WAVES[number % len(WAVES)]
            values = ",".join(f"{value:.4f}" for value in wave(name, random))
            lines.append(f"{values}:{name}")
        yield f"signals/{split}.ts", ("\n".join(lines) + "\n").encode()


def wave(name: str, random: np.random.Generator) -> np.ndarray:
    """One of WAVES: 2 to 6 periods, height 0.5 to 2, noise a fifth of the height; float64 (L,)."""
    periods, phase, height = random.uniform((2, 0, 0.5), (6, 1, 2))
    place = (np.arange(NUM_SAMPLES) * periods / NUM_SAMPLES + phase) % 1
    shapes = {
        "sine": np.sin(2 * np.pi * place),
        "square": np.where(place < 0.5, 1.0, -1.0),
        "sawtooth": 2 * place - 1,
        "pulse": np.where(place < 0.15, 1.0, -1.0),
    }
    return height * (shapes[name] + random.normal(0, 0.2, NUM_SAMPLES))


def volumes(seed: int) -> Files:
    """Digits as bodies: a plate in the shape of one, turned in space, as NIfTI in a folder a class.

    No digit of the training volumes comes again in the others.
    """
    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng([seed, 2])
    for digit in range(10):
        chosen = random.permutation(np.flatnonzero(labels == digit))
        first = 0
        for split, count in DIGITS.items():
            for row in chosen[first : first + count]:
                body = solid(images[row].reshape(8, 8) / 16, random)
                yield f"volumes/{split}/{digit}/{row:04}.nii.gz", nifti(body)
            first += count


def solid(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A grey picture 0..1 (h, w) as a plate, turned by up to MAX_TURN_DEG about each axis.

    uint8 (X, Y, Z) of SIDE voxels each, with the noise of a scanner; the plate lies across Y, so
    that it is read from the front.
    """
    from scipy.ndimage import map_coordinates

    cosines = np.cos(turns := np.deg2rad(random.uniform(-MAX_TURN_DEG, MAX_TURN_DEG, 3)))
    sines = np.sin(turns)
    about_x = [[1, 0, 0], [0, cosines[0], -sines[0]], [0, sines[0], cosines[0]]]
    about_y = [[cosines[1], 0, sines[1]], [0, 1, 0], [-sines[1], 0, cosines[1]]]
    about_z = [[cosines[2], -sines[2], 0], [sines[2], cosines[2], 0], [0, 0, 1]]
    turn = np.array(about_x) @ about_y @ about_z
    middle = (SIDE - 1) / 2
    places = np.moveaxis(np.indices((SIDE,) * 3), 0, -1) - middle  # (X, Y, Z, 3)
    x, y, z = np.moveaxis(places @ turn, -1, 0)
    step = SIDE / 2 / np.array(image.shape) * 1.6  # the plate fills 4/5 of the volume
    rows = (image.shape[0] - 1) / 2 - z / step[0]
    columns = (image.shape[1] - 1) / 2 + x / step[1]
    ink = map_coordinates(image, [rows, columns], order=1, mode="constant")
    body = np.where(np.abs(y) < SIDE / 8, ink, 0.0)
    noisy = 200 * body + random.normal(20, 6, body.shape)
    return noisy.round().clip(0, 255).astype(np.uint8)


def nifti(volume: np.ndarray) -> bytes:
    """uint8 (X, Y, Z) as a gzipped NIfTI-1 file, 1 mm a voxel, its axes to right, front, head.

    Fields as nifti1.h has them (Cox et al. 2004); written here, so that samples need no package.
    """
    header = bytearray(352)  # the last four bytes: no extension follows
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *volume.shape, 1, 1, 1, 1)  # dim
    struct.pack_into("<2h", header, 70, 2, 8)  # datatype uint8, bits of a voxel
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)  # pixdim
    struct.pack_into("<3f", header, 108, 352, 1, 0)  # vox_offset, scl_slope, scl_inter
    header[123] = 2  # millimetres
    struct.pack_into("<2h", header, 252, 0, 1)  # no qform; the sform below leads to the scanner
    for row in range(3):
        struct.pack_into("<4f", header, 280 + 16 * row, *np.eye(3, 4)[row])
    header[344:348] = b"n+1\0"
    target = io.BytesIO()
    with gzip.GzipFile(fileobj=target, mode="wb", mtime=0) as file:
        file.write(bytes(header) + volume.tobytes(order="F"))
    return target.getvalue()
