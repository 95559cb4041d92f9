"""Files of others become checkpoints, or are refused with what is wrong; nothing is unpickled."""

import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from vision_ops.card import read_card, sha256_file
from vision_ops.checkpoint import load_checkpoint
from vision_ops.models import build, logits_and_embeddings
from vision_ops.operators.classify import Classifier, ClassifierConfig
from vision_ops.preprocess import Preprocess
from vision_ops.weights.convert import Origin, convert, read_state

SMALL = Preprocess(height_px=32, width_px=32, resize_px=0)


class Keeps:
    """Something that only unpickling can bring back."""


def origin(network: str = "residual", num_classes: int = 3, **changes) -> Origin:
    values = {"classes": tuple("abcdefghij"[:num_classes]), "preprocess": SMALL}
    values |= {"licence": "CC0", "source": "test"} | changes
    return Origin(network=network, **values)


def trained(network: str = "residual", num_classes: int = 3) -> nn.Module:
    torch.manual_seed(3)
    return build(network, num_classes).eval()


def make_onnx(
    path: Path, batch: int | str = "batch", softmax: bool = False
) -> dict[str, np.ndarray]:
    """Conv 3->4 (1x1), ReLU, average, Gemm 4->3, as an exporter would write it; its weights."""
    rng = np.random.default_rng(0)
    weights = {
        "conv": rng.normal(size=(4, 3, 1, 1)).astype(np.float32),
        "dense": rng.normal(size=(3, 4)).astype(np.float32),
        "bias": rng.normal(size=3).astype(np.float32),
    }
    last = "before" if softmax else "logits"
    nodes = [
        helper.make_node("Conv", ["images", "conv"], ["map"]),
        helper.make_node("Relu", ["map"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense", "bias"], [last], transB=1),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["before"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return weights


@pytest.mark.parametrize("wrapping", ["bare", "state_dict", "model", "module", "safetensors"])
def test_state_files_of_all_kinds_give_the_same_checkpoint(tmp_path, wrapping):
    state = trained().state_dict()
    path = tmp_path / ("x.safetensors" if wrapping == "safetensors" else "x.pth")
    if wrapping == "safetensors":
        save_file(state, path)
    else:
        wrapped = {"state_dict": {"state_dict": state, "epoch": 3}, "model": {"model": state}}
        wrapped["module"] = {"state_dict": {f"module.{k}": v for k, v in state.items()}}
        torch.save(wrapped.get(wrapping, state), path)
    card = convert(path, origin(), tmp_path / "out.safetensors")
    loaded, read = load_checkpoint(tmp_path / "out.safetensors", "cpu")
    assert all(torch.equal(state[name], t) for name, t in loaded.state_dict().items())
    assert card == read
    assert card.embedding_size == 160
    assert card.parent == sha256_file(path)


def test_state_of_another_network_is_refused_with_the_keys(tmp_path):
    torch.save(trained("cnn_cifar10").state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="do not fit Residual") as refusal:
        convert(tmp_path / "x.pth", origin(), tmp_path / "out.safetensors")
    assert "missing: stem.0.weight" in str(refusal.value)
    assert "unexpected: layers.0.weight" in str(refusal.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_state_with_another_number_of_classes_is_refused_with_the_shapes(tmp_path):
    torch.save(trained(num_classes=5).state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"head.weight \(5, 160\) instead of \(3, 160\)"):
        convert(tmp_path / "x.pth", origin(), tmp_path / "out.safetensors")


def test_files_that_are_no_state_are_refused_by_name(tmp_path):
    torch.save({"a": Keeps()}, tmp_path / "object.pth")
    torch.save({"a": torch.zeros(2), "epoch": 4}, tmp_path / "mixed.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    torch.save({}, tmp_path / "nothing.pth")
    torch.save(trained(), tmp_path / "whole.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Keeps(), protocol=2))
    (tmp_path / "text.pth").write_bytes(b"not weights at all")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save(trained().state_dict(), tmp_path / "good.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:9000])
    (tmp_path / "text.safetensors").write_bytes(b"not weights at all")
    for path in sorted(tmp_path.glob("*.*")):
        if path.stem != "good":
            with pytest.raises(ValueError, match=path.name):
                read_state(path)


def test_old_densenet_names_and_side_classifiers_are_understood(tmp_path):
    model = trained("torchvision:densenet121")
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save(old, tmp_path / "dense.pth")
    item = origin("torchvision:densenet121")
    assert convert(tmp_path / "dense.pth", item, tmp_path / "d.safetensors").embedding_size == 1024


def test_tanh_network_is_imported_with_its_activation(tmp_path):
    torch.save(build("cnn_cifar10", 3, "tanh").state_dict(), tmp_path / "x.pth")
    convert(
        tmp_path / "x.pth", origin("cnn_cifar10", activation="tanh"), tmp_path / "o.safetensors"
    )
    model, card = load_checkpoint(tmp_path / "o.safetensors", "cpu")
    assert card.activation == "tanh"
    assert any(isinstance(layer, nn.Tanh) for layer in model.modules())


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("batch", ["batch", 1, 5])
def test_onnx_file_is_a_checkpoint_that_gives_logits_and_embeddings(tmp_path, batch, softmax):
    weights = make_onnx(tmp_path / "x.onnx", batch, softmax)
    card = convert(tmp_path / "x.onnx", origin("onnx"), tmp_path / "net.onnx")
    model, read = load_checkpoint(tmp_path / "net.onnx", "cpu")
    assert card == read == read_card(tmp_path / "net.onnx")
    images = torch.rand(7, 3, 32, 32)
    logits, embeddings = logits_and_embeddings(model, images)
    active = np.einsum("oc,bchw->bohw", weights["conv"][:, :, 0, 0], images.numpy()).clip(0)
    pooled = active.mean(axis=(2, 3))
    np.testing.assert_allclose(embeddings, pooled, atol=1e-5)
    np.testing.assert_allclose(logits, pooled @ weights["dense"].T + weights["bias"], atol=1e-5)
    assert card.embedding_size == 4


def test_classifier_runs_an_onnx_file_under_the_same_law(tmp_path):
    make_onnx(tmp_path / "x.onnx")
    convert(tmp_path / "x.onnx", origin("onnx"), tmp_path / "net.onnx")
    classifier = Classifier(ClassifierConfig(weights=str(tmp_path / "net.onnx"), embeddings=True))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    whole = classifier({"pixels": pixels})
    parts = [classifier({"pixels": pixels[:13]}), classifier({"pixels": pixels[13:]})]
    for name, column in whole.items():
        assert np.array_equal(column, np.concatenate([part[name] for part in parts]))


def test_onnx_files_that_cannot_serve_are_refused_by_name(tmp_path):
    make_onnx(tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match="bare.onnx: has no Argus card"):
        read_card(tmp_path / "bare.onnx")
    (tmp_path / "text.onnx").write_bytes(b"not a graph")
    with pytest.raises(ValueError, match="text.onnx: not a whole ONNX file"):
        read_card(tmp_path / "text.onnx")
    with pytest.raises(ValueError, match=r"3 numbers|\(3,\) numbers"):
        convert(tmp_path / "bare.onnx", origin("onnx", 4), tmp_path / "out.onnx")


def test_onnx_detector_is_no_classifier(shared_data, tmp_path):
    detector = shared_data / "weights" / "ultralight-rfb-320.onnx"
    with pytest.raises(ValueError, match="1 inputs and 2 outputs"):
        convert(detector, origin("onnx"), tmp_path / "out.onnx")
