"""A checkpoint run by torch: the reference on CPUs, the only back end on GPUs."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vision_ops.arrays import as_shared
from vision_ops.card import is_onnx
from vision_ops.checkpoint import load_checkpoint
from vision_ops.device import keep_memory, pick_device
from vision_ops.faces import FacePreprocess
from vision_ops.models import (
    GivesBoth,
    averaged,
    head_of,
    in_fast_layout,
    logits_and_embeddings,
)
from vision_ops.normalize import normalize
from vision_ops.precision import Outputs, Precision, full_passes, pass_size_of
from vision_ops.preprocess import Preprocess

logger = logging.getLogger(__name__)

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class TorchNetwork:
    """A `vision_ops.precision.Network` on the GPU that this process may use, else on the CPU.

    On a CPU a pass always holds 32 pictures, or clips of 32 frames together, one at least. On a GPU
    it holds `pass_size`, or what a call brings rounded up to such passes; where the memory does not
    suffice the size is halved, once, and that is said. fp32 is full fp32 (no TF32); bf16
    and fp16 hold weights and activations in that type. A compiled network is called by one thread
    of its own: what it records of a GPU's work belongs to the thread that recorded it.
    """

    def __init__(
        self,
        path: str | Path,
        precision: Precision = "fp32",
        *,
        pass_size: int = 0,
        compiled: bool = False,
    ) -> None:
        self.device = pick_device()
        if self.device.type == "cpu":
            keep_memory()
        refuse_unable(precision, self.device, path)
        model, self.card = load_checkpoint(path, self.device)
        self.precision: Precision = precision
        self.dtype = DTYPES[precision]
        self.back_end = "onnxruntime" if is_onnx(path) else "torch"
        self.model = in_fast_layout(model.to(self.dtype))
        self.both: nn.Module = Both(self.model, self.card.is_embedder)
        self.thread = None
        if compiled:
            self.back_end = "torch compiled"
            self.thread = ThreadPoolExecutor(1)
            self.both = torch.compile(self.both, mode="reduce-overhead")  # pyright: ignore[reportAttributeAccessIssue]
        self.unit = pass_size_of(self.card.preprocess)
        self.pass_size = self.unit if self.device.type == "cpu" else pass_size
        self.halved = False
        self.lock = threading.Lock()

    def __call__(self, pixels: np.ndarray) -> Outputs:
        if self.thread is not None:
            return self.thread.submit(self._whole, pixels).result()
        with self.lock:  # torch shares one pass among all its threads
            return self._whole(pixels)

    def _whole(self, pixels: np.ndarray) -> Outputs:
        size = self.pass_size or max(len(pixels) + -len(pixels) % self.unit, self.unit)
        try:
            return self._outputs(pixels, size)
        except torch.OutOfMemoryError:
            if self.halved or size == 1:
                raise
        # out of the block above: the error holds the tensors of the pass that failed
        self.halved, self.pass_size = True, size // 2
        logger.warning("out of GPU memory: %d images a pass instead of %d", size // 2, size)
        torch.cuda.empty_cache()
        return self._outputs(pixels, self.pass_size)

    @torch.inference_mode()
    def _outputs(self, pixels: np.ndarray, size: int) -> Outputs:
        """All passes are given to the device before the first answer is waited for.

        A GPU then works on one pass while the next one is brought to it.
        """
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        for part, rows in full_passes(pixels, size):
            logits, features = self._forward(part)
            # a compiled network writes its next outputs over these
            found.append((logits[:rows].float().clone(), features[:rows].float().clone()))
        logits, features = (torch.cat(column).cpu().numpy() for column in zip(*found, strict=True))
        return logits, features

    def _forward(self, part: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        images = normalize(self._staged(part), self.card.preprocess, self.device).to(self.dtype)
        with torch.backends.cudnn.flags(  # without `enabled` it is switched off
            enabled=True, deterministic=True, benchmark=False, allow_tf32=False
        ):
            return self.both(images)

    def _staged(self, part: np.ndarray) -> torch.Tensor:
        """Pixels as a tensor; for a GPU copied once here, to memory from which it fetches them."""
        if self.device.type == "cpu":
            return torch.from_numpy(as_shared(part))
        dtype = torch.from_numpy(np.empty(0, part.dtype)).dtype
        pinned = torch.empty(part.shape, dtype=dtype, pin_memory=True)
        np.copyto(pinned.numpy(), part)
        return pinned.to(self.device, non_blocking=True)  # this thread does not wait for it


class Both(nn.Module):
    """Logits and embeddings as `logits_and_embeddings` has them, by one graph for torch.compile.

    What the last layer sees is taken by a hook that is there from the start: one that comes and
    goes with each pass would break the graph in front of that layer.
    """

    def __init__(self, model: nn.Module, is_embedder: bool) -> None:
        super().__init__()
        self.model = model
        self.is_embedder = is_embedder
        self.seen: list[torch.Tensor] = []
        self.is_hooked = not is_embedder and not isinstance(model, GivesBoth)
        if self.is_hooked:
            head_of(model).register_forward_pre_hook(self._see)

    def _see(self, _: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        self.seen.append(inputs[0])

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_hooked:
            return logits_and_embeddings(self.model, images, is_embedder=self.is_embedder)
        self.seen.clear()
        logits = self.model(images)
        if not self.seen:
            raise ValueError(f"{type(self.model).__name__}: its last layer took no part")
        features = averaged(self.seen[-1])
        self.seen.clear()
        return logits, features


class FromPixels(nn.Module):
    """The whole way from uint8 pixels (B, H, W, 3) as one module, normalising included."""

    def __init__(self, model: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.both = Both(model, isinstance(preprocess, FacePreprocess))
        self.order = [2, 1, 0] if preprocess.channels == "BGR" else [0, 1, 2]
        std = torch.tensor(preprocess.std, dtype=torch.float64)
        mean = torch.tensor(preprocess.mean, dtype=torch.float64)
        self.factor = nn.Buffer((1 / (preprocess.scale * std)).float().view(1, 3, 1, 1))
        self.offset = nn.Buffer((-mean / std).float().view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = pixels.permute(0, 3, 1, 2)
        if self.order != [0, 1, 2]:
            images = images[:, self.order]
        return self.both(images.float() * self.factor + self.offset)


def refuse_unable(precision: Precision, device: torch.device, path: str | Path) -> None:
    """Raise ValueError where torch on this device does not compute in that precision."""
    if precision == "fp32":
        return
    if is_onnx(path):
        raise ValueError(f"op.precision {precision}: {path} is run by ONNX Runtime in fp32 only")
    if precision not in native(device):
        raise ValueError(
            f"op.precision {precision}: torch on this {device.type} has {', '.join(native(device))}"
        )


def native(device: torch.device) -> tuple[Precision, ...]:
    """What torch computes on a device at the hardware's own speed."""
    if device.type == "cuda":
        return ("fp32", "bf16", "fp16") if torch.cuda.is_bf16_supported() else ("fp32", "fp16")
    able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return ("fp32", "bf16") if able else ("fp32",)
