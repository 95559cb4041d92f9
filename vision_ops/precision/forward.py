"""Networks of tensors at their fastest in fp32: OpenVINO on a CPU, torch on a GPU.

What `vision_ops.precision` opens takes pictures of one size to logits. Detectors look at pictures
of any size and answer with maps: they are opened here.
"""

import logging
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

import torch
from torch import Tensor, nn

from vision_ops.card import write_whole
from vision_ops.precision import num_threads
from vision_ops.precision.verdicts import converted_path, last_line
from vision_ops.weights import cache_folder


logger = logging.getLogger(__name__)

Forward = Callable[..., Sequence[Tensor]]
"""called with the images and with the other inputs, if there are some"""
Inputs = tuple[Tensor, ...]
"""the images first"""
TOLERANCE = 1e-3
"""largest difference from torch's answers, relative to the largest, of a conversion"""


def open_forward(
    network: nn.Module,
    name: str,
    example: Tensor,
    *,
    others: Sequence[Tensor] = (),
    any_size: bool = False,
    callers: int = 1,
) -> Forward:
    """A network in evaluation mode, on the device where it lies, that several threads may call.

    It is called with tensors of `example`'s shape and dtype; with `any_size` that is (B, H, W, C),
    and H and W may be others each time. `others` are examples of further inputs, with shapes that
    stay: what can change without another conversion. `name` is that of its weights: under it a conversion is
    kept in the cache folder. One that OpenVINO cannot convert stays with torch, which is said. On a
    CPU the same images give the same bits whatever else was asked before.
    """
    if example.device.type != "cpu":
        return network.to(memory_format=torch.channels_last)
    path = converted_path(cache_folder(), name)
    try:
        if path.is_file():
            try:
                return _opened(path, network, (example, *others), callers)
            except ValueError as refusal:  # damaged, or of an earlier form of this network
                logger.warning("%s: %s; it is converted anew", path, refusal)
        write_whole(path, _converted(network, (example, *others), any_size=any_size))
        return _opened(path, network, (example, *others), callers)
    except (ImportError, ValueError) as refusal:
        logger.warning("%s: %s; it is run by torch", name, refusal)
        return network.to(memory_format=torch.channels_last)


def _opened(path: Path, network: nn.Module, inputs: Inputs, callers: int) -> Forward:
    """A kept conversion. Raises ValueError for one that is damaged or not of this network."""
    from vision_ops.precision.openvino_network import FAILURES

    given = (_noise(inputs[0].shape, inputs[0].dtype), *inputs[1:])
    try:
        opened = _Compiled(path, inputs, callers)
        found = opened(*given)
    except (RuntimeError, KeyError, zipfile.BadZipFile, *FAILURES) as damage:
        raise ValueError(f"cannot be opened: {last_line(damage)}") from damage
    with torch.inference_mode():
        _refuse_other(found, network(*given))
    return opened


class _Compiled:
    """A converted network, compiled once for each of its callers."""

    def __init__(self, path: Path, inputs: Inputs, callers: int) -> None:
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
        self(*inputs)  # the bindings' first call must not be two threads'

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        rows = [each.contiguous().numpy() for each in inputs]
        request = self.requests.get()
        try:
            found = request.infer(rows, share_inputs=True)
            return [torch.from_numpy(found[k]) for k in range(len(found))]
        finally:
            self.requests.put(request)


def _converted(network: nn.Module, inputs: Inputs, *, any_size: bool) -> bytes:
    """The network for OpenVINO. Raises ValueError where it cannot be had.

    The conversion is tried on noise, at another size too where it is to take any.
    """
    import openvino as ov

    from vision_ops.precision.openvino_network import FAILURES, compile_network, packed, quietly

    example, *others = inputs
    shapes = [list(example.shape)]
    try:
        with torch.inference_mode(False), torch.no_grad(), quietly():
            zeros = torch.zeros_like(example)
            model = ov.convert_model(network, example_input=(zeros, *others) if others else zeros)
            fixed: dict[int, list[int]] = {k: list(each.shape) for k, each in enumerate(inputs)}
            model.reshape(fixed)
            if any_size:
                batch, height, width, channels = shapes[0]
                model.reshape(fixed | {0: [batch, -1, -1, channels]})
                shapes.append([batch, 2 * height, 3 * width, channels])
            request = compile_network(ov.Core(), model, "fp32").create_infer_request()
            for shape in shapes:
                given = (_noise(shape, example.dtype), *others)
                expected = network(*given)
                found = request.infer([each.numpy() for each in given])
                _refuse_other([torch.from_numpy(found[k]) for k in range(len(found))], expected)
    except (RuntimeError, *FAILURES) as refusal:
        raise ValueError(f"OpenVINO cannot convert it: {last_line(refusal)}") from refusal
    return packed(model, {})


def _noise(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    own = torch.Generator().manual_seed(0)
    if dtype == torch.uint8:
        return torch.randint(0, 256, tuple(shape), generator=own, dtype=dtype)
    return 2 * torch.rand(tuple(shape), generator=own, dtype=dtype) - 1


def _refuse_other(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            raise ValueError(f"OpenVINO answers {tuple(one.shape)}, torch {tuple(other.shape)}")
        off = float((one - other).abs().max())
        if not off <= TOLERANCE * max(1.0, float(other.abs().max())):
            raise ValueError(f"OpenVINO's answers differ from torch's by {off:g}")
