"""A network at its fastest: one call over several back ends, pixels to logits and embeddings.

    .openvino             OpenVINO on a CPU: fp32, bf16 where the CPU has it, or int8
    .safetensors          torch, channels_last: fp32 anywhere, bf16 where the CPU has it; on CUDA
                          bf16 and fp16 too, compiled or not
    .onnx                 ONNX Runtime on a CPU: fp32

Light on purpose: OpenVINO starts in 0.2 s and 70 MB, torch in 3 s and 650 MB, so a process imports
what its file needs. `vision_ops.precision.choose` finds which is fastest and true enough.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Shaped

from vision_ops.card import Card, is_compiled
from vision_ops.clips import ClipPreprocess
from vision_ops.inputs import Inputs

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Outputs = tuple[Float32[np.ndarray, "B K"], Float32[np.ndarray, "B E"]]
PASS_SIZE = 32
"""pictures in one forward pass on a CPU (clips: see `pass_size_of`), or in several smaller ones
that give the same bits: results are then bit for bit the same however rows are batched. 16-64 are
the fastest for ResNets there (measured on AMX; on AVX2 and AVX-512 32 as well)"""


@runtime_checkable
class Network(Protocol):
    """A network that is ready to run."""

    card: Card
    back_end: str
    """`openvino`, `torch`, `torch compiled`, `onnxruntime`"""
    precision: Precision

    def __call__(self, pixels: Shaped[np.ndarray, "B *decoded"]) -> Outputs:
        """Logits (B, K) and penultimate features (B, E), not normalised; any B, none included.

        May be called by several threads. pixels are of the shape and dtype that the card says
        (pictures: uint8, sRGB 0..255); normalising is the network's.
        """
        ...


def open_network(
    path: str | Path,
    precision: Precision = "fp32",
    *,
    pass_size: int = 0,
    compiled: bool = False,
    callers: int = 1,
) -> Network:
    """The network of a file on this process' device (its GPU, else the CPU), ready to run.

    It takes as many cores as OMP_NUM_THREADS allows, shared evenly by `callers`, the threads that
    will call it at a time: one core a pass keeps no core waiting for another. On a GPU a pass holds
    `pass_size` images (0: as many as a call brings), and `compiled` asks for torch.compile. Raises
    ValueError for a file that is none, and for a precision that this device or file does not have.
    """
    if is_compiled(path):
        from vision_ops.precision.openvino_network import OpenVinoNetwork

        return OpenVinoNetwork(path, precision, callers)
    from vision_ops.precision.torch_network import TorchNetwork

    return TorchNetwork(path, precision, pass_size=pass_size, compiled=compiled)


def pass_size_of(preprocess: Inputs) -> int:
    """Images in one forward pass on a CPU: PASS_SIZE pictures, or clips of as many frames."""
    frames = preprocess.num_frames if isinstance(preprocess, ClipPreprocess) else 1
    return max(1, PASS_SIZE // frames)


def num_threads() -> int:
    """Threads that a network may take: OMP_NUM_THREADS, else the CPUs of this process."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and int(said) else len(os.sched_getaffinity(0))


def full_passes(
    pixels: Shaped[np.ndarray, "B *decoded"], size: int
) -> Iterator[tuple[Shaped[np.ndarray, "S *decoded"], int]]:
    """Passes of exactly `size` images, the last one filled up with zeros, and the rows that count.

    There is at least one, of no rows where there are none. Only one that is not full is copied.
    """
    for start in range(0, max(len(pixels), 1), size):
        part = pixels[start : start + size]
        rows = len(part)
        if rows < size:
            rest = np.zeros((size - rows, *pixels.shape[1:]), pixels.dtype)
            part = np.concatenate([part, rest])
        yield part, rows
