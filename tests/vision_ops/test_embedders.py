"""Embedders of faces: networks that load published states, run the same however they are asked."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from jobs import classify, localize, train_classifier, train_localizer, weights
from jobs.runtime.sources.origin import Source
from vision_ops.card import EMBEDDERS, Card, read_card, sha256_file
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.faces import FacePreprocess
from vision_ops.faces.embed import Embedder
from vision_ops.faces.transforms import FACE_TRANSFORMS
from vision_ops.learners.classify import ModelConfig
from vision_ops.learners.localize import LocalizerModelConfig
from vision_ops.models import FACE_NETWORKS, build, logits_and_embeddings
from vision_ops.normalize import normalize
from vision_ops.operators.classify import ClassifierConfig
from vision_ops.operators.localize import LocalizerConfig
from vision_ops.precision.choose import Sample, choose
from vision_ops.precision.openvino_network import convert as compile_network
from vision_ops.precision.verdicts import Request
from vision_ops.preprocess import Preprocess
from vision_ops.weights import resolve
from vision_ops.weights.convert import Origin, convert

MOBILE = FACE_TRANSFORMS["mobilefacenet"]


def faces(count: int, seed: int = 0, size_px: int = 112) -> np.ndarray:
    """Smooth random crops, read-only as the engine's are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    crops = [cv2.resize(each, (size_px, size_px), interpolation=cv2.INTER_CUBIC) for each in coarse]
    found = np.stack(crops) if crops else np.zeros((0, size_px, size_px, 3), np.uint8)
    found.flags.writeable = False
    return found


def small(embedding_size: int) -> nn.Module:
    """A network named as `module:function` that costs a test nothing."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 5, stride=3),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(288, embedding_size),
    )


def settled(model: nn.Module, preprocess: FacePreprocess) -> nn.Module:
    """Norms that know the crops: without, a deep random network answers alike to all of them."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            layer.momentum = None  # the plain average
    with torch.no_grad():
        model.train()(normalize(faces(16, 100, preprocess.width_px), preprocess, "cpu"))
    return model.eval()


def save(path: Path, network: str, size: int, preprocess: FacePreprocess = MOBILE) -> Path:
    torch.manual_seed(1)
    card = Card(
        network=network,
        classes=(),
        preprocess=preprocess,
        licence="CC0",
        source="random",
        embedding_size=size,
    )
    save_checkpoint(path, settled(build(network, size), preprocess), card)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedders")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Path:
    preprocess = FacePreprocess(height_px=48, width_px=48, flip_sum=True)
    return save(folder / "tiny.safetensors", f"{__name__}:small", 64, preprocess)


@pytest.fixture(scope="module")
def mobile(folder: Path) -> Path:
    return save(folder / "mobile.safetensors", "mobilefacenet", 64)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


# networks


@pytest.mark.parametrize(
    ("name", "millions"), [("iresnet18", 24.03), ("iresnet50", 43.59), ("iresnet100", 65.16)]
)
def test_iresnets_have_the_parameters_that_insightface_states(name, millions):
    with torch.device("meta"):
        model = build(name, 512)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.02)


def test_iresnet_has_the_names_of_insightface():
    with torch.device("meta"):
        names = set(build("iresnet18", 512).state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "prelu.weight", "fc.weight", "fc.bias"}
    expected |= {f"{layer}.{part}" for layer in ("bn1", "bn2", "features") for part in norm}
    for unit in (f"layer{stage}.{k}" for stage in (1, 2, 3, 4) for k in (0, 1)):
        expected |= {f"{unit}.{name}.weight" for name in ("conv1", "conv2", "prelu")}
        expected |= {f"{unit}.{bn}.{part}" for bn in ("bn1", "bn2", "bn3") for part in norm}
    for stage in (1, 2, 3, 4):
        expected |= {f"layer{stage}.0.downsample.0.weight"}
        expected |= {f"layer{stage}.0.downsample.1.{part}" for part in norm}
    assert names == expected


def test_mobilefacenet_is_as_small_as_the_paper_says():
    """0.99 million in table 1, without the norms' two numbers a channel and the last bias."""
    model = build("mobilefacenet", 128)
    assert sum(p.numel() for p in model.parameters() if p.ndim > 1) / 1e6 == pytest.approx(
        0.98, abs=0.02
    )


@pytest.mark.parametrize("name", ["mobilefacenet", "iresnet18", "torchvision:resnet18"])
def test_what_an_embedder_gives_is_the_embedding_and_all_of_it_learns(name):
    torch.manual_seed(0)
    model = build(name, 24)
    images = torch.randn(3, 3, 112, 112)
    logits, embeddings = logits_and_embeddings(model, images, is_embedder=True)
    assert logits is embeddings
    assert embeddings.shape == (3, 24)
    embeddings.square().sum().backward()
    learnt = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learnt)


def test_face_networks_are_known_to_cards_and_take_one_size_and_colour(mobile):
    assert set(EMBEDDERS) == set(FACE_NETWORKS)
    with pytest.raises(ValueError, match="activation"):
        build("mobilefacenet", 8, "tanh")
    with pytest.raises(ValueError, match="takes 3 channels"):
        build("iresnet18", 8, channels=1)
    with pytest.raises(ValueError, match="pictures of 112 x 112 pixels, not 128 x 128"):
        replace(read_card(mobile), preprocess=FacePreprocess(height_px=128, width_px=128))


# published weights


def test_the_published_mobilefacenet_loads_and_knows_people(shared_data, tmp_path):
    """20 people, 23 x 28 pixels here, not aligned: far from LFW, and far above chance."""
    state = shared_data / "weights/mobilefacenet-128d.pt"
    origin = Origin(
        network="mobilefacenet",
        classes=(),
        preprocess=MOBILE,
        licence="Apache-2.0",
        source="foamliu",
    )
    card = convert(state, origin, tmp_path / "m.safetensors")
    assert (card.embedding_size, card.parent) == (128, sha256_file(state))
    crops = []
    for person in range(1, 21):
        for k in (1, 2, 3):
            image = Image.open(shared_data / f"faces/orl/s{person}/{k}.pgm").convert("RGB")
            crop = Image.new("RGB", (112, 112))
            crop.paste(image.resize((92, 112), Image.Resampling.BILINEAR), (10, 0))
            crops.append(np.asarray(crop))
    found = Embedder(tmp_path / "m.safetensors")(np.stack(crops)).reshape(20, 3, 128)
    scores = np.einsum("pke,ge->pkg", found[:, 1:], found[:, 0])
    assert (scores.argmax(axis=2) == np.arange(20)[:, None]).mean() > 0.6


# running


@pytest.mark.parametrize("network", ["tiny", "tiny compiled", "mobilefacenet"])
def test_a_face_has_the_same_bits_however_faces_are_grouped(tiny, mobile, folder, network):
    path, size_px = (mobile, 112) if network == "mobilefacenet" else (tiny, 48)
    if network == "tiny compiled":
        path = folder / "tiny.openvino"
        path.write_bytes(compile_network(tiny))
    embed = Embedder(path, callers=2)
    crops = faces(41, size_px=size_px)
    whole = embed.embed(crops)
    assert whole.embeddings.dtype == np.float32
    assert whole.embeddings.shape == (41, 64)
    np.testing.assert_allclose(np.linalg.norm(whole.embeddings, axis=1), 1, atol=1e-6)
    for size in (1, 16, 33) if path != mobile else (40,):
        parts = [embed.embed(crops[i : i + size]) for i in range(0, 41, size)]
        assert np.array_equal(np.concatenate([p.embeddings for p in parts]), whole.embeddings)
        assert np.array_equal(np.concatenate([p.norms for p in parts]), whole.norms)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(embed, [crops[:7], crops[7:], crops]):
            assert np.isin(found, whole.embeddings).all()
    assert embed(crops[:0]).shape == (0, 64)


def test_the_mirror_image_is_added_where_the_card_says_so(mobile, folder):
    crops = faces(5)
    model, card = load_checkpoint(mobile, "cpu")
    with torch.inference_mode():
        views = [normalize(v.copy(), card.preprocess, "cpu") for v in (crops, crops[:, :, ::-1])]
        once, mirrored = (model(view).numpy() for view in views)
    both = Embedder(mobile).embed(crops)
    expected = (once + mirrored) / 2
    np.testing.assert_allclose(both.norms, np.linalg.norm(expected, axis=1), rtol=1e-4)
    assert cosines(both.embeddings, expected).min() > 0.999999
    np.testing.assert_allclose(Embedder(mobile)(crops[:, :, ::-1]), both.embeddings, atol=1e-6)
    alone = save(folder / "once.safetensors", "mobilefacenet", 64, replace(MOBILE, flip_sum=False))
    assert cosines(Embedder(alone)(crops), once).min() > 0.999999


def test_one_at_a_time_by_plain_torch_is_the_same(mobile):
    crops = faces(9)
    model, card = load_checkpoint(mobile, "cpu")
    found = Embedder(mobile)(crops)
    with torch.inference_mode():
        for crop, embedding in zip(crops, found, strict=True):
            image = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255
            mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MOBILE.mean, MOBILE.std))
            image = (image - mean) / std
            raw = (model(image) + model(image.flip(3)))[0].numpy()
            assert raw @ embedding / np.linalg.norm(raw) > 0.9999


@pytest.mark.slow
def test_openvino_runs_mobilefacenet_as_torch_does(mobile, folder):
    compiled = folder / "mobile.openvino"
    compiled.write_bytes(compile_network(mobile))
    crops = faces(40)
    assert cosines(Embedder(compiled)(crops), Embedder(mobile)(crops)).min() > 0.9999


@pytest.mark.slow
def test_openvino_and_a_backbone_of_torchvision_embed_as_torch_does(folder):
    path = save(folder / "resnet.safetensors", "torchvision:resnet18", 32, FacePreprocess())
    compiled = folder / "resnet.openvino"
    compiled.write_bytes(compile_network(path))
    crops = faces(6)
    assert read_card(compiled).is_embedder
    assert cosines(Embedder(compiled)(crops), Embedder(path)(crops)).min() > 0.9999
    assert Embedder(path)(crops).shape == (6, 32)


def test_what_is_chosen_for_an_embedder_keeps_its_embeddings(tiny, folder):
    crops = faces(40, 1, 48)
    sample = Sample(judged=crops, exact=crops, calibration=faces(32, 2, 48))
    request = Request(
        weights=str(tiny), sha256=sha256_file(tiny), folder=str(folder), sample="faces"
    )
    verdict, path = choose(request, sample)
    assert verdict.of_faces
    assert verdict.cosine >= 0.999
    assert "with fp32 over 40 faces" in str(verdict)
    assert cosines(Embedder(path, verdict.precision)(crops), Embedder(tiny)(crops)).mean() > 0.999
    strange = replace(sample, judged=faces(40, 3, 48))  # other pixels: every precision is untrue
    verdict = choose(replace(request, sample="strange"), strange)[0]
    assert verdict.precision == "fp32"
    assert verdict.cosine < 0.999
    assert all("labels" not in reason for reason in verdict.refused.values())


def test_crops_of_another_size_and_weights_of_something_else_are_refused(mobile, folder):
    with pytest.raises(ValueError, match=r"takes uint8 \(112, 112, 3\)"):
        Embedder(mobile)(faces(2, size_px=96))
    with pytest.raises(ValueError, match="no embedder of faces"):
        Embedder(save_classifier(folder / "c.safetensors"))


def save_classifier(path: Path) -> Path:
    card = Card(
        network="residual",
        classes=("a", "b"),
        preprocess=Preprocess(height_px=32, width_px=32, resize_px=0),
        licence="CC0",
        source="random",
        embedding_size=160,
    )
    save_checkpoint(path, build("residual", 2), card)
    return path


# ONNX


def save_onnx(path: Path, batch: int | str) -> Path:
    """An embedder as others export it: a strided convolution, its mean and a norm of channels."""
    rng = np.random.default_rng(0)
    conv = rng.normal(size=(12, 3, 7, 7)).astype(np.float32)
    dense = rng.normal(size=(16, 12)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["data", "conv"], ["map"], strides=[5, 5]),
        helper.make_node("Relu", ["map"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense"], ["fc1"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "embedder",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, 112, 112])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [batch, 16])],
        [numpy_helper.from_array(conv, "conv"), numpy_helper.from_array(dense, "dense")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.save(made, str(path))
    return path


@pytest.mark.parametrize("batch", [1, "batch"])
def test_sface_sees_what_opencv_shows_it(tmp_path, batch):
    """OpenCV's FaceRecognizerSF is given BGR, and hands RGB of 0..255 to the network."""
    state = save_onnx(tmp_path / "state.onnx", batch)
    origin = Origin(
        network="onnx",
        classes=(),
        preprocess=FACE_TRANSFORMS["sface"],
        licence="Apache-2.0",
        source="test",
    )
    card = convert(state, origin, tmp_path / "sface.onnx")
    assert card.embedding_size == 16
    crops = faces(3)
    recogniser = cv2.FaceRecognizerSF.create(str(save_onnx(tmp_path / "opencv.onnx", 1)), "")
    theirs = np.concatenate(
        [recogniser.feature(np.ascontiguousarray(crop[:, :, ::-1])) for crop in crops]
    )
    found = Embedder(tmp_path / "sface.onnx")(crops)
    assert cosines(found, theirs).min() > 0.99999


# import, licences, other jobs


def test_an_embedder_is_imported_shown_and_verified(tmp_path, capsys):
    torch.manual_seed(0)
    torch.save(build("iresnet18", 40).state_dict(), tmp_path / "state.pth")
    out = str(tmp_path / "faces.safetensors")
    request = weights.Import(
        network="iresnet18",
        state=str(tmp_path / "state.pth"),
        out=out,
        transform="arcface",
        changes=weights.Changes(flip_sum=True),
        licence="non-commercial research purposes only (MS1MV3)",
    )
    weights.main(request)
    weights.main(weights.Verify(name=out))
    told = capsys.readouterr().out
    for line in ("40 numbers", "none", "added to that of its mirror image", "loads strictly"):
        assert line in told
    card = read_card(out)
    assert (card.embedding_size, card.classes) == (40, ())
    assert card.preprocess == FacePreprocess(flip_sum=True)
    with pytest.raises(ValueError, match="classes .*: an embedder of faces has none"):
        weights.main(replace(request, classes="a,b"))
    with pytest.raises(ValueError, match="needs --classes"):
        replace(request, network="residual", transform="none", changes=weights.Changes())
    with pytest.raises(ValueError, match="flip_sum: of faces"):
        weights.main(replace(request, transform="none", classes="a,b"))
    with pytest.raises(ValueError, match=r"not of mobilefacenet: has no conv3\.weight"):
        weights.main(replace(request, network="mobilefacenet"))


@pytest.mark.parametrize(
    "words",
    [
        "non-commercial research purposes only",
        "for non commercial research",
        "Non-Commercial Research",
        "noncommercial",
        "research purposes only",
        "for research use only",
        "academic use only",
        "CC-BY-NC-SA-4.0",
    ],
)
def test_embedders_for_research_alone_are_refused_unless_accepted(mobile, tmp_path, words):
    model, card = load_checkpoint(mobile, "cpu")
    path = tmp_path / "nc.safetensors"
    save_checkpoint(path, model, replace(card, licence=words))
    with pytest.raises(ValueError, match="--accept-licence"):
        resolve(str(path), Path)
    assert resolve(str(path), Path, accept_licence=True).card.licence == words


@pytest.mark.parametrize("words", ["MIT", "Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "unknown"])
def test_free_licences_are_not(mobile, tmp_path, words):
    model, card = load_checkpoint(mobile, "cpu")
    save_checkpoint(tmp_path / "w.safetensors", model, replace(card, licence=words))
    assert resolve(str(tmp_path / "w.safetensors"), Path).card.licence == words


def test_jobs_that_want_names_refuse_an_embedder_and_name_its_own(mobile, tmp_path):
    data, out = Source(uri=str(tmp_path)), str(tmp_path / "out")
    path = str(mobile)
    with pytest.raises(ValueError, match=r"embeds faces .*jobs\.embed_faces"):
        classify.main(classify.Config(data=data, op=ClassifierConfig(weights=path), out=out))
    with pytest.raises(ValueError, match=r"embeds faces .*jobs\.embed_faces"):
        localize.main(localize.Config(data=data, op=LocalizerConfig(weights=path), out=out))
    with pytest.raises(ValueError, match=r"embeds faces .*jobs\.train_faces"):
        train_classifier.main(
            train_classifier.Config(data=data, model=ModelConfig(weights=path), out=out)
        )
    with pytest.raises(ValueError, match=r"embeds faces .*jobs\.train_faces"):
        train_localizer.main(
            train_localizer.Config(
                data=data, model=replace(LocalizerModelConfig(), weights=path), out=out
            )
        )
    assert not Path(out).exists()
