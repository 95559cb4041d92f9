"""Weights by name: files of others become checkpoints, and what is absent is said quickly."""

import http.server
import pickle
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from vision_ops.checkpoint import Card, load_checkpoint, read_card, save_checkpoint, sha256_file
from vision_ops.models import build, logits_and_embeddings
from vision_ops.operators.classify import Classifier, ClassifierConfig
from vision_ops.preprocess import Preprocess
from vision_ops.weights import CONNECT_TIMEOUT_S, resolve, why_unreachable
from vision_ops.weights.convert import Origin, convert, read_state
from vision_ops.weights.hub import imagenet_classes, published
from vision_ops.weights.licence import refuse_non_commercial

SMALL = Preprocess(height_px=32, width_px=32, resize_px=0)
TIMM = "test_resnet.r160_in1k"
"""timm's network for tests: 0.5 million parameters"""


class Keeps:
    """Something that only unpickling can bring back."""


def origin(network: str = "residual", num_classes: int = 3, **changes) -> Origin:
    values = {"classes": tuple("abcdefghij"[:num_classes]), "preprocess": SMALL}
    values |= {"licence": "CC0", "source": "test"} | changes
    return Origin(network=network, **values)


def trained(network: str = "residual", num_classes: int = 3) -> nn.Module:
    torch.manual_seed(3)
    return build(network, num_classes).eval()


def no_fetch(uri: str) -> Path:
    raise FileNotFoundError(f"{uri}: not there")


@pytest.fixture(autouse=True)
def no_cache_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ARGUS_CACHE", "TORCH_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL and folder of a web server on a port of its own."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, directory=str(folder), **options)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[[str], Path]:
    """Download to a folder; a second call of the same URI is an error: nothing is fetched twice."""

    def download(uri: str) -> Path:
        target = tmp_path / "fetched" / uri.rpartition("/")[2]
        target.parent.mkdir(exist_ok=True)
        assert not target.exists()
        with urllib.request.urlopen(uri, timeout=5) as answer:
            target.write_bytes(answer.read())
        return target

    return download


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
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Keeps()))
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


def make_checkpoint(path: Path, licence: str = "CC0") -> Path:
    card = Card(
        network="residual",
        classes=("a", "b", "c"),
        preprocess=SMALL,
        licence=licence,
        source="test",
        embedding_size=160,
    )
    save_checkpoint(path, trained(), card)
    return path


def test_local_and_https_names_resolve_to_the_same_checkpoint(tmp_path, served, fetch):
    url, folder = served
    path = make_checkpoint(folder / "net.safetensors")
    here = resolve(str(path), no_fetch)
    there = resolve(f"{url}/net.safetensors", fetch)
    assert here.path == path
    assert there.path != path
    assert (here.card, here.sha256) == (there.card, there.sha256)
    assert here.sha256 == sha256_file(path)
    assert there.source == f"{url}/net.safetensors"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("runs/nothing.safetensors", "jobs.train_classifier"),
        ("resnet50", "torchvision:NAME"),
        ("my_package.nets:tiny", "jobs.weights import --network my_package.nets:tiny"),
        ("s3://bucket/absent.safetensors", "jobs.weights pull s3://bucket/absent.safetensors"),
        ("torchvision:resnet50/IMAGENET1K_V7", "IMAGENET1K_V2"),
        ("torchvision:resnet51", "resnet50"),
        ("timm:resnet50.a99_in1k", "resnet50.a1_in1k"),
        ("timm:vit_small_patch16_dinov3.lvd1689m", "no classes"),
    ],
)
def test_names_that_lead_nowhere_say_what_would(name, words):
    with pytest.raises(ValueError, match=words) as refusal:
        resolve(name, no_fetch)
    assert name.partition("/")[0] in str(refusal.value)


def test_state_file_is_not_taken_for_a_checkpoint(tmp_path):
    torch.save(trained().state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="jobs.weights import"):
        resolve(str(tmp_path / "x.pth"), no_fetch)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("torchvision:resnet50/IMAGENET1K_V2", "resnet50-11ad3fa6.pth"),
        (f"timm:{TIMM}", "model.safetensors"),
    ],
)
def test_hub_name_offline_fails_within_a_second_and_says_where_it_looked(
    tmp_path, monkeypatch, name, file
):
    for variable in ("http_proxy", "https_proxy"):  # a proxy that is not there: as good as offline
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    published(name)  # the libraries' import is not what is measured
    started = time.monotonic()
    with pytest.raises(ValueError, match="no connection") as refusal:
        resolve(name, no_fetch)
    assert time.monotonic() - started < 1
    places = [str(tmp_path / "ARGUS_CACHE"), str(tmp_path / "TORCH_HOME"), file]
    for words in (*places, f"python -m jobs.weights pull {name}"):
        assert words in str(refusal.value)


def test_host_that_never_answers_costs_less_than_a_second():
    started = time.monotonic()
    assert why_unreachable("https://192.0.2.1/file")  # TEST-NET-1: routed nowhere (RFC 5737)
    assert why_unreachable("https://no-such-host.invalid/file")
    assert time.monotonic() - started < 2 * CONNECT_TIMEOUT_S + 0.3


def test_timm_name_is_fetched_once_converted_once_and_then_found_offline(
    served, fetch, monkeypatch
):
    url, folder = served
    monkeypatch.setenv("HF_ENDPOINT", url)
    torch.manual_seed(0)
    model = timm.create_model("test_resnet").eval()
    file = folder / "timm" / TIMM / "resolve" / "main" / "model.safetensors"
    file.parent.mkdir(parents=True)
    save_file(model.state_dict(), file)
    found = resolve(f"timm:{TIMM}", fetch)
    assert resolve(f"timm:{TIMM}", no_fetch) == found
    card = found.card
    assert (card.network, card.licence) == ("timm:test_resnet", "apache-2.0")
    assert card.source == f"timm:{TIMM}"
    assert card.parent == sha256_file(file)
    assert len(card.classes) == 1000
    assert (card.preprocess.height_px, card.preprocess.resize_px) == (160, 168)
    loaded, _ = load_checkpoint(found.path, "cpu")
    images = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


def test_file_of_torch_hub_that_is_not_the_published_one_is_refused(tmp_path):
    name = "torchvision:squeezenet1_1/IMAGENET1K_V1"
    path = published(name).places[0]
    path.parent.mkdir(parents=True)
    torch.save(trained("torchvision:squeezenet1_1", 10).state_dict(), path)
    with pytest.raises(ValueError, match="published is b8a52dc0"):
        resolve(name, no_fetch)


def test_published_torchvision_weights_carry_their_transform_and_terms():
    item = published("torchvision:resnet50").origin  # the default is the newest
    assert item.source == "torchvision:resnet50/IMAGENET1K_V2"
    assert item.preprocess == Preprocess(resize_px=232)
    assert item.classes == imagenet_classes()
    assert "ImageNet terms" in item.licence
    swag = published("torchvision:vit_b_16/IMAGENET1K_SWAG_E2E_V1").origin
    assert swag.preprocess.interpolation == "bicubic"


def test_googlenet_is_told_directly_what_torchvision_scales_inside():
    from torchvision import models

    name = "torchvision:googlenet/IMAGENET1K_V1"
    torch.manual_seed(0)
    theirs = models.googlenet(num_classes=1000, aux_logits=False, init_weights=False).eval()
    pixels = torch.rand(1, 3, 64, 64)
    usual, ours = Preprocess(), published(name).origin.preprocess
    with torch.inference_mode():
        expected = theirs._transform_input(scaled(pixels, usual))
        assert expected.shape == pixels.shape
        theirs.transform_input = True
        torch.testing.assert_close(
            theirs._transform_input(scaled(pixels, usual)), scaled(pixels, ours)
        )


def scaled(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    mean = torch.tensor(preprocess.mean)[:, None, None]
    return (pixels - mean) / torch.tensor(preprocess.std)[:, None, None]


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:regnet_y_16gf/IMAGENET1K_SWAG_LINEAR_V1",
        "timm:mambaout_base.in1k",
        "timm:convnextv2_atto.fcmae_ft_in1k",
    ],
)
def test_non_commercial_licence_is_refused_before_anything_is_fetched(name):
    licence = published(name).origin.licence
    if "nc" not in licence.lower():
        assert "apache" in licence
        return
    with pytest.raises(ValueError, match="--accept-licence") as refusal:
        resolve(name, no_fetch)
    assert licence in str(refusal.value)


def test_licence_of_a_checkpoint_counts_as_well(tmp_path):
    path = make_checkpoint(tmp_path / "net.safetensors", "CC-BY-NC-SA-4.0")
    with pytest.raises(ValueError, match="CC-BY-NC-SA-4.0"):
        resolve(str(path), no_fetch)
    assert resolve(str(path), no_fetch, accept_licence=True).card.licence == "CC-BY-NC-SA-4.0"


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("cc-by-nc-4.0", True),
        ("CC BY-NC 4.0", True),
        ("fair-noncommercial-research-license", True),
        ("for non-commercial use", True),
        ("research only", True),
        ("apple-amlr", True),
        ("apache-2.0", False),
        ("MIT", False),
        ("BSD-3-Clause (code); ImageNet terms (training data)", False),
        ("unknown", False),
        ("Lawrence licence", False),
    ],
)
def test_non_commercial_licences_are_told_by_their_names(licence, refused):
    if refused:
        with pytest.raises(ValueError, match="non-commercial"):
            refuse_non_commercial(licence, "x", accept_licence=False)
    refuse_non_commercial(licence, "x", accept_licence=refused)
