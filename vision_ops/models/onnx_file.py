"""An ONNX file as a network: run by onnxruntime, seen by the rest as an nn.Module.

The only module that imports onnx and onnxruntime; they are the extra `onnx`.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

try:
    import onnx
    import onnxruntime
    from google.protobuf.message import DecodeError  # comes with onnx
except ModuleNotFoundError as missing:
    raise ValueError("ONNX files need onnx and onnxruntime: pip install -e '.[onnx]'") from missing

logger = logging.getLogger(__name__)

LAYERS = ("Gemm", "MatMul", "Conv")
"""nodes that may be the classifier; the embedding is what goes into the last of them"""


class OnnxNetwork(nn.Module):
    """A classifier in an ONNX file: one input (B, 3, H, W) float32, one output of K numbers.

    images  float32  (B, 3, H, W), normalised as the card says
    logits  float32  (B, K); where the file ends in a softmax, what goes into it

    A file made for a fixed batch gets batches of that size, the last one padded with zeros. It
    runs on the CPU, on as many threads as torch has. Raises ValueError for any other file.
    """

    def __init__(self, path: Path, device: torch.device | str) -> None:
        super().__init__()
        if torch.device(device).type != "cpu":
            logger.warning("%s runs on the CPU: ONNX files are not run on %s", path, device)
        model = _read(path)
        graph = model.graph
        given = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in given]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ValueError(
                f"{path}: has {len(inputs)} inputs and {len(graph.output)} outputs; "
                "a classifier has one of each"
            )
        self.input = inputs[0].name
        self.batch_size = _fixed_batch(inputs[0], path)
        self.outputs = [_logits_of(graph), _embedding_of(graph, path)]
        present = {value.name for value in graph.output}
        for name in self.outputs:
            if name not in present:
                graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        self.session = _session(model)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits_and_embeddings(images)[0]

    def logits_and_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K) and (B, E); an embedding that is a map is averaged over its positions."""
        array = images.detach().cpu().float().numpy()
        size = self.batch_size or max(len(array), 1)
        parts = [self._run(array[i : i + size], size) for i in range(0, len(array), size)]
        logits, features = (
            torch.from_numpy(np.concatenate(arrays)).to(images.device)
            for arrays in zip(*parts, strict=True)
        )
        return logits, features

    def _run(self, array: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        rows = len(array)
        padded = np.zeros((size, *array.shape[1:]), np.float32)
        padded[:rows] = array
        logits, features = self.session.run(self.outputs, {self.input: padded})
        logits = np.asarray(logits).reshape(size, -1)
        features = np.asarray(features).reshape(size, np.asarray(features).shape[1], -1)
        return logits[:rows], features.mean(axis=2)[:rows]


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """An ONNX file ready to run on the CPU, on as many threads as torch has. Raises ValueError."""
    return _session(_read(path))


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def read_metadata(path: Path) -> dict[str, str]:
    """The key-value pairs that an ONNX file carries beside its graph. Raises ValueError."""
    return {entry.key: entry.value for entry in _read(path).metadata_props}


def with_metadata(path: Path, entries: dict[str, str]) -> bytes:
    """An ONNX file's bytes with some key-value pairs set. Raises ValueError."""
    model = _read(path)
    kept = {entry.key: entry.value for entry in model.metadata_props} | entries
    onnx.helper.set_model_props(model, kept)
    return model.SerializeToString(deterministic=True)


def weights_are_finite(path: Path) -> bool:
    """Whether every number that an ONNX file holds is one. Raises ValueError."""
    tensors = map(onnx.numpy_helper.to_array, _read(path).graph.initializer)
    return all(np.isfinite(each).all() for each in tensors if each.dtype.kind == "f")


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, DecodeError) as wrong:
        raise ValueError(f"{path}: not a whole ONNX file ({wrong})") from wrong
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ValueError(f"{path}: keeps its weights in other files; save it as one file")
    return model


def _fixed_batch(value: onnx.ValueInfoProto, path: Path) -> int:
    """The batch size that the file insists on; 0: any."""
    shape = value.type.tensor_type.shape.dim
    if len(shape) != 4 or shape[1].dim_value not in (0, 3):
        sizes = [dim.dim_value or dim.dim_param or "?" for dim in shape]
        raise ValueError(f"{path}: takes {sizes}; a classifier takes (B, 3, H, W)")
    return shape[0].dim_value


def _logits_of(graph: onnx.GraphProto) -> str:
    """The name of the output, or of what goes into the softmax that makes it."""
    name = graph.output[0].name
    for node in graph.node:
        if name in node.output and node.op_type == "Softmax":
            return node.input[0]
    return name


def _embedding_of(graph: onnx.GraphProto, path: Path) -> str:
    layers = [node for node in graph.node if node.op_type in LAYERS]
    if not layers:
        raise ValueError(f"{path}: has no layer among {', '.join(LAYERS)}")
    return layers[-1].input[0]
