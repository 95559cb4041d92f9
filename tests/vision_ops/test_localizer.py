"""Networks that say where: encoders taken from classifiers, votes, class maps, detectors."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vision_ops.boxes import to_original
from vision_ops.card import Card
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.class_maps import bright_box, make_class_maps
from vision_ops.learners.localize import (
    LocalizerLearner,
    LocalizerLearnerConfig,
    LocalizerModelConfig,
)
from vision_ops.models import build, embedding_size, head_of, logits_and_embeddings
from vision_ops.models.detection import build_detector, coco_classes, detectors, freeze_norms
from vision_ops.models.feature_map import MapEncoder, look_through
from vision_ops.models.localizer import Localizer, elect
from vision_ops.operators import OPERATORS
from vision_ops.operators.localize import LocalizerConfig, method_of
from vision_ops.operators.localizers import Localizer as LocalizerOperator
from vision_ops.preprocess import Preprocess
from vision_ops.signals import SignalPreprocess
from vision_ops.weights import resolve
from vision_ops.weights.convert import Origin, convert
from vision_ops.weights.hub import published

SMALL = Preprocess(height_px=64, width_px=64, resize_px=0)
ENCODERS = ("residual", "torchvision:squeezenet1_1", "torchvision:mobilenet_v3_small")
AVERAGING = ("residual", "torchvision:squeezenet1_1", "torchvision:resnet18", "timm:resnet10t")


def save(path: Path, network: str, classes: tuple[str, ...] = ("a", "b", "c")) -> Path:
    torch.manual_seed(0)
    model = build(network, len(classes))
    size = embedding_size(model, SMALL.network_shape)
    named = {"network": network, "classes": classes, "preprocess": SMALL}
    card = Card(**named, licence="CC0", source="random", embedding_size=size)  # pyright: ignore
    save_checkpoint(path, model, card)
    return path


@pytest.mark.parametrize("network", ENCODERS)
def test_localizer_of_any_encoder_gives_classes_boxes_and_embeddings(network: str):
    model = build(f"localizer:{network}", 3).eval()
    images = torch.rand(2, 3, 64, 96)
    logits, boxes = model(images)
    assert (logits.shape, boxes.shape) == ((2, 3), (2, 4))
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    same, embedding = logits_and_embeddings(model, images)
    assert torch.equal(same, logits)
    assert embedding.shape[1] == embedding_size(model, (3, 64, 64))
    assert head_of(model) is model.class_head


def test_encoder_gives_what_the_classifiers_last_layer_sees_and_drops_what_is_behind():
    torch.manual_seed(0)
    classifier = build("torchvision:squeezenet1_1", 5).eval()
    images = torch.rand(2, 3, 64, 64)
    wanted = classifier.get_submodule("features")(images)
    encoder = MapEncoder(classifier, head_of(classifier)).eval()
    assert torch.equal(encoder(images), wanted)
    assert not [name for name in encoder.state_dict() if "classifier" in name]


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("torchvision:vit_b_32", "no map of positions"),
        ("timm:vit_tiny_patch16_224", "no map of positions"),
        ("cnn_cifar10", "32 px alone"),
    ],
)
def test_network_without_a_map_is_refused(network: str, said: str):
    with pytest.raises(ValueError, match=said):
        build(f"localizer:{network}", 3)


def test_cells_elect_the_box_of_the_surest_by_hand():
    votes = torch.zeros(1, 5, 2, 4)
    votes[0, 0, 1, 2] = 50.0  # the cell at row 1, column 2: centre 0.625, 0.75
    votes[0, 1, 1, 2] = 100.0  # tanh 1: half a picture to the right
    box = elect(votes)[0]  # both sizes are sigmoid(0) = 0.5
    torch.testing.assert_close(box, torch.tensor([0.875, 0.5, 1.375, 1.0]))
    torch.testing.assert_close(
        elect(torch.zeros(1, 5, 2, 4))[0], torch.tensor([0.25, 0.25, 0.75, 0.75])
    )


def test_box_follows_a_thing_that_moves_and_an_average_could_not():
    """The heads untrained: what is moved by whole cells moves the votes with it."""
    torch.manual_seed(0)
    votes = torch.zeros(1, 5, 8, 8)
    votes[0, 0, 2, 2] = 9.0
    moved = votes.roll((3, 4), dims=(2, 3))
    shift = elect(moved) - elect(votes)
    wanted = torch.tensor([[0.5, 0.375, 0.5, 0.375]]) * shift[0, 0] / 0.5
    torch.testing.assert_close(shift, wanted)
    assert shift[0, 0] > 0.45
    torch.testing.assert_close(votes.mean(dim=(2, 3)), moved.mean(dim=(2, 3)))


def test_class_is_named_by_the_cells_that_elect_the_box():
    """What else is in the picture has no say, however large the picture is."""
    torch.manual_seed(0)
    model = build("localizer:residual", 3).eval()
    assert isinstance(model, Localizer)
    images = torch.rand(1, 3, 6, 6)
    images[0, 0] = 0.0
    images[0, 0, 4, 1] = 1.0
    encoder, votes = nn.Conv2d(3, 160, kernel_size=1), nn.Conv2d(160, 5, kernel_size=1)
    with torch.no_grad():
        for layer, passes in ((encoder, 1.0), (votes, 60.0)):  # sure where the first channel is
            layer.weight[0] = 0.0
            layer.weight[0, 0] = passes
            assert layer.bias is not None
            layer.bias.zero_()
    model.encoder, model.box_head = encoder, votes  # pyright: ignore[reportAttributeAccessIssue]
    logits, boxes = model(images)
    chosen = encoder(images)[:, :, 4, 1]
    torch.testing.assert_close(logits, model.class_head(chosen))
    torch.testing.assert_close(model.logits_and_embeddings(images)[1], chosen)
    torch.testing.assert_close(model.class_maps(images).mean(dim=(2, 3)), logits)
    torch.testing.assert_close(boxes, elect(votes(encoder(images))))


def config(start: str = "", **model: object) -> LocalizerLearnerConfig:
    made = LocalizerModelConfig(preprocess=SMALL, weights=start, **model)  # pyright: ignore
    return LocalizerLearnerConfig(model=made, classes=("a", "b"), num_steps=9)


def make_batch() -> dict[str, torch.Tensor]:
    pixels = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8)
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.7]]).expand(8, 4)
    return {"pixels": pixels, "target": torch.arange(8) % 2, "box": boxes}


def test_training_begins_with_the_features_of_a_classifier_and_may_leave_them(tmp_path: Path):
    start = save(tmp_path / "features.safetensors", "torchvision:squeezenet1_1")
    chosen = {"encoder": "torchvision:squeezenet1_1", "encoder_rate": 0.0}
    learner = LocalizerLearner(config(str(start), **chosen))
    given = load_checkpoint(start, "cpu")[0].state_dict()
    learner.step(make_batch())
    encoder = learner.networks["network"].encoder.network.state_dict()  # pyright: ignore
    assert encoder
    assert all(torch.equal(given[name], value) for name, value in encoder.items())


def test_features_of_another_network_or_of_other_pixels_are_refused(tmp_path: Path):
    start = save(tmp_path / "features.safetensors", "residual")
    other = config(str(start), encoder="torchvision:squeezenet1_1")
    with pytest.raises(ValueError, match="of residual, --model.encoder is torchvision"):
        LocalizerLearner(other)
    model = replace(config().model, weights=str(start), preprocess=replace(SMALL, scale=1.0))
    with pytest.raises(ValueError, match="learnt with scale 255.0"):
        LocalizerLearner(replace(config(), model=model))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: replace(config(), num_passes=0), "num_passes 0"),
        (lambda: replace(config(), classes=()), "there is none"),
        (lambda: LocalizerModelConfig(encoder_rate=0.5), "begins with --model.weights"),
        (lambda: LocalizerModelConfig(encoder_rate=2), "must be 0..1"),
        (lambda: LocalizerConfig(threshold=1), "op.threshold 1"),
        (lambda: LocalizerConfig(max_objects=0), "op.max_objects 0"),
        (lambda: LocalizerConfig(min_confidence=1), "op.min_confidence 1"),
    ],
)
def test_impossible_values_are_refused_by_name(make, said: str):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("network", [*AVERAGING, "localizer:residual"])
def test_logit_of_a_class_is_the_mean_of_its_map(network: str, tmp_path: Path):
    model, card = load_checkpoint(save(tmp_path / "w.safetensors", network), "cpu")
    with torch.inference_mode():
        logits, maps = make_class_maps(model, card, "w")(torch.randn(2, 3, 64, 64))
    assert maps.ndim == 4
    assert maps.shape[2] > 1
    torch.testing.assert_close(maps.mean(dim=(2, 3)), logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("network", ["torchvision:vgg11_bn", "torchvision:mobilenet_v3_small"])
def test_network_that_does_not_end_in_an_average_has_no_class_maps(network: str):
    model = build(network, 3).eval()
    card = Card(
        network=network, classes=("a", "b", "c"), preprocess=SMALL, licence="CC0", source="random",
        embedding_size=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"class activation maps need|not of one map"):
        make_class_maps(model, card, "w")


def test_box_surrounds_the_largest_part_above_the_threshold():
    values = np.full((20, 30), -3.0)
    values[2:5, 3:6] = 9.0  # the brightest, and small
    values[8:15, 10:22] = 1.0  # a third of the range -3..9
    assert bright_box(values, 0.2) == (10, 8, 22, 15)
    assert bright_box(values, 0.5) == (3, 2, 6, 5)
    assert bright_box(np.zeros((4, 6)), 0.2) == (0, 0, 6, 4)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
@pytest.mark.parametrize("value", [3.7281, 0.9731, -51.3, 1e-3])
def test_a_map_of_one_position_is_no_box_however_its_enlargement_is_rounded(
    value: float, share: float
):
    small = torch.full((1, 1, 1, 1), value)
    enlarged = F.interpolate(small, [32, 33], mode="bilinear")[0, 0].numpy()
    assert bright_box(enlarged, share) == (0, 0, 33, 32)
    last = np.float32(value)
    enlarged = np.full((4, 6), last)
    enlarged[1, 2] = np.nextafter(last, np.float32(np.inf))
    assert bright_box(enlarged, share) == (0, 0, 6, 4)


class Fixed(nn.Module):
    """Takes pictures of 64 px and asserts it, as some of timm do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 5, 3, stride=2), nn.Linear(5, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[2:] == (64, 64), "input size does not match"
        return self.fc(self.conv(images).mean(dim=(2, 3)))


def test_a_network_of_one_size_is_looked_through_by_a_picture_of_that_size():
    network = Fixed()
    assert look_through(network, network.fc, (3, 64, 64)) == ("conv", 5, ["fc"])
    with pytest.raises(ValueError, match=r"Fixed: takes no picture of \(3, 224, 224\): input"):
        look_through(network, network.fc)
    with pytest.raises(ValueError, match=r"Fixed: takes no picture of \(3, 32, 32\): input"):
        look_through(network, network.fc, (3, 32, 32))


@pytest.mark.parametrize("network", ["cnn_cifar10", "fast_cifar10"])
def test_networks_of_one_size_have_no_class_maps_and_say_so(network: str):
    card = Card(
        network=network, classes=("a", "b", "c"), licence="CC0", source="random",
        preprocess=Preprocess(height_px=32, width_px=32, resize_px=0), embedding_size=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match="class activation maps need|takes pictures of 32 px"):
        make_class_maps(build(network, 3).eval(), card, "w")
    with pytest.raises(ValueError, match="takes pictures of 32 px alone"):
        build(f"localizer:{network}", 3)


@pytest.mark.parametrize("asked", ["auto", "regression", "cam"])
def test_method_follows_the_weights_and_what_cannot_be_is_refused(asked, tmp_path: Path):
    path = str(save(tmp_path / "w.safetensors", "localizer:residual"))
    card = load_checkpoint(path, "cpu")[1]
    wanted = "cam" if asked == "cam" else "regression"
    assert method_of(LocalizerConfig(weights=path, method=asked), card) == wanted
    with pytest.raises(ValueError, match="for regression"):
        method_of(LocalizerConfig(weights=path, method="detector"), card)
    with pytest.raises(ValueError, match="op.min_confidence: not for method"):
        method_of(LocalizerConfig(weights=path, method=asked, min_confidence=0.9), card)


def test_weights_that_are_for_no_pictures_are_refused_by_what_they_are_for(tmp_path: Path):
    card = load_checkpoint(save(tmp_path / "w.safetensors", "residual"), "cpu")[1]
    signals = replace(card, network="convnet_1d", preprocess=SignalPreprocess())
    with pytest.raises(ValueError, match="convnet_1d takes signals, not pictures"):
        method_of(LocalizerConfig(), signals)


def test_box_of_the_operator_is_the_networks_in_pixels_of_each_original(tmp_path: Path):
    operator = LocalizerOperator(
        LocalizerConfig(weights=str(save(tmp_path / "w.safetensors", "localizer:residual")))
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    extents = np.array([[100, 300], [50, 20]], np.int32)
    rows = operator({"pixels": pixels, "extent": extents})
    with torch.inference_mode():
        _, found = operator._forward(pixels)
    wanted = to_original(found.astype(np.float64) * 64, extents, SMALL)
    for row, box, (height, width) in zip(rows["boxes"], wanted, extents, strict=True):
        np.testing.assert_allclose(row[0]["box"], box.clip(0, [width, height] * 2), rtol=1e-5)
    assert rows["height_px"].tolist() == [100, 50]


class Lingering(nn.Module):
    """A classifier that dawdles between its last map and its head."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, kernel_size=8, stride=8)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.stem(images).mean(dim=(2, 3))
        time.sleep(0.01)
        return self.head(features)


@pytest.mark.parametrize("method", ["regression", "cam"])
def test_callers_in_several_threads_get_each_their_own_boxes(method, tmp_path: Path):
    """A map is caught on its way through the network, which all callers share."""
    network = f"{__name__}:Lingering"
    network = network if method == "cam" else f"localizer:{network}"
    weights = save(tmp_path / "w.safetensors", network)
    operator = OPERATORS["localize"](LocalizerConfig(weights=str(weights), method=method), 4)
    random = np.random.default_rng(0)
    extent = np.array([[64, 64]], np.int32)
    batches = [
        {"pixels": random.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8), "extent": extent}
        for _ in range(12)
    ]
    wanted = [operator(batch)["boxes"][0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(operator, batches))
    assert [each["boxes"][0] for each in found] == wanted


def test_published_state_of_a_detector_becomes_a_checkpoint_that_finds_several(tmp_path: Path):
    """Random weights by the names under which torchvision publishes them."""
    torch.manual_seed(0)
    raw = build_detector("ssdlite320_mobilenet_v3_large", 3).network
    torch.save(raw.state_dict(), tmp_path / "detector.pth")
    origin = Origin(
        network="torchvision_detection:ssdlite320_mobilenet_v3_large",
        classes=("cat", "dog", "fox"),
        preprocess=Preprocess(
            height_px=320, width_px=320, resize_px=0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
        ),
        licence="BSD-3-Clause",
        source="random",
    )
    convert(tmp_path / "detector.pth", origin, tmp_path / "detector.safetensors")
    network, card = load_checkpoint(tmp_path / "detector.safetensors", "cpu")
    image = torch.rand(1, 3, 320, 320)
    with torch.inference_mode():
        (found,), (wanted,) = network(image), raw.eval()([image[0]])
        logits, _ = logits_and_embeddings(network, image)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert len(found["boxes"]) > 1
    best = [found["scores"][found["labels"] == k].amax().item() for k in (1, 2, 3)]
    assert logits[0].exp().tolist() == pytest.approx(best)
    assert card.network == origin.network


@pytest.mark.parametrize("name", detectors())
def test_every_detector_is_published_by_name_with_its_classes_and_size(name: str):
    item = published(f"torchvision_detection:{name}")
    assert item.name == f"torchvision_detection:{name}/COCO_V1"
    assert len(item.origin.classes) == 90
    assert item.origin.preprocess.height_px in (300, 320, 800)
    assert item.sha256_prefix
    with pytest.raises(ValueError, match="no such file|is not on this machine"):
        resolve(f"{item.name}", Path)


def test_detector_that_is_not_published_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="no such detector; there are fasterrcnn_mobilenet"):
        published("torchvision_detection:yolo")
    with pytest.raises(ValueError, match="weights are COCO_V1"):
        published("torchvision_detection:ssd300_vgg16/COCO_V9")


def test_state_learnt_with_frozen_norms_becomes_a_checkpoint_that_answers_as_torchvision(
    tmp_path: Path,
):
    """As torchvision builds it for published weights: its norms are constant and count nothing."""
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    torch.manual_seed(0)
    raw = build_detector(name, 90).network
    freeze_norms(raw, eps=1e-5)
    torch.save(raw.state_dict(), tmp_path / "state.pth")
    origin = published(f"torchvision_detection:{name}").origin
    convert(tmp_path / "state.pth", origin, tmp_path / "w.safetensors")
    network, _ = load_checkpoint(tmp_path / "w.safetensors", "cpu")
    image = torch.rand(1, 3, 320, 320)
    with torch.inference_mode():
        (found,), (wanted,) = network(image), raw.eval()([image[0]])
    assert found["labels"].tolist() == wanted["labels"].tolist()
    torch.testing.assert_close(found["boxes"], wanted["boxes"], rtol=1e-4, atol=1e-2)


def test_frozen_norms_of_published_detectors_count_no_batches():
    names = build_detector("fasterrcnn_resnet50_fpn", 2).network.state_dict()
    assert not [name for name in names if name.endswith("num_batches_tracked")]
    assert "backbone.body.bn1.running_mean" in names


def test_coco_names_its_outputs_once_each():
    names = coco_classes()
    assert len(set(names)) == len(names) == 90
    assert (names[0], names[17], names[89]) == ("person", "dog", "toothbrush")
