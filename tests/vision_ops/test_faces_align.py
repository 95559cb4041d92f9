"""Aligned crops are OpenCV's to a grey level, matrices the reference's; nothing breaks them."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from vision_ops.faces.align import (
    BOX_MARGIN,
    align,
    box_similarity,
    crop_matrices,
    similarity,
    template,
)


def by_svd(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama (1991), eq. 34-43, for one set of points, as scikit-image has it."""
    count, size = source.shape
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    z, w = source - source_mean, target - target_mean
    u, d, v = np.linalg.svd(w.T @ z / count)
    sign = np.ones(size)
    if np.linalg.det(u) * np.linalg.det(v) < 0:
        sign[-1] = -1
    turn = u @ np.diag(sign) @ v
    scale = (d * sign).sum() / z.var(axis=0).sum()
    return np.column_stack([scale * turn, target_mean - scale * turn @ source_mean])


def picture(height: int, width: int, seed: int, smooth: bool = True) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5) if smooth else noise


def matrices(count: int, shape: Sequence[int], seed: int, size_px: int) -> np.ndarray:
    """Turned and scaled every way, over the borders too."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        scale, angle = np.exp(rng.uniform(-1.5, 1.5)), rng.uniform(-np.pi, np.pi)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        middle = rng.uniform(-20, [shape[1] + 20, shape[0] + 20])
        found.append(np.column_stack([turn, size_px / 2 - turn @ middle]))
    return np.array(found)


def by_opencv(image: np.ndarray, matrix: np.ndarray, size_px: int) -> np.ndarray:
    return cv2.warpAffine(image, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR)


def worst(found: np.ndarray, expected: np.ndarray) -> int:
    return int(np.abs(found.astype(int) - expected.astype(int)).max())


@pytest.mark.parametrize("size_px", [112, 128, 160, 64])
@pytest.mark.parametrize("kind", ["faces", "noise", "mirrored", "on a line"])
def test_matrices_are_those_of_the_reference(size_px, kind):
    rng = np.random.default_rng(size_px)
    aims = template(size_px).numpy()
    landmarks = rng.uniform(0, 2000, (50, 5, 2))
    if kind == "faces":
        turned = by_svd(aims, rng.uniform(0, 900, (5, 2)))
        landmarks = aims @ turned[:, :2].T + turned[:, 2] + rng.normal(0, 3, (50, 5, 2))
    elif kind == "mirrored":
        landmarks = aims * [-1, 1] + rng.normal(0, 4, (50, 5, 2)) + 500
    elif kind == "on a line":
        landmarks = np.arange(10.0).reshape(1, 5, 2) * [1.0, 0.0] + rng.normal(0, 1e-3, (50, 5, 2))
    found = similarity(landmarks, size_px).numpy()
    expected = np.array([by_svd(points, aims) for points in landmarks])
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-6)


def test_templates_are_the_published_ones_of_each_size():
    published = np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
         [70.7299, 92.2041]]
    )  # fmt: skip
    np.testing.assert_array_equal(template(112), published)
    np.testing.assert_array_equal(template(128), published + [8, 0])
    np.testing.assert_allclose(template(256), (published + [8, 0]) * 2)
    np.testing.assert_allclose(template(160), published * 160 / 112)
    same = similarity(template(112)[None].float(), 112)[0]
    np.testing.assert_allclose(same, np.eye(2, 3), atol=1e-5)
    with pytest.raises(ValueError, match="size_px 0"):
        template(0)


@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "noise"])
@pytest.mark.parametrize("size_px", [112, 37])
def test_crops_are_those_of_opencv_to_one_grey_level(smooth, size_px):
    image = picture(301, 417, 3, smooth)
    turns = matrices(60, (301, 417), 4, size_px)
    found = align(image, torch.from_numpy(turns), size_px).numpy()
    expected = np.stack([by_opencv(image, matrix, size_px) for matrix in turns])
    assert worst(found, expected) <= 1
    assert (found == expected).mean() > 0.99


def test_crops_of_photographs_are_those_of_opencv(shared_data):
    for path in sorted((shared_data / "faces/photos/examples").glob("*.jpg")):
        image = np.asarray(Image.open(path).convert("RGB"))
        turns = matrices(20, image.shape, 5, 112)
        found = align(image, torch.from_numpy(turns), 112).numpy()
        assert worst(found, np.stack([by_opencv(image, each, 112) for each in turns])) <= 1


def test_faces_of_pictures_of_all_sizes_are_aligned_together_as_alone():
    sizes = [(90, 40), (33, 210), (1, 1), (1, 50), (50, 1), (2, 2), (400, 300)]
    images = [picture(*size, seed, smooth=False) for seed, size in enumerate(sizes)]
    owners = np.random.default_rng(0).integers(0, len(images), 100)
    turns = np.concatenate(
        [matrices(1, sizes[owner], seed, 48) for seed, owner in enumerate(owners)]
    )
    found = align(images, torch.from_numpy(turns), 48, owners).numpy()
    for k, owner in enumerate(owners):
        alone = align(images[owner], torch.from_numpy(turns[k : k + 1]), 48).numpy()[0]
        assert np.array_equal(found[k], alone)
        assert worst(alone, by_opencv(images[owner], turns[k], 48)) <= 1


@pytest.mark.parametrize("least", [1, 2])
def test_pictures_on_a_canvas_end_where_they_end(least):
    rng = np.random.default_rng(1)
    sizes = rng.integers(least, 60, (6, 2))
    canvas = rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    canvas.flags.writeable = False  # as Ray shares it
    owners = rng.integers(0, 6, 40)
    turns = torch.from_numpy(
        np.concatenate([matrices(1, sizes[o].tolist(), 9, 32) for o in owners])
    )
    alone = [canvas[k, :height, :width] for k, (height, width) in enumerate(sizes)]
    expected = align(alone, turns, 32, owners)
    assert torch.equal(align(canvas, turns, 32, owners, sizes), expected)
    whole = torch.from_numpy(canvas.copy())
    assert torch.equal(align(whole, turns, 32, torch.from_numpy(owners), sizes), expected)
    assert worst(expected.numpy()[0], by_opencv(alone[owners[0]], turns[0].numpy(), 32)) <= 1


def test_a_face_without_usable_landmarks_is_cut_by_its_box():
    rng = np.random.default_rng(2)
    boxes = np.array([[100, 100, 200, 240]] * 7, np.float32)
    landmarks = rng.uniform(100, 200, (7, 5, 2)).astype(np.float32)
    landmarks[0] = template(112).numpy() + 80  # a face
    landmarks[1] = np.nan
    landmarks[2, 3, 1] = np.nan
    landmarks[3] = 150
    landmarks[4] = np.inf
    landmarks[5] = np.array([[0, 0], [0, 0], [1e-9, 0], [0, 0], [0, 0]]) + 150
    landmarks[6] = template(112).numpy()[[1, 0, 2, 4, 3]] * 1e9
    found = crop_matrices(boxes, landmarks, 112)
    assert torch.allclose(found[0], similarity(landmarks[:1], 112)[0])
    by_box = box_similarity(boxes[:1], 112)[0]
    assert torch.equal(found[1:], by_box.expand(6, 2, 3))
    side = 140 * (1 + BOX_MARGIN)
    np.testing.assert_allclose(by_box[:, :2], np.eye(2) * 112 / side)
    middle = by_box[:, :2] @ torch.tensor([149.5, 169.5], dtype=torch.float64) + by_box[:, 2]
    np.testing.assert_allclose(middle, [55.5, 55.5 + 0.08 * 112])


def test_what_shows_nothing_is_black_and_nothing_raises():
    image = np.full((50, 60, 3), 255, np.uint8)
    boxes = np.array(
        [[0, 0, 0, 0], [5, 5, 1, 1], [np.nan] * 4, [0, 0, 1e30, 1e30], [-1e9, 0, -1e9 + 50, 40]],
        np.float32,
    )
    turns = crop_matrices(boxes, np.full((5, 5, 2), np.nan, np.float32), 112)
    assert not align(image, turns, 112).any()
    for strange in (np.zeros((1, 2, 3)), np.full((1, 2, 3), np.inf), np.eye(2, 3)[None] * 1e-30):
        assert not align(image, torch.from_numpy(strange), 112).any()
    assert align(image, torch.zeros(0, 2, 3), 112).shape == (0, 112, 112, 3)
    assert align([], torch.zeros(0, 2, 3), 112).shape == (0, 112, 112, 3)
    assert similarity(np.zeros((0, 5, 2)), 112).shape == (0, 2, 3)


def test_faces_of_pictures_that_are_not_there_are_refused():
    image, turns = picture(20, 20, 0), torch.eye(2, 3)[None].repeat(2, 1, 1)
    with pytest.raises(ValueError, match="up to 3, of 2 pictures"):
        align([image, image], turns, 8, [0, 3])
    with pytest.raises(ValueError, match=r"owners \(1,\): of 2 faces"):
        align([image, image], turns, 8, [0])


def test_a_face_from_a_great_picture_is_exact_far_from_its_corner():
    image = np.zeros((40, 30_000, 3), np.uint8)
    image[:] = (np.arange(30_000) % 251)[None, :, None]
    turn = np.array([[1.0, 0, -29_800.25], [0, 1, 3]])
    found = align(image, torch.from_numpy(turn[None]), 112).numpy()[0]
    assert worst(found, by_opencv(image, turn, 112)) <= 1
