"""A box goes where the pixels of what it surrounds go."""

import math
from dataclasses import replace

import pytest
import torch

from vision_ops.augment import AugmentConfig, Draws
from vision_ops.augment_boxes import augment_with_boxes, check_box_augment, mirror, move_boxes

HEIGHT, WIDTH = 48, 64
MOVED = AugmentConfig(shift=0.2, scale=0.3, flip=True)


def drawn(seed: int = 0, rank: int = 0, num_workers: int = 1) -> Draws:
    generator = torch.Generator().manual_seed(seed)
    return Draws(generator=generator, rank=rank, num_workers=num_workers)


def rectangles(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """White rectangles on black and their boxes in parts of the picture, well inside."""
    random = torch.Generator().manual_seed(seed)
    pixels, boxes = torch.zeros(count, HEIGHT, WIDTH, 3, dtype=torch.uint8), torch.zeros(count, 4)
    for row in range(count):
        x0, y0 = (int(torch.randint(16, 26, (), generator=random)) for _ in range(2))
        x1, y1 = x0 + int(torch.randint(8, 20, (), generator=random)), y0 + 8
        pixels[row, y0:y1, x0:x1] = 255
        boxes[row] = torch.tensor([x0 / WIDTH, y0 / HEIGHT, x1 / WIDTH, y1 / HEIGHT])
    return pixels, boxes


def boxes_of(pixels: torch.Tensor) -> torch.Tensor:
    """Tight boxes in pixels around what is more white than black."""
    found = []
    for picture in pixels[..., 0] > 127:
        rows, columns = picture.any(dim=1).nonzero()[:, 0], picture.any(dim=0).nonzero()[:, 0]
        found.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return torch.tensor(found).float()


SIDES = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])


def test_nothing_to_change_returns_the_very_tensors():
    pixels, boxes = rectangles(3)
    same = augment_with_boxes(pixels, boxes, AugmentConfig(), drawn())
    assert same[0] is pixels
    assert same[1] is boxes


def test_mirrored_box_is_exactly_that_of_the_mirrored_pixels():
    pixels, boxes = rectangles(40)
    changed, moved = augment_with_boxes(pixels, boxes, AugmentConfig(flip=True), drawn())
    torch.testing.assert_close(moved * SIDES, boxes_of(changed))
    assert 8 < (moved != boxes).any(dim=1).sum() < 32


def test_mirroring_twice_is_nothing():
    _, boxes = rectangles(5)
    torch.testing.assert_close(mirror(mirror(boxes)), boxes)


@pytest.mark.parametrize("seed", range(4))
def test_moved_scaled_and_mirrored_box_is_that_of_the_pixels_to_half_a_pixel(seed: int):
    pixels, boxes = rectangles(60, seed)
    changed, moved = augment_with_boxes(pixels, boxes, MOVED, drawn(seed))
    assert ((moved * SIDES - boxes_of(changed)).abs() <= 0.51).all()
    assert (moved != boxes).any(dim=1).all()


def test_turned_box_surrounds_the_turned_rectangle_tightly():
    pixels, boxes = rectangles(60)
    config = AugmentConfig(rotation_deg=30, shift=0.1)
    changed, moved = augment_with_boxes(pixels, boxes, config, drawn())
    # a corner's own pixel is half grey at best: up to one and a half are lost at each
    assert ((moved * SIDES - boxes_of(changed)).abs() <= 1.5).all()


def test_quarter_turn_of_a_square_picture_by_hand():
    box = torch.tensor([[0.1, 0.2, 0.3, 0.6]])
    turn, size = torch.tensor([math.pi / 2]), torch.ones(1)
    turned = move_boxes(box, turn, size, torch.zeros(1, 2), 1.0)
    torch.testing.assert_close(turned, torch.tensor([[0.2, 0.7, 0.6, 0.9]]))  # counter-clockwise


def test_picture_whose_thing_would_leave_it_stays_in_place():
    pixels = torch.zeros(200, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    pixels[:, :6, :6] = 255
    boxes = torch.tensor([[0, 0, 6 / WIDTH, 6 / HEIGHT]]).expand(200, 4).contiguous()
    changed, moved = augment_with_boxes(pixels, boxes, AugmentConfig(shift=0.3), drawn())
    stayed = (moved == boxes).all(dim=1)
    assert torch.equal(changed[stayed], pixels[stayed])
    assert 20 < stayed.sum() < 180
    area = ((moved[:, 2:] - moved[:, :2]) * SIDES[:2]).prod(dim=1)
    assert (area >= 0.5 * 36 - 1e-3).all()


@pytest.mark.parametrize("num_workers", [2, 4])
def test_picture_is_changed_alike_however_many_workers_there_are(num_workers: int):
    pixels, boxes = rectangles(8)
    config = replace(MOVED, colour=0.3, rotation_deg=9)
    whole = augment_with_boxes(pixels, boxes, config, drawn(3))
    for rank in range(num_workers):
        mine = slice(rank, None, num_workers)
        draws = drawn(3, rank, num_workers)
        part = augment_with_boxes(pixels[mine], boxes[mine], config, draws)
        assert torch.equal(part[0], whole[0][mine])
        assert torch.equal(part[1], whole[1][mine])


@pytest.mark.parametrize("name", ["crop_pad_px", "randaugment", "mixup", "cutmix"])
def test_change_that_does_not_say_where_a_box_goes_is_refused_by_name(name: str):
    with pytest.raises(ValueError, match=f"augment.{name}: not with boxes"):
        check_box_augment(AugmentConfig(**{name: 1}))  # pyright: ignore[reportArgumentType]
