"""Arrays: of .npy files, from bytes that nobody vouches for; and of memory that is read-only.

Light on purpose: decoder processes import it and start without torch.
"""

import math
from io import BytesIO
from tokenize import TokenError

import numpy as np
from numpy.lib import format as npy

MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000
"""characters; numpy's own limit: a longer one is parsed for minutes"""
HEADER_ERRORS = (ValueError, EOFError, TypeError, SyntaxError, TokenError, RecursionError)
"""what numpy lets through: it evaluates the header as a Python literal"""


class UnreadableArrayError(ValueError):
    """Bytes that are no array, with the reason for a person."""


def read_npy(data: bytes, max_values: float) -> np.ndarray:
    """The array of a .npy file: real numbers of any width, a view of `data` or a copy.

    Nothing is unpickled, and what the header claims is checked against `max_values` and against
    the bytes that are there before memory is taken. Raises UnreadableArrayError.
    """
    stream = BytesIO(data)
    try:
        version = npy.read_magic(stream)
        read_header = {(1, 0): npy.read_array_header_1_0}.get(version, npy.read_array_header_2_0)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise UnreadableArrayError(f"a .npy of version {version}")
        shape, is_fortran, dtype = read_header(stream, max_header_size=MAX_HEADER)
    except UnreadableArrayError:
        raise
    except HEADER_ERRORS as wrong:
        raise UnreadableArrayError(f"damaged .npy header: {_line(wrong)}") from wrong
    if dtype.kind not in "iuf":
        raise UnreadableArrayError(f"values of type {dtype}: accepted are integers and floats")
    if min(shape, default=0) < 0:
        raise UnreadableArrayError(f"damaged .npy header: shape {shape}")
    check_count(shape, max_values)
    count = math.prod(shape)
    start = stream.tell()
    if len(data) - start < count * dtype.itemsize:
        raise UnreadableArrayError(
            f"truncated: {len(data) - start:,} bytes of {count * dtype.itemsize:,}"
        )
    flat = np.frombuffer(data, dtype, count, start)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def check_count(shape: tuple[int, ...], max_values: float) -> None:
    """Raise UnreadableArrayError where an array of this shape would hold too many values."""
    if (count := math.prod(shape)) > max_values:
        told = " x ".join(map(str, shape))
        raise UnreadableArrayError(f"{told} values, more than the {max_values:,.0f} allowed")
    if count == 0:
        raise UnreadableArrayError("empty: holds no value")


def check_finite(values: np.ndarray) -> None:
    """Raise UnreadableArrayError where a value is missing or infinite."""
    if values.dtype.kind == "f" and not (good := np.isfinite(values)).all():
        bad = values.size - int(good.sum())
        raise UnreadableArrayError(f"{bad:,} of {values.size:,} values are missing or infinite")


def _line(wrong: BaseException) -> str:
    return " ".join(str(wrong).split())[:200] or type(wrong).__name__


def as_shared(pixels: np.ndarray) -> np.ndarray:
    """The same memory for a library that writes to none, and copies what is marked read-only.

    A copy where the memory itself may not be written to.
    """
    if pixels.flags.writeable:
        return pixels
    shared = pixels.view()
    try:
        shared.flags.writeable = True
    except ValueError:
        return pixels.copy()
    return shared
