"""torchvision's networks that know the photographs' regions, made in a minute, nothing downloaded.

Random convolutions describe a picture well enough for a linear classifier. So: weights of seed 0,
batch normalisation's statistics from a few hundred photographs (else the signal dies or explodes),
then the last layer in closed form. Labels that mean something make agreement between precisions and
between peers mean something: a network of noise would flip at every rounding.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tests.benchmarks.photographs import LABELS, make_photographs
from tests.benchmarks.plain import save_plain
from vision_ops.card import Card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.models import build, embed, embedding_size, head_of
from vision_ops.normalize import normalize
from vision_ops.precision.openvino_network import convert, quantise
from vision_ops.preprocess import Preprocess, fit

NUM_PHOTOGRAPHS = 800
"""to learn from; of another seed than those that are classified"""
NUM_CALIBRATION = 256
"""of them give batch normalisation its statistics and int8 its ranges"""
SEED = 1_000_003
BATCH_SIZE = 32
RIDGE = 0.1
"""penalty on the weights, relative to the features' mean square"""
LOGIT_RANGE = 10.0
"""logit of the right class above that of the others, where the fit is exact"""
POSITIVE_SHIFT = 10.0
"""added to all logits of SqueezeNet, which ends in a ReLU; softmax is blind to it"""


@dataclass(frozen=True, kw_only=True)
class NetworkFiles:
    """One network in the two forms that contenders read."""

    checkpoint: Path
    """Argus's safetensors with its card"""
    state: Path
    """the same weights, for `plain.load_plain`"""

    def compiled(self, precision: str) -> Path:
        """Where `make_compiled` puts the network for OpenVINO; in fp32 unless it is int8."""
        held = "int8" if precision == "int8" else "fp32"
        return self.checkpoint.with_name(f"{self.checkpoint.stem}-{held}.openvino")


def make_network(name: str, folder: Path) -> NetworkFiles:
    """The files of a torchvision network; made where they are not there yet."""
    files = NetworkFiles(checkpoint=folder / f"{name}.safetensors", state=folder / f"{name}.pth")
    if files.checkpoint.exists() and files.state.exists():
        return files
    folder.mkdir(parents=True, exist_ok=True)
    pixels, targets = _lessons(folder)
    torch.manual_seed(0)
    model = build(f"torchvision:{name}", num_classes=len(LABELS))
    preprocess = Preprocess()
    with torch.inference_mode():
        _calibrate_batch_norm(model, pixels, preprocess)
        _fit_head(model, pixels, targets, preprocess)
    card = Card(
        network=f"torchvision:{name}",
        classes=LABELS,
        preprocess=preprocess,
        licence="none",
        source="random convolutions, last layer fitted to the benchmark's photographs",
        embedding_size=embedding_size(model, preprocess.network_shape),
    )
    save_plain(files.state, name, model, LABELS)
    save_checkpoint(files.checkpoint, model, card)
    return files


def make_compiled(files: NetworkFiles, precision: str) -> Path:
    """The network as jobs.classify itself would compile it, for who runs vision_ops without it."""
    path = files.compiled(precision)
    if not path.exists():
        data = convert(files.checkpoint)
        if precision == "int8":
            data = quantise(data, _lessons(path.parent)[0][:NUM_CALIBRATION])
        path.write_bytes(data)
    return path


def _lessons(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (N, 224, 224, 3) and class indices (N,) of the photographs to learn from."""
    path = folder / f"lessons-{NUM_PHOTOGRAPHS}.npz"
    if not path.exists():
        pixels: list[np.ndarray] = []
        targets: list[int] = []
        for photograph in make_photographs(NUM_PHOTOGRAPHS, SEED):
            image = Image.open(io.BytesIO(photograph.data)).convert("RGB")
            pixels.append(np.asarray(fit(image, Preprocess())))
            targets.append(LABELS.index(photograph.label))
        np.savez(path, pixels=np.stack(pixels), targets=np.array(targets))
    with np.load(path) as saved:
        return saved["pixels"], saved["targets"]


def _calibrate_batch_norm(model: nn.Module, pixels: np.ndarray, preprocess: Preprocess) -> None:
    """Running statistics as the mean over NUM_CALIBRATION photographs."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain mean of the batches instead of a decaying one
        norm.reset_running_stats()
    model.train(bool(norms))
    for start in range(0, NUM_CALIBRATION if norms else 0, BATCH_SIZE):
        model(normalize(pixels[start : start + BATCH_SIZE], preprocess, "cpu"))
    model.eval()


def _fit_head(
    model: nn.Module, pixels: np.ndarray, targets: np.ndarray, preprocess: Preprocess
) -> None:
    """Ridge regression from the embeddings to one-hot labels, written into the last layer."""
    starts = range(0, len(pixels), BATCH_SIZE)
    batches = (normalize(pixels[start : start + BATCH_SIZE], preprocess, "cpu") for start in starts)
    features = torch.cat([embed(model, batch) for batch in batches]).double()
    wanted = LOGIT_RANGE * nn.functional.one_hot(torch.from_numpy(targets), len(LABELS)).double()
    weight, bias = _ridge(features, wanted)
    head = head_of(model)
    shift = POSITIVE_SHIFT if isinstance(head, nn.Conv2d) else 0.0
    assert head.bias is not None
    head.weight.copy_(weight.T.reshape(head.weight.shape))
    head.bias.copy_(bias + shift)


def _ridge(features: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (E, K) and bias (K,) of the least squares fit with a penalty on the weights."""
    mean = features.mean(dim=0)
    centred = features - mean
    gram = centred.T @ centred
    penalty = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram + penalty, centred.T @ (wanted - wanted.mean(dim=0)))
    return weight, wanted.mean(dim=0) - mean @ weight
