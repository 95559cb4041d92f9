"""Finding faces: every detector keeps the same laws; what each computes is computed by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_detectors import (
    CELL,
    save_boxes,
    save_mtcnn,
    save_retinaface,
    save_yunet,
    untrained_mtcnn,
    untrained_retinaface,
    whole_like,
)
from vision_ops.checkpoint import load_checkpoint
from vision_ops.faces import Faces
from vision_ops.faces.choose import choose
from vision_ops.faces.detect import Detector, DetectorConfig, make_detector
from vision_ops.faces.mtcnn import Halves, MtcnnDetector, calibrated, cut, joined, pyramid, squared
from vision_ops.faces.onnx_format import OnnxFormat, format_from_json, format_to_json, named_format
from vision_ops.faces.passes import octaves, view
from vision_ops.faces.retinaface import RetinaFaceDetector
from vision_ops.models.mtcnn import columns_first
from vision_ops.models.retinaface import VARIANCES, decode, fold_norms, priors
from vision_ops.weights.face_detectors import convert_detector

LOW = DetectorConfig(min_confidence=0.3, max_faces=50)
FULL_SIZE = replace(LOW, min_face_px=12)
"""at which YuNet sees pictures as they are"""
MAKERS = {
    "mtcnn": save_mtcnn,
    "retinaface": save_retinaface,
    "yunet": save_yunet,
    "onnx": save_boxes,
}

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


def pictures() -> list[np.ndarray]:
    """Of several sizes, some alike; noise with blue cells in it."""
    draw = np.random.default_rng(2)
    sizes = [(64, 96), (48, 40), (64, 96), (70, 33), (96, 64), (64, 96), (61, 95)]
    found = [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for picture in found:
        picture[CELL : 2 * CELL, :CELL] = (0, 0, 255)
    return found


def assert_same(found: list[Faces], expected: list[Faces]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for array, wanted in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_found_in_a_picture_depends_on_no_other(paths, name):
    config = FULL_SIZE if name == "yunet" else LOW
    detect, images = make_detector(config, paths[name]), pictures()
    together = detect(images)
    assert sum(len(each.boxes) for each in together) > 3
    assert_same([faces for each in images for faces in detect([each])], together)
    assert_same(detect(images[::-1])[::-1], together)
    assert_same(detect(images[:3]) + detect(images[3:]), together)


@pytest.mark.parametrize("kind", [MtcnnDetector, RetinaFaceDetector])
def test_passes_of_several_pictures_keep_that_law_too(paths, kind: Callable[..., Detector]):
    name = "mtcnn" if kind is MtcnnDetector else "retinaface"
    detect, images = kind(LOW, paths[name], 4), pictures()
    together = detect(images)
    assert_same([faces for each in images for faces in detect([each])], together)
    assert_same(detect(images[::-1])[::-1], together)
    alone = make_detector(LOW, paths[name])(images)
    assert [len(each.boxes) for each in together] == [len(each.boxes) for each in alone]


@pytest.mark.parametrize("name", MAKERS)
def test_every_detector_answers_in_the_same_shapes_surest_first(paths, name):
    images = [*pictures(), np.zeros((1, 1, 3), np.uint8), np.full((3, 200, 3), 128, np.uint8)]
    for each in images:
        each.flags.writeable = False  # as Ray shares them
    for faces in make_detector(LOW, paths[name])(images):
        count = len(faces.boxes)
        shapes = [array.shape for array in faces]
        assert shapes == [(count, 4), (count, 5, 2), (count,)]
        assert {array.dtype for array in faces} == {np.dtype(np.float32)}
        assert (np.diff(faces.confidence) <= 0).all()
        assert ((faces.confidence >= 0.3) & (faces.confidence <= 1)).all()
        assert ((faces.boxes[:, 2:] - faces.boxes[:, :2]).max(axis=1, initial=20) >= 20).all()
    assert make_detector(LOW, paths[name])([]) == []


@pytest.mark.parametrize("name", ["yunet", "onnx"])
def test_a_face_is_found_where_it_is(paths, name):
    """At its own size: the ONNX file takes 96 x 128, YuNet finds faces of 12 px."""
    picture = np.zeros((96, 128, 3), np.uint8)
    picture[64:96, 32:64] = (0, 0, 255)
    picture[0:32, 96:128] = (255, 0, 0)  # BGR taken for RGB would find this one
    (faces,) = make_detector(FULL_SIZE, paths[name])([picture])
    np.testing.assert_allclose(faces.boxes, [[32, 64, 64, 96]], atol=1e-3)
    quarters = [[40, 72], [56, 72], [48, 80], [40, 88], [56, 88]]
    wanted = np.full((1, 5, 2), np.nan) if name == "onnx" else [quarters]
    np.testing.assert_allclose(faces.landmarks, wanted, atol=1e-3)


def test_onnx_file_of_one_size_sees_pictures_in_their_own_proportions(paths):
    picture = np.zeros((192, 384, 3), np.uint8)  # a third of it: 64 x 128
    picture[96:192, 96:192] = (0, 0, 255)
    (faces,) = make_detector(LOW, paths["onnx"])([picture])
    np.testing.assert_allclose(faces.boxes, [[96, 96, 192, 192]], atol=1e-3)


def test_onnx_file_of_any_size_is_asked_at_sizes_that_halve(tmp_path):
    onnx.save(whole_like(), str(tmp_path / "x.onnx"))
    told = tmp_path / "told.json"
    told.write_text(format_to_json(OnnxFormat(scores="s", boxes="b")))
    path = tmp_path / "y.onnx"
    convert_detector(f"face_detector:onnx:{told}", [tmp_path / "x.onnx"], "CC0", "made", path)
    config = DetectorConfig(min_face_px=16, iou=0.99)
    (faces,) = make_detector(config, path)([np.zeros((100, 1000, 3), np.uint8)])
    # looked at in 1000 px, rounded up to 1024, too large a face there; and in 500, up to 512
    np.testing.assert_allclose(faces.boxes, [[0, 0, 512 / 0.5, 64 / 0.5]], rtol=1e-5)


def test_priors_stand_in_the_middle_of_their_cells():
    found = priors(32, 64)
    assert found.shape == (2 * (4 * 8 + 2 * 4 + 1 * 2), 4)
    assert found[:3].tolist() == [[4, 4, 10, 10], [4, 4, 20, 20], [12, 4, 10, 10]]
    assert found[16].tolist() == [4, 12, 10, 10]  # the second row
    assert found[64].tolist() == [8, 8, 32, 32]
    assert found[-1].tolist() == [48, 16, 256, 256]


def test_decode_is_the_inverse_of_the_encoding_of_ssd():
    draw = np.random.default_rng(0)
    at = priors(32, 32)
    boxes, points = draw.uniform(0, 50, (len(at), 4)), draw.uniform(0, 60, (len(at), 5, 2))
    boxes[:, 2:] += boxes[:, :2] + 5
    offsets, marks = np.zeros((len(at), 4)), np.zeros((len(at), 10))
    for k, (x, y, width, height) in enumerate(at.tolist()):
        x0, y0, x1, y1 = boxes[k]
        offsets[k] = [
            ((x0 + x1) / 2 - x) / width / VARIANCES[0],
            ((y0 + y1) / 2 - y) / height / VARIANCES[0],
            np.log((x1 - x0) / width) / VARIANCES[1],
            np.log((y1 - y0) / height) / VARIANCES[1],
        ]
        for p, (px, py) in enumerate(points[k]):
            marks[k, 2 * p] = (px - x) / width / VARIANCES[0]
            marks[k, 2 * p + 1] = (py - y) / height / VARIANCES[0]
    found = decode(torch.tensor(offsets).float(), torch.tensor(marks).float(), at)
    np.testing.assert_allclose(found[0], boxes, atol=1e-3)
    np.testing.assert_allclose(found[1], points, atol=1e-3)


def test_folding_the_norms_changes_no_answer():
    model, images = untrained_retinaface(), torch.randn(1, 3, 64, 96) * 50
    with torch.inference_mode():
        expected = model(images)
        for one, other in zip(fold_norms(model)(images), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_pnet_says_of_each_position_what_it_says_of_that_window():
    pnet = untrained_mtcnn().pnet
    images = torch.randn(1, 3, 20, 27)
    with torch.inference_mode():
        probability, offsets = pnet(images)
        for row, column in [(0, 0), (4, 7), (2, 3)]:
            window = images[:, :, 2 * row : 2 * row + 12, 2 * column : 2 * column + 12]
            alone = pnet(window)
            torch.testing.assert_close(alone[0][0, 0, 0], probability[0, row, column])
            torch.testing.assert_close(alone[1][0, :, 0, 0], offsets[0, :, row, column])


def test_dense_layers_read_column_by_column_channels_innermost():
    features = torch.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4).float()
    flat = columns_first(features)
    for n, w, h, c in np.ndindex(2, 4, 2, 3):
        assert flat[n, (w * 2 + h) * 3 + c] == features[n, c, h, w]


def test_pyramid_begins_at_the_smallest_face_and_ends_at_the_window():
    assert pyramid(24, 30, 24) == [0.5]
    assert len(pyramid(240, 300, 24)) == 7  # 120 * 0.709^6 = 15.2, ^7 = 10.8
    assert pyramid(10, 500, 20) == []


def test_crop_of_its_own_size_is_the_picture_and_black_outside():
    picture = torch.randint(0, 256, (30, 40, 3), dtype=torch.uint8)
    boxes = torch.tensor([[5.0, 3.0, 17.0, 15.0], [100.0, 100.0, 124.0, 124.0]])
    inside, outside = cut(Halves([picture.numpy()], CPU), 0, boxes, 12)
    expected = (picture[3:15, 5:17].permute(2, 0, 1).float() - 127.5) / 128
    torch.testing.assert_close(inside, expected)
    assert (outside == -127.5 / 128).all()


def test_crop_of_a_larger_box_is_the_mean_of_its_pixels():
    picture = torch.randint(0, 256, (90, 70, 3), dtype=torch.uint8)
    (crop,) = cut(Halves([picture.numpy()], CPU), 0, torch.tensor([[8.0, 16.0, 56.0, 64.0]]), 12)
    pixels = picture[16:64, 8:56].permute(2, 0, 1).float()
    expected = (torch.nn.functional.avg_pool2d(pixels, 4) - 127.5) / 128
    torch.testing.assert_close(crop, expected)


def test_halves_of_odd_pictures_keep_their_borders():
    picture = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)
    halves = Halves([picture], CPU)
    half = halves(0, 1)
    assert half.shape == (1, 3, 3, 2)
    assert half[0, 0, 2, 1] == picture[4, 2, 0]
    assert half[0, 1, 0, 0] == picture[:2, :2, 1].mean()
    assert halves(0, 2).shape == (1, 3, 2, 1)


def test_windows_are_moved_by_parts_of_their_sides_then_squared():
    windows = joined([])._replace(
        image=torch.tensor([0]),
        boxes=torch.tensor([[10.0, 20.0, 30.0, 60.0]]),
        confidence=torch.tensor([0.9]),
    )
    moved = calibrated(windows, torch.tensor([[0.1, -0.1, 0.0, 0.5]]))
    torch.testing.assert_close(moved.boxes, torch.tensor([[12.0, 16.0, 30.0, 80.0]]))
    torch.testing.assert_close(squared(moved).boxes, torch.tensor([[-11.0, 16.0, 53.0, 80.0]]))


@given(seed=st.integers(0, 9999), count=st.integers(0, 40), iou=st.sampled_from([0.2, 0.5, 0.8]))
@settings(max_examples=30)
def test_of_faces_that_overlap_the_surest_is_kept(seed, count, iou):
    draw = np.random.default_rng(seed)
    corner = draw.uniform(-20, 60, (count, 2))
    boxes = np.concatenate([corner, corner + draw.uniform(5, 60, (count, 2))], axis=1)
    confidence = draw.permutation(count) / (count + 1)
    a = torch.tensor(boxes).float()
    b = torch.tensor(draw.uniform(0, 9, (count, 5, 2))).float()
    c = torch.tensor(confidence).float()
    config = DetectorConfig(min_confidence=0.2, min_face_px=15, max_faces=7, iou=iou)
    kept: list[int] = []
    for k in np.argsort(-confidence):
        longer = (boxes[k, 2:] - boxes[k, :2]).max()
        if (
            confidence[k] >= 0.2
            and longer >= 15
            and all(_iou(boxes[k], boxes[j]) <= iou for j in kept)
        ):
            kept.append(k)
    half = count // 2
    parts = [(a[part], b[part], c[part]) for part in (slice(half), slice(half, None))]
    faces = choose(parts, config)  # of two scales
    np.testing.assert_allclose(faces.boxes, boxes[kept[:7]].reshape(-1, 4), rtol=1e-6)
    np.testing.assert_allclose(faces.landmarks, b[kept[:7]])


def test_what_is_no_number_is_no_face():
    boxes = torch.tensor([[0.0, 0.0, torch.nan, 40.0], [0.0, 0.0, 40.0, 40.0]])
    faces = choose([(boxes, torch.zeros(2, 5, 2), torch.tensor([0.99, torch.nan]))], LOW)
    assert len(faces.boxes) == 0


def test_views_halve_until_the_largest_face_fits():
    picture = np.zeros((300, 1000, 3), np.uint8)
    found = octaves([picture], 32, (16, 64))  # from half its size to twice 64
    assert [each.pixels.shape[:2] for each in found] == [(150, 500), (75, 250), (38, 125)]
    assert [each.largest_px for each in found] == [64, 64, np.inf]
    assert found[2].down == 38 / 300  # sides are whole pixels
    tiny = octaves([np.zeros((1, 1, 3), np.uint8)], 20, (16, 64))
    assert [each.pixels.shape for each in tiny] == [(1, 1, 3)]


def test_view_of_a_picture_is_within_a_grey_level_of_float():
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    small = view(0, picture, 0.5).pixels
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    exact = torch.nn.functional.interpolate(planes, (30, 40), mode="bilinear", antialias=True)
    difference = small.astype(float) - exact[0].permute(1, 2, 0).numpy()
    assert abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_confidence": 1.0}, "min_confidence 1.0"),
        ({"min_face_px": 0}, "min_face_px 0"),
        ({"max_faces": 0}, "max_faces 0"),
        ({"iou": 1.5}, "iou 1.5"),
    ],
)
def test_impossible_requests_are_refused_with_their_value(changes, words):
    with pytest.raises(ValueError, match=words):
        DetectorConfig(**changes)


def test_weights_of_something_else_are_no_detector(tmp_path):
    from tests.untrained import save_untrained

    path = save_untrained(tmp_path / "net.safetensors", 32)
    with pytest.raises(ValueError, match="residual finds no faces; face_detector:mtcnn"):
        make_detector(DetectorConfig(), path)


def test_checkpoint_holds_all_three_networks_strictly(paths):
    loaded, card = load_checkpoint(paths["mtcnn"], "cpu")
    assert card.network == "face_detector:mtcnn"
    expected = untrained_mtcnn().state_dict()
    assert {name.partition(".")[0] for name in expected} == {"pnet", "rnet", "onet"}
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"scores": "s"}', r"lacks \['boxes'\]"),
        ('{"scores": "s", "boxes": "b", "corner": "size"}', "unknown"),
        ('{"scores": "s", "boxes": "b", "corners": "edges"}', "corners 'edges'"),
        ('{"scores": "s", "boxes": "b", "std": "1"}', "std '1'"),
        ('{"scores": "s", "boxes": "b", "std": 0}', "std 0"),
        ("[]", "not an object"),
        ("{", "Expecting"),
    ],
)
def test_format_that_means_nothing_is_refused(tmp_path, text, words):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        named_format(str(tmp_path / "x.json"))
    with pytest.raises(ValueError, match="not one of ultralight"):
        named_format("nothing")


def test_format_survives_its_file():
    told = OnnxFormat(scores="a", boxes="b", landmarks="c", corners="size", unit="px", mean=1.5)
    assert format_from_json(format_to_json(told)) == told


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    both = max(across, 0) * max(down, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)
