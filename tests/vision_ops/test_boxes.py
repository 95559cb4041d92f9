"""Boxes between originals and networks, their losses, and how good they are."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.ops import box_iou

from vision_ops.boxes import area, clip, to_network, to_original
from vision_ops.losses.boxes import box_loss, giou_loss, smooth_l1
from vision_ops.metrics.boxes import BoxAccumulator, iou
from vision_ops.metrics.detection import PrecisionAccumulator
from vision_ops.preprocess import Preprocess, fit

SQUASH = Preprocess(height_px=60, width_px=90, resize_px=0, interpolation="nearest")
CROP = Preprocess(height_px=48, width_px=40, resize_px=64, interpolation="bilinear")
PADS = Preprocess(height_px=80, width_px=80, resize_px=40, interpolation="bilinear")
sides = st.integers(1, 3000)
corner = st.floats(0, 1)
edges = st.tuples(corner, corner, corner, corner).map(
    lambda e: [min(e[0], e[2]), min(e[1], e[3]), max(e[0], e[2]), max(e[1], e[3])]
)


@pytest.mark.parametrize("preprocess", [SQUASH, CROP, PADS])
@given(height=sides, width=sides, part=edges)
def test_boxes_go_to_the_network_and_back(preprocess, height, width, part):
    box = np.array([part]) * [width, height, width, height]
    there = to_network(box, [(height, width)], preprocess)
    back = to_original(there, [(height, width)], preprocess)
    np.testing.assert_allclose(back, box, atol=1e-9 * max(height, width), rtol=1e-12)


@pytest.mark.parametrize("preprocess", [SQUASH, CROP, PADS])
@pytest.mark.parametrize("size", [(120, 200), (200, 120), (90, 90)])
def test_box_lies_where_the_pixels_of_a_drawn_rectangle_went(preprocess, size):
    height, width = size
    box = np.array([[width * 0.4, height * 0.3, width * 0.7, height * 0.6]]).round()
    pixels = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box[0].astype(int)
    pixels[y0:y1, x0:x1] = 255
    seen = np.asarray(fit(Image.fromarray(pixels), preprocess))[..., 0] > 127
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    wanted = clip(to_network(box, [size], preprocess), [preprocess.shape[:2]])[0]
    np.testing.assert_allclose(found, wanted, atol=1.0)


def test_box_that_a_centre_crop_cuts_away_has_no_area_in_it():
    placed = to_network(np.array([[0.0, 0.0, 10.0, 10.0]]), [(100, 400)], CROP)
    assert area(clip(placed, [(48, 40)]))[0] == 0


def test_boxes_are_cut_off_at_their_own_pictures_edges():
    boxes = np.array([[-5.0, 2.0, 30.0, 9.0], [-5.0, 2.0, 30.0, 9.0]])
    assert clip(boxes, [(8, 20), (50, 60)]).tolist() == [[0, 2, 20, 8], [0, 2, 30, 9]]


@given(a=edges, b=edges)
def test_iou_is_symmetric_and_one_of_a_box_with_itself(a, b):
    first, second = np.array([a]), np.array([b])
    assert iou(first, second) == iou(second, first)
    assert 0 <= iou(first, second)[0] <= 1
    assert iou(first, first)[0] == (1 if area(first)[0] > 0 else 0)


@given(
    boxes=st.lists(edges, min_size=1, max_size=5), others=st.lists(edges, min_size=1, max_size=5)
)
def test_iou_equals_torchvisions(boxes, others):
    a, b = np.array(boxes) + [0, 0, 0.1, 0.1], np.array(others) + [0, 0, 0.1, 0.1]
    wanted = box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(iou(a[:, None], b[None]), wanted, atol=1e-12)


def test_iou_and_giou_of_two_boxes_by_hand():
    a, b = np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 1.0, 4.0, 3.0]])
    assert iou(a, b)[0] == pytest.approx(1 / 9)  # 1 shared, 4 + 6 - 1 together
    tensors = (torch.from_numpy(each) for each in (a, b))  # hull 4 x 3: 12, of which 3 are neither
    assert giou_loss(*tensors).item() == pytest.approx(1 - (1 / 9 - 3 / 12))


def test_box_loss_of_one_edge_by_hand():
    found = torch.tensor([[0.2, 0.2, 0.6, 0.6], [0.2, 0.2, 0.6, 0.6]], dtype=torch.float64)
    truth = torch.tensor([[0.2, 0.2, 0.7, 0.6], [0.2, 0.2, 0.62, 0.6]], dtype=torch.float64)
    far, near = (0.1 - 0.025) / 4, 0.02**2 / (2 * 0.05) / 4
    assert smooth_l1(found, truth).tolist() == pytest.approx([far, near])
    losses = [5 * far + 2 * (1 - 0.16 / 0.2), 5 * near + 2 * (1 - 0.4 / 0.42)]
    assert box_loss(found, truth).tolist() == pytest.approx(
        losses, rel=1e-4
    )  # torchvision adds 1e-7 below
    assert box_loss(truth, truth).tolist() == pytest.approx([0, 0], abs=1e-5)


def test_boxes_that_do_not_touch_are_pulled_together():
    found = torch.tensor([[0.0, 0.0, 0.1, 0.1]], requires_grad=True)
    giou_loss(found, torch.tensor([[0.8, 0.8, 0.9, 0.9]])).sum().backward()
    assert found.grad is not None
    assert (found.grad[0, 2:] < 0).all()


def test_sums_by_class_are_those_of_a_loop():
    truth = np.array([0, 1, 1, -1, 0])
    overlap = np.array([0.9, 0.5, 0.75, 0.61, 0.0])
    right = np.array([True, True, True, False, True])
    counted = BoxAccumulator(3)
    counted.update(truth, overlap, right)
    result = counted.result()
    assert result.mean_iou == pytest.approx(2.76 / 5)
    assert result.above_half == pytest.approx(3 / 5)  # 0.5 is not above
    assert result.localisation_accuracy == pytest.approx(2 / 4)  # one is of no known class
    assert result.support.tolist() == [2, 2, 0]
    assert result.accuracy == 1.0
    assert {n: c for n, c in enumerate(result.histogram.tolist()) if c} == {
        0: 1, 10: 1, 12: 1, 15: 1, 18: 1,
    }  # fmt: skip
    np.testing.assert_allclose(result.class_iou, [0.45, 0.625, np.nan])
    np.testing.assert_allclose(result.class_accuracy, [0.5, 0.5, np.nan])


@given(cut=st.integers(0, 30), seed=st.integers(0, 99))
def test_any_batching_and_merging_gives_the_same_numbers(cut, seed):
    random = np.random.default_rng(seed)
    truth, overlap = random.integers(-1, 4, 30), random.uniform(0, 1, 30)
    right = random.integers(0, 2, 30).astype(bool)
    whole, head, tail = (BoxAccumulator(4) for _ in range(3))
    whole.update(truth, overlap, right)
    head.update(truth[:cut], overlap[:cut], right[:cut])
    tail.update(truth[cut:], overlap[cut:], right[cut:])
    tail.merge(head)
    first, second = whole.result(), tail.result()
    assert (first.mean_iou, first.above_half) == (second.mean_iou, second.above_half)
    np.testing.assert_array_equal(first.class_iou, second.class_iou)
    np.testing.assert_array_equal(first.class_recall, second.class_recall)
    np.testing.assert_array_equal(first.histogram, second.histogram)
    assert first.histogram.sum() == 30
    known = truth >= 0
    assert first.accuracy == pytest.approx(right[known].mean(), nan_ok=True)


def test_overlap_that_is_no_share_and_class_that_is_none_are_refused():
    counted = BoxAccumulator(2)
    with pytest.raises(ValueError, match="overlap"):
        counted.update(np.array([0]), np.array([np.nan]), np.array([True]))
    with pytest.raises(ValueError, match=r"accepted: -1\.\.1"):
        counted.update(np.array([2]), np.array([0.5]), np.array([True]))


def test_precision_falls_by_the_false_box_that_was_surer():
    """Two pictures of one class. The surest box is wrong, so precision is 1/2, then 2/3."""
    ranked = PrecisionAccumulator()
    box, far = [[10.0, 10.0, 50.0, 50.0]], [[60.0, 60.0, 90.0, 90.0]]
    one = np.array([0])
    ranked.update(np.array(far + box), np.array([0.9, 0.8]), np.array([0, 0]), np.array(box), one)
    ranked.update(np.array(box), np.array([0.7]), one, np.array(box), one)
    assert ranked.result().at_50 == pytest.approx(2 / 3, abs=1e-6)  # interpolated: 2/3 everywhere
    assert ranked.result().per_class == {0: pytest.approx(2 / 3, abs=1e-6)}
