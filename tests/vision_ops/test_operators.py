"""One law for all operators: rows kept, batches split anywhere, input untouched, same answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.untrained import save_embedder
from vision_ops.card import FIXED_SIZE_PX, Card
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.decode import Decode, DecodeConfig
from vision_ops.models import build, embedding_size
from vision_ops.operators import OPERATORS
from vision_ops.operators.classify import Classifier, ClassifierConfig
from vision_ops.operators.embed_faces import FacesConfig
from vision_ops.operators.localize import LocalizerConfig
from vision_ops.preprocess import Preprocess
from vision_ops.weights.convert import Origin, convert
from vision_ops.weights.hub import imagenet_classes

Batch = dict[str, np.ndarray]
Operator = Callable[[Batch], Batch]
DETECTOR = "torchvision_detection:ssdlite320_mobilenet_v3_large"
NETWORKS = ("cnn_cifar10", "residual", "torchvision:squeezenet1_1")


def make_checkpoint(path: Path, network: str, num_classes: int = 12, size: int = 48) -> Path:
    size = FIXED_SIZE_PX.get(network, size)
    torch.manual_seed(0)
    model = build(network, num_classes)
    card = Card(
        network=network,
        classes=tuple(f"class {index}" for index in range(num_classes)),
        preprocess=Preprocess(height_px=size, width_px=size),
        licence="CC0",
        source="random",
        embedding_size=embedding_size(model, (3, size, size)),
    )
    save_checkpoint(path, model, card)
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        name: make_checkpoint(folder / f"{index}.safetensors", name)
        for index, name in enumerate((*NETWORKS, "localizer:residual", DETECTOR))
    }


def make_classifier(checkpoints: dict[str, Path]) -> Operator:
    weights = str(checkpoints["residual"])
    return Classifier(ClassifierConfig(weights=weights, embeddings=True))


def localizer_maker(network: str) -> Callable[[dict[str, Path]], Operator]:
    def make(checkpoints: dict[str, Path]) -> Operator:
        return OPERATORS["localize"](LocalizerConfig(weights=str(checkpoints[network])))

    return make


def make_face_embedder(checkpoints: dict[str, Path]) -> Operator:
    path = checkpoints["residual"].parent / "embedder.safetensors"
    weights = save_embedder(path, 48, flip_sum=True)
    config = FacesConfig(weights=weights, detector="none", crops=True)
    return OPERATORS["embed_faces"](config)


MAKERS: dict[str, Callable[[dict[str, Path]], Operator]] = {
    "classify": make_classifier,
    "embed_faces": make_face_embedder,
    "localize": localizer_maker("localizer:residual"),
    "localize_cam": localizer_maker("residual"),
    "localize_detector": localizer_maker(DETECTOR),
}
"""each operator of the dict, of localize with each kind of network"""
assert {name.removesuffix("_cam").removesuffix("_detector") for name in MAKERS} == OPERATORS.keys()


def make_batch(rows: int, size: int = 48, seed: int = 0) -> Batch:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
    extents = np.random.default_rng(seed).integers(30, 400, (rows, 2), dtype=np.int32)
    ids = np.array([f"{seed}/{row}" for row in range(rows)])
    batch = {"id": ids, "pixels": pixels, "extent": extents}
    for column in batch.values():
        column.flags.writeable = False  # as Ray shares them
    return batch


def assert_same(whole: Batch, parts: list[Batch]) -> None:
    assert all(part.keys() == whole.keys() for part in parts)
    for name, column in whole.items():
        together = np.concatenate([part[name] for part in parts])
        assert plain(column) == plain(together), name


def plain(value: Any) -> Any:
    """Arrays as lists, however deep."""
    if isinstance(value, np.ndarray):
        return [plain(each) for each in value] if value.dtype == object else value.tolist()
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="module", params=MAKERS)
def operator(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Operator:
    return MAKERS[request.param](checkpoints)


ONE_AT_A_TIME = ("localize_detector",)
"""a tenth of a second a picture: three of them show that no batch has a part in it"""


@pytest.fixture
def most_rows(request: pytest.FixtureRequest) -> int:
    return 3 if request.node.callspec.params["operator"] in ONE_AT_A_TIME else 41


@pytest.mark.parametrize("cut", [1, 5, 32, 40])
def test_whole_batch_equals_its_parts_bit_for_bit(operator, most_rows, cut):
    batch = make_batch(most_rows)
    head = operator({name: column[:cut] for name, column in batch.items()})
    tail = operator({name: column[cut:] for name, column in batch.items()})
    assert_same(operator(batch), [head, tail])


@pytest.mark.parametrize("rows", [0, 1, 33])
def test_rows_are_kept_in_order_and_pixels_are_dropped(operator, most_rows, rows):
    rows = min(rows, most_rows)
    batch = make_batch(rows)
    result = operator(batch)
    assert "pixels" not in result
    assert result["id"].tolist() == batch["id"].tolist()
    assert {len(column) for column in result.values()} == {rows}


def test_input_is_not_written_to_and_the_second_answer_is_the_first(operator, most_rows):
    batch = make_batch(min(9, most_rows))
    before = {name: column.copy() for name, column in batch.items()}
    assert_same(operator(batch), [operator(batch)])
    assert batch.keys() == before.keys()
    assert all(np.array_equal(batch[name], column) for name, column in before.items())


def test_an_empty_batch_has_the_columns_of_a_full_one(operator):
    empty, full = operator(make_batch(0)), operator(make_batch(2))
    assert {name: column.shape[1:] for name, column in empty.items()} == {
        name: column.shape[1:] for name, column in full.items()
    }


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("network", NETWORKS)
def test_classifier_gives_the_same_bits_for_any_batching_and_threads(checkpoints, network, threads):
    size = FIXED_SIZE_PX.get(network, 48)
    config = ClassifierConfig(weights=str(checkpoints[network]), embeddings=True)
    batch = make_batch(70, size)
    whole = Classifier(config)(batch)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        classifier = Classifier(config)
        for step in (7, 64):
            cuts = [
                {name: column[start : start + step] for name, column in batch.items()}
                for start in range(0, 70, step)
            ]
            assert_same(whole, [classifier(part) for part in cuts])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("network", NETWORKS)
def test_classifier_is_the_network_and_a_softmax(checkpoints, network):
    size = FIXED_SIZE_PX.get(network, 48)
    config = ClassifierConfig(weights=str(checkpoints[network]), top_k=3, embeddings=True)
    batch = make_batch(4, size)
    result = Classifier(config)(batch)
    model, card = load_checkpoint(config.weights, "cpu")
    assert isinstance(card.preprocess, Preprocess)
    for row, pixels in enumerate(batch["pixels"]):
        mean, std = np.array(card.preprocess.mean), np.array(card.preprocess.std)
        image = torch.tensor((pixels / 255 - mean) / std, dtype=torch.float32).permute(2, 0, 1)
        with torch.inference_mode():
            chances = model(image[None]).softmax(dim=1)[0]
        order = chances.argsort(descending=True)[:3]
        assert result["top_labels"][row].tolist() == [card.classes[i] for i in order]
        assert result["label"][row] == card.classes[order[0]]
        np.testing.assert_allclose(result["top_confidences"][row], chances[order], atol=1e-5)
        assert result["confidence"][row] == result["top_confidences"][row, 0]
    lengths = np.linalg.norm(result["embedding"], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)
    assert result["embedding"].shape == (4, card.embedding_size)
    assert result["embedding"].dtype == result["confidence"].dtype == np.float32


def test_ties_are_in_class_order_and_fewer_classes_than_top_k_are_all_named(tmp_path):
    path = make_checkpoint(tmp_path / "flat.safetensors", "residual", num_classes=4)
    model, card = load_checkpoint(path, "cpu")
    for parameter in model.get_submodule("head").parameters():
        torch.nn.init.zeros_(parameter)
    save_checkpoint(path, model, card)
    result = Classifier(ClassifierConfig(weights=str(path)))(make_batch(2))
    assert result["top_labels"].tolist() == [list(card.classes)] * 2
    assert result["top_confidences"].tolist() == [[0.25] * 4] * 2
    assert "embedding" not in result


def test_pixels_of_another_size_or_type_are_refused(checkpoints):
    classifier = make_classifier(checkpoints)
    for pixels in (np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 48, 48, 3), np.float32)):
        with pytest.raises(ValueError, match="takes uint8"):
            classifier({"pixels": pixels})


def test_top_k_of_nothing_is_refused():
    with pytest.raises(ValueError, match="top_k 0"):
        ClassifierConfig(top_k=0)


def test_squeezenet_names_photographs_as_a_plain_torchvision_script_does(shared_data, tmp_path):
    from PIL import Image
    from torchvision import models, transforms

    state = shared_data / "weights" / "squeezenet1_1-imagenet.pth"
    path = tmp_path / "squeezenet.safetensors"
    origin = Origin(
        network="torchvision:squeezenet1_1",
        classes=imagenet_classes(),
        preprocess=Preprocess(),
        licence="Apache-2.0",
        source="ONNX model zoo",
    )
    convert(state, origin, path)
    photos = sorted((shared_data / "photos").glob("*.JPEG"))

    plain = models.squeezenet1_1()
    plain.load_state_dict(torch.load(state, weights_only=True))
    plain.eval()
    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = [torch.as_tensor(transform(Image.open(photo).convert("RGB"))) for photo in photos]
    with torch.inference_mode():
        expected = torch.cat([plain(torch.stack(images[i : i + 20])) for i in range(0, 100, 20)])

    decode = Decode(
        DecodeConfig(apply_icc=False, mode="exact"), Preprocess()
    )  # as torchvision: numbers as stored
    pixels = np.zeros((len(photos), *decode.shape), np.uint8)
    errors = [decode(photo.read_bytes(), out) for photo, out in zip(photos, pixels, strict=True)]
    assert not any(errors)
    classifier = Classifier(ClassifierConfig(weights=str(path), top_k=1000))
    result = classifier({"pixels": pixels})

    logits, _ = classifier.network(pixels)
    assert np.abs(logits - expected.numpy()).max() < 1e-3
    names = imagenet_classes()
    assert result["label"].tolist() == [names[index] for index in expected.argmax(dim=1)]
