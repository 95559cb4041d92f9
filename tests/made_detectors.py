"""Detectors of faces that no training was needed for, of which it is known what they find."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from vision_ops.models import build
from vision_ops.models.mtcnn import Mtcnn
from vision_ops.models.retinaface import RetinaFace
from vision_ops.weights.face_detectors import convert_detector

CELL = 32
"""side in px of what the ONNX files below take for a face: a cell of it that is all blue"""


def untrained_mtcnn() -> Mtcnn:
    """Weights of seed 0, of which each stage believes about half of what it sees."""
    torch.manual_seed(0)
    model = build("face_detector:mtcnn", 0)
    assert isinstance(model, Mtcnn)
    lasts = (model.pnet.conv4_1, model.rnet.dense5_1, model.onet.dense6_1)
    for last, bias in zip(lasts, (0.4, 0.85, 0.0), strict=True):
        assert last.bias is not None
        nn.init.normal_(last.weight, std=2.0)
        last.bias.data = torch.tensor([0.0, bias])
    return model.eval()


def untrained_retinaface() -> RetinaFace:
    """Weights of seed 0, with norms that have seen something."""
    torch.manual_seed(0)
    model = build("face_detector:retinaface", 0)
    assert isinstance(model, RetinaFace)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2.0)
        elif name.endswith("running_mean") or ("ClassHead" in name and tensor.ndim == 4):
            nn.init.normal_(tensor, std=0.3)
    return model.eval()


def save_mtcnn(folder: Path) -> Path:
    """A checkpoint by way of three published-like state files, which lie beside it."""
    for name, network in untrained_mtcnn().named_children():
        torch.save(network.state_dict(), folder / f"mtcnn-{name}.pt")
    states = [folder / f"mtcnn-{name}.pt" for name in ("pnet", "rnet", "onet")]
    return _converted("face_detector:mtcnn", states, folder / "mtcnn.safetensors")


def save_retinaface(folder: Path) -> Path:
    """A checkpoint by way of a state file with the prefix of DataParallel."""
    state = untrained_retinaface().state_dict()
    torch.save({f"module.{name}": value for name, value in state.items()}, folder / "retina.pth")
    return _converted("face_detector:retinaface", [folder / "retina.pth"], folder / "r.safetensors")


def save_boxes(folder: Path) -> Path:
    """A checkpoint of an ONNX file that answers with centres and sides in pixels, no landmarks."""
    told = folder / "boxes.json"
    told.write_text(
        '{"scores": "s", "boxes": "b", "corners": "centre", "unit": "px", "mean": 0, "std": 1,'
        ' "score_column": 0}'
    )
    return _saved(boxes_like(), f"face_detector:onnx:{told}", folder / "boxes.onnx")


def save_yunet(folder: Path) -> Path:
    """A checkpoint of what has YuNet's inputs and outputs."""
    return _saved(yunet_like(), "face_detector:yunet", folder / "yunet.onnx")


def yunet_like() -> onnx.ModelProto:
    """Finds CELL-sized blue cells: box the cell, landmarks in it; OpenCV's names and layouts."""
    nodes: list[onnx.NodeProto] = []
    outputs: list[tuple[str, int]] = []
    for stride in (8, 16, CELL):
        nodes += blue_cells("input", f"cells_{stride}", stride, channel=0)
        for name, factor, offset, numbers in (
            ("cls", f"is_{stride}", "none", 1),
            ("obj", f"is_{stride}", "none", 1),
            ("bbox", "none", "middle", 4),
            ("kps", "none", "points", 10),
        ):
            made = f"{name}_{stride}"
            nodes.append(helper.make_node("Mul", [f"cells_{stride}", factor], [f"{made}_times"]))
            nodes.append(helper.make_node("Add", [f"{made}_times", offset], [made]))
            outputs.append((made, numbers))
    constants = {f"is_{stride}": [float(stride == CELL)] for stride in (8, 16, CELL)} | {
        "none": [0.0],
        "middle": [0.5, 0.5, 0.0, 0.0],
        "points": [0.25, 0.25, 0.75, 0.25, 0.5, 0.5, 0.25, 0.75, 0.75, 0.75],
    }
    given = {name: np.array(value, np.float32) for name, value in constants.items()}
    return _model(nodes, given, ("input", [1, 3, "h", "w"]), outputs)


def boxes_like() -> onnx.ModelProto:
    """Finds blue cells in RGB pictures of 96 x 128 (height x width): 12 boxes, scores of two."""
    y, x = np.meshgrid(np.arange(3), np.arange(4), indexing="ij")
    centre = np.stack([x, y], axis=-1).reshape(1, 12, 2) * CELL + CELL / 2
    boxes = np.concatenate([centre, np.full_like(centre, CELL)], axis=2).astype(np.float32)
    nodes = [
        *blue_cells("image", "cells", CELL, channel=2),
        helper.make_node("Sub", ["one", "cells"], ["others"]),
        helper.make_node("Concat", ["cells", "others"], ["s"], axis=2),
        helper.make_node("Identity", ["boxes"], ["b"]),
    ]
    given = {"one": np.ones(1, np.float32), "boxes": boxes}
    return _model(nodes, given, ("image", [1, 3, 96, 128]), [("s", 2), ("b", 4)])


def whole_like() -> onnx.ModelProto:
    """Of pictures of any size: always one face, all of what it is given; one score."""
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["most"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["most", "none"], ["nothing"]),
        helper.make_node("Add", ["nothing", "sure"], ["s"]),
        helper.make_node("Identity", ["box"], ["b"]),
    ]
    given = {
        "none": np.zeros((1, 1), np.float32),
        "sure": np.full((1, 1), 0.9, np.float32),
        "box": np.array([[[0, 0, 1, 1]]], np.float32),
    }
    model = _model(nodes, given, ("image", [1, 3, "h", "w"]), [("b", 4)])
    model.graph.output.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, 1]))
    return model


def blue_cells(image: str, name: str, side: int, channel: int) -> list[onnx.NodeProto]:
    """(1, N, 1): 1 where a cell of a picture 0..255 is bright in a channel, row by row, else 0."""
    return [
        helper.make_node("Constant", [], [f"{name}_kernel"], value=_kernel(side, channel)),
        helper.make_node(
            "Conv",
            [image, f"{name}_kernel"],
            [f"{name}_mean"],
            kernel_shape=[side, side],
            strides=[side, side],
        ),
        helper.make_node("Constant", [], [f"{name}_shape"], value=_numbers([1, -1, 1])),
        helper.make_node("Reshape", [f"{name}_mean", f"{name}_shape"], [f"{name}_flat"]),
        helper.make_node("Constant", [], [f"{name}_least"], value=_numbers([200.0])),
        helper.make_node("Sub", [f"{name}_flat", f"{name}_least"], [f"{name}_above"]),
        helper.make_node("Sigmoid", [f"{name}_above"], [name]),
    ]


def _kernel(side: int, channel: int) -> onnx.TensorProto:
    kernel = np.zeros((1, 3, side, side), np.float32)
    kernel[:, channel] = 1 / side**2
    return numpy_helper.from_array(kernel)


def _numbers(values: list[int] | list[float]) -> onnx.TensorProto:
    dtype = np.int64 if isinstance(values[0], int) else np.float32
    return numpy_helper.from_array(np.array(values, dtype))


def _model(
    nodes: list[onnx.NodeProto],
    given: dict[str, np.ndarray],
    taken: tuple[str, list[int | str]],
    answered: list[tuple[str, int]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(taken[0], TensorProto.FLOAT, taken[1])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, numbers])
            for name, numbers in answered
        ],
        [numpy_helper.from_array(value, name) for name, value in given.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _saved(model: onnx.ModelProto, network: str, state: Path) -> Path:
    onnx.save(model, str(state))
    return _converted(network, [state], state.with_suffix(".argus.onnx"))


def _converted(network: str, states: list[Path], out: Path) -> Path:
    convert_detector(network, states, "CC0", "made", out)
    return out
