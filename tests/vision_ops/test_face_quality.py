"""A face that is blurred, small, turned away or hardly recognised is of less quality."""

from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from vision_ops.faces.align import align, crop_matrices, template, visible
from vision_ops.faces.quality import (
    LEAST,
    Quality,
    eye_distances,
    frontality,
    judge,
    recognisability,
    sharpness,
)


def turned(points: np.ndarray, yaw_deg: float = 0, pitch_deg: float = 0, roll_deg: float = 0):
    """A face's five points as a head in space has them: the nose stands out, then all is turned."""
    depth = np.array([0.0, 0.0, 0.55, 0.05, 0.05]) * 35.2
    middle = points[:2].mean(axis=0) * 0.5 + points[3:].mean(axis=0) * 0.5
    head = np.column_stack([points - middle, depth])
    a, b, c = np.radians([yaw_deg, pitch_deg, roll_deg])
    yaw = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    pitch = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    roll = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return (head @ (roll @ yaw @ pitch).T)[:, :2] + middle


def face(points: np.ndarray | None = None) -> dict[str, Any]:
    """One good face: boxes, landmarks and confidence."""
    points = template(112).numpy() if points is None else points
    return {
        "boxes": np.array([[16.0, 5, 94, 115]]),
        "landmarks": points[None],
        "confidence": np.array([1.0]),
    }


def textures(count: int) -> np.ndarray:
    """Crops with large forms and fine detail, as faces have them."""
    rng = np.random.default_rng(0)
    forms = rng.normal(size=(count, 5, 5, 3)).astype(np.float32)
    detail = rng.normal(size=(count, 112, 112, 3)).astype(np.float32)
    crops = [
        128 + 40 * cv2.resize(form, (112, 112), interpolation=cv2.INTER_CUBIC) + 12 * fine
        for form, fine in zip(forms, detail, strict=True)
    ]
    return np.stack(crops).clip(0, 255).astype(np.uint8)


def decreasing(values: list[float] | np.ndarray) -> bool:
    return bool((np.diff(values) < 0).all())


def test_a_face_from_the_front_counts_in_full_however_it_is_tilted_or_large():
    points = template(112).numpy()
    tilted = np.stack([turned(points, roll_deg=angle) * 3.7 for angle in (-80, 0, 30, 175)])
    np.testing.assert_allclose(frontality(tilted), frontality(points[None])[0], atol=1e-9)
    assert frontality(points[None])[0] > 0.95


@pytest.mark.parametrize("axis", ["yaw_deg", "pitch_deg"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_further_a_head_is_turned_the_less_it_counts(axis, sign):
    points = template(112).numpy()
    heads = np.stack([turned(points, **{axis: sign * angle}) for angle in (10, 20, 30, 40, 50)])
    found = frontality(heads)
    assert decreasing(found)
    assert found[-1] < 0.5 * found[0]


def test_landmarks_that_are_none_or_impossible_give_no_number_or_nought():
    points = np.stack([template(112).numpy()] * 4)
    points[0, 2, 0] = np.nan
    points[1] = 50.0
    points[2, :2] = 40.0
    points[3, 3:] = points[3, :2]
    found = frontality(points)
    assert np.isnan(found[0])
    np.testing.assert_array_equal(found[1:], [0.0, 0.0, 0.0])


def test_the_more_a_crop_is_blurred_or_enlarged_the_less_it_counts():
    crops = textures(6)
    blurred = [np.stack([cv2.GaussianBlur(c, (0, 0), s) for c in crops]) for s in (1, 1.2, 1.5)]
    assert decreasing([sharpness(each).mean() for each in [crops, *blurred]])
    small = [cv2.resize(crops[0], (n, n), interpolation=cv2.INTER_AREA) for n in (60, 45, 38)]
    large = np.stack([cv2.resize(each, (112, 112)) for each in small])
    assert decreasing(sharpness(large))
    assert sharpness(large)[-1] < 0.5 * sharpness(large)[0]


def test_sharpness_does_not_depend_on_light_and_contrast_and_one_grey_has_none():
    crops = np.stack([cv2.GaussianBlur(each, (0, 0), 1.5) for each in textures(3)])
    darker = (crops.astype(float) * 0.5 + 20).round().astype(np.uint8)
    np.testing.assert_allclose(sharpness(darker), sharpness(crops), rtol=0.2)
    np.testing.assert_array_equal(sharpness(np.full((2, 64, 64, 3), 77, np.uint8)), [0, 0])


def test_size_is_the_distance_of_the_eyes_even_of_a_face_turned_away_or_without_landmarks():
    points = template(112).numpy()
    seen = np.stack([points, turned(points, yaw_deg=60), points * 2, np.full((5, 2), np.nan)])
    boxes = np.array([[0, 0, 78.0, 110]] * 4)
    front, away, double, unknown = eye_distances(boxes, seen)
    assert front == pytest.approx(35.2, abs=0.3)
    assert away == pytest.approx(front, rel=0.15)
    assert double == pytest.approx(2 * front)
    assert unknown == pytest.approx(front, rel=0.05)


def test_the_score_falls_with_each_part_and_leaves_out_what_nobody_told():
    crops, good = textures(1), face()
    best = judge(crops, **good, visible=np.ones(1), norms=np.array([20.0]), usual_norm=20.0)
    assert best.score[0] > 0.95
    assert best.score.dtype == np.float32
    blurred = np.asarray(cv2.GaussianBlur(crops[0], (0, 0), 3))[None]
    worse: dict[str, Quality] = {
        "confidence": judge(crops, **{**good, "confidence": np.array([0.4])}),
        "size": judge(crops, **{**good, "landmarks": good["landmarks"] / 4}),
        "sharpness": judge(blurred, **good),
        "frontality": judge(crops, **face(turned(template(112).numpy(), yaw_deg=40))),
        "visible": judge(crops, **good, visible=np.array([0.5])),
        "norm": judge(crops, **good, norms=np.array([5.0]), usual_norm=20.0),
    }
    for part, found in worse.items():
        assert getattr(found, part)[0] < 0.9 * getattr(best, part)[0], part
        assert found.score[0] < best.score[0], part
    alone = judge(crops, **{**good, "landmarks": np.full((1, 5, 2), np.nan)})
    assert np.isnan(alone.frontality[0])
    assert np.isnan(alone.norm[0])
    parts = np.array([alone.confidence[0], alone.size[0], alone.sharpness[0]])
    assert alone.score[0] == pytest.approx(np.prod(np.maximum(parts, LEAST)) ** (1 / 3), rel=1e-6)


def test_a_face_cut_by_the_border_is_seen_in_part_and_one_inside_whole():
    points = template(112).numpy()
    inside, outside = points + 20, points - [56, 0]
    boxes, extents = np.zeros((3, 4)), np.full((3, 2), 160)
    turns = crop_matrices(boxes, np.stack([inside, outside, np.full((5, 2), np.nan)]), 112)
    assert visible(turns, 112, extents).tolist() == [1.0, 0.5, 0.0]
    lower = np.array([[160, 160], [160, 84], [160, 160]])  # cut on the other side as well
    assert visible(turns[:1], 112, lower[1:2])[0] == pytest.approx(0.6, abs=0.07)


def test_norms_count_up_to_the_usual_one_and_no_faces_have_no_scores():
    np.testing.assert_allclose(recognisability(np.array([0.0, 5, 10, 40]), 10.0), [0, 0.5, 1, 1])
    none = judge(
        np.zeros((0, 112, 112, 3), np.uint8), np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0)
    )
    assert none.score.shape == (0,)


def test_real_faces_lose_by_blur_and_by_size(shared_data):
    paths = sorted((shared_data / "faces/orl").glob("s*/1.pgm"))
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    boxes = np.array([[2, 5, i.shape[1] - 2, i.shape[0] - 1] for i in images], np.float32)
    unknown = np.full((len(images), 5, 2), np.nan, np.float32)
    turns = crop_matrices(boxes, unknown, 112)
    crops = align(images, turns, 112, range(len(images))).numpy()
    sure = np.ones(len(images), np.float32)
    sharp = judge(crops, boxes, unknown, sure)
    means = [sharp.score]
    for sigma in (1.5, 3):
        blurred = np.stack([cv2.GaussianBlur(crop, (0, 0), sigma) for crop in crops])
        means.append(judge(blurred, boxes, unknown, sure).score)
    assert all((after < before).all() for before, after in zip(means, means[1:], strict=False))
    smaller = judge(crops, boxes / 2, unknown, sure)
    assert (smaller.size < sharp.size).all()
    assert (smaller.score < sharp.score).all()
