"""Networks of tensors at their fastest in fp32: OpenVINO on a CPU, torch on a GPU.

What `vision_ops.precision` opens takes pictures of one size to logits. Detectors look at pictures
of any size and answer with maps: they are opened here.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from vision_ops.card import write_whole
from vision_ops.precision import num_threads
from vision_ops.precision.verdicts import converted_path, last_line
from vision_ops.weights import cache_folder

if TYPE_CHECKING:
    import openvino as ov

logger = logging.getLogger(__name__)

Forward = Callable[[Float32[Tensor, "B 3 H W"]], Sequence[Tensor]]
TOLERANCE = 1e-3
"""largest difference from torch's answers, relative to the largest, of a conversion"""


def open_forward(
    network: nn.Module,
    name: str,
    example: Float32[Tensor, "B 3 H W"],
    *,
    any_size: bool = False,
    callers: int = 1,
) -> Forward:
    """A network in evaluation mode, on the device where it lies, that several threads may call.

    It takes as many images as `example` at a time, of its size or, with `any_size`, of any that the
    network takes; images in channels_last are not copied. `name` is that of its weights: under it a
    conversion is kept in the cache folder. One that OpenVINO cannot convert stays with torch, which
    is said. On a CPU the same images give the same bits whatever else was asked before.
    """
    if example.device.type != "cpu":
        return network.to(memory_format=torch.channels_last)
    path = converted_path(cache_folder(), name)
    try:
        if not path.is_file():
            write_whole(path, _converted(network, example, any_size=any_size))
        return _Compiled(path, example, callers)
    except (ImportError, ValueError) as refusal:
        logger.warning("%s: %s; it is run by torch", name, refusal)
        return network.to(memory_format=torch.channels_last)


class _Compiled:
    """A converted network, compiled once for each of its callers."""

    def __init__(self, path: Path, example: Tensor, callers: int) -> None:
        import openvino as ov

        from vision_ops.precision.openvino_network import compile_network, unpacked

        core = ov.Core()
        model = unpacked(core, path)
        threads = max(1, num_threads() // callers)
        # those that nobody is using
        self.requests: SimpleQueue[ov.InferRequest] = SimpleQueue()
        for _ in range(callers):
            compiled = compile_network(core, model, "fp32", threads)
            self.requests.put(compiled.create_infer_request())
        self(example)  # the bindings' first call must not be two threads'

    def __call__(self, images: Float32[Tensor, "B 3 H W"]) -> Sequence[Tensor]:
        rows = images.permute(0, 2, 3, 1).contiguous().numpy()
        request = self.requests.get()
        try:
            found = request.infer([rows], share_inputs=True)
            return [torch.from_numpy(found[k]) for k in range(len(found))]
        finally:
            self.requests.put(request)


def _converted(network: nn.Module, example: Tensor, *, any_size: bool) -> bytes:
    """The network for OpenVINO, its images as (B, H, W, 3). Raises ValueError where it cannot be.

    The conversion is tried on noise, at another size too where it is to take any.
    """
    import openvino as ov

    from vision_ops.precision.openvino_network import FAILURES, compile_network, packed, quietly

    batch, channels, height, width = example.shape
    sizes = [(height, width), (2 * height, 3 * width)][: 1 + any_size]
    try:
        with torch.inference_mode(False), torch.no_grad(), quietly():
            model = ov.convert_model(network, example_input=torch.zeros(example.shape))
            model.reshape([batch, channels, *((-1, -1) if any_size else (height, width))])
            model = _channels_last(model)
            request = compile_network(ov.Core(), model, "fp32").create_infer_request()
            for size in sizes:
                images = 2 * torch.rand(batch, channels, *size) - 1
                expected = network(images)
                found = request.infer([images.permute(0, 2, 3, 1).contiguous().numpy()])
                _refuse_other([found[k] for k in range(len(found))], expected)
    except (RuntimeError, *FAILURES) as refusal:
        raise ValueError(f"OpenVINO cannot convert it: {last_line(refusal)}") from refusal
    return packed(model, {})


def _channels_last(model: "ov.Model") -> "ov.Model":
    """The same network, asked with (B, H, W, 3)."""
    from openvino import Layout
    from openvino.preprocess import PrePostProcessor

    asked = PrePostProcessor(model)
    asked.input().tensor().set_layout(Layout("NHWC"))
    asked.input().model().set_layout(Layout("NCHW"))
    return asked.build()


def _refuse_other(found: Sequence[np.ndarray], expected: Sequence[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        off = float((torch.from_numpy(one) - other).abs().max())
        if not off <= TOLERANCE * max(1.0, float(other.abs().max())):
            raise ValueError(f"OpenVINO's answers differ from torch's by {off:g}")
