"""Random changes of training pictures: in range, from a seed, and true to what they claim."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from vision_ops.augment import AugmentConfig, Draws, augment, mix, warp

MOVED = AugmentConfig(rotation_deg=15, shift=0.1, scale=0.2, flip=True, crop_pad_px=2)
EVERYTHING = replace(MOVED, colour=0.4, randaugment=2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int = 0, rank: int = 0, num_workers: int = 1) -> Draws:
    return Draws(generator=seeded(seed), rank=rank, num_workers=num_workers)


def random_pixels(count: int = 8, height: int = 12, width: int = 16) -> torch.Tensor:
    shape = (count, height, width, 3)
    return torch.randint(0, 256, shape, generator=seeded(9), dtype=torch.uint8)


def test_nothing_to_change_returns_the_very_pixels():
    pixels = random_pixels()
    assert augment(pixels, AugmentConfig(), drawn()) is pixels


def test_same_seed_gives_same_pictures_and_input_stays():
    pixels = random_pixels()
    before = pixels.clone()
    once = augment(pixels, EVERYTHING, drawn(1))
    assert torch.equal(once, augment(pixels, EVERYTHING, drawn(1)))
    assert not torch.equal(once, augment(pixels, EVERYTHING, drawn(2)))
    assert torch.equal(pixels, before)
    assert once.shape == pixels.shape
    assert once.dtype == torch.uint8


def test_picture_of_one_colour_stays_as_it_is():
    pixels = torch.tensor([10, 128, 250], dtype=torch.uint8).expand(5, 12, 16, 3)
    assert torch.equal(augment(pixels, MOVED, drawn()), pixels)


def test_flip_gives_each_picture_or_its_mirror_about_half_each():
    pixels = random_pixels(count=200)
    flipped = augment(pixels, AugmentConfig(flip=True), drawn())
    same = (flipped == pixels).flatten(1).all(dim=1)
    mirror = (flipped == pixels.flip(2)).flatten(1).all(dim=1)
    assert (same ^ mirror).all()
    assert 70 < same.sum() < 130


def test_crop_is_a_window_of_the_padded_picture():
    pixels = random_pixels(count=60)
    cropped = augment(pixels, AugmentConfig(crop_pad_px=2), drawn())
    padded = F.pad(pixels.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="reflect")
    seen = set()
    for picture, whole in zip(cropped, padded, strict=True):
        places = [
            (top, left)
            for top, left in product(range(5), range(5))
            if torch.equal(whole[:, top : top + 12, left : left + 16], picture.permute(2, 0, 1))
        ]
        seen.update(places)
        assert len(places) == 1
    assert len(seen) > 15  # of 25


@pytest.mark.parametrize("num_workers", [2, 4])
def test_picture_is_changed_alike_however_many_workers_there_are(num_workers: int):
    pixels = random_pixels(count=8)
    whole = augment(pixels, EVERYTHING, drawn(3))
    for rank in range(num_workers):
        part = augment(pixels[rank::num_workers], EVERYTHING, drawn(3, rank, num_workers))
        assert torch.equal(part, whole[rank::num_workers])


def test_colour_changes_a_grey_picture_by_one_factor_within_its_range():
    pixels = torch.full((300, 12, 16, 3), 100, dtype=torch.uint8)
    changed = augment(pixels, AugmentConfig(colour=0.3), drawn())
    assert (changed == changed[:, :1, :1, :1]).all()  # no contrast and no saturation to change
    assert 70 <= changed.min() < 75
    assert 125 < changed.max() <= 130


def test_randaugment_leaves_torchs_own_generator_as_it_was():
    before = torch.get_rng_state()
    changed = augment(random_pixels(), AugmentConfig(randaugment=2), drawn())
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(changed, random_pixels())


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(rotation_deg=15, shift=0.1, scale=0.2),
        AugmentConfig(crop_pad_px=2),
        AugmentConfig(flip=True),
        AugmentConfig(colour=0.4),
        AugmentConfig(randaugment=2),
        EVERYTHING,
    ],
)
def test_the_frames_of_a_clip_are_changed_alike_and_clips_apart(config: AugmentConfig):
    still = random_pixels(count=6)[:, None].expand(-1, 5, -1, -1, -1)  # five equal frames each
    changed = augment(still, config, drawn(4))
    assert changed.shape == still.shape
    assert torch.equal(changed, changed[:, :1].expand_as(changed))
    same = random_pixels(count=1)[:, None].expand(30, 2, -1, -1, -1)
    assert len({clip.numpy().tobytes() for clip in augment(same, config, drawn(4))}) > 1
    moving = random_pixels(count=6).unflatten(0, (2, 3))
    assert len({f.numpy().tobytes() for f in augment(moving, config, drawn(4)).flatten(0, 1)}) == 6


def test_a_clip_of_one_frame_is_changed_as_a_picture_is():
    pixels = random_pixels()
    as_clips = augment(pixels[:, None], EVERYTHING, drawn(5))
    assert torch.equal(as_clips[:, 0], augment(pixels, EVERYTHING, drawn(5)))


@pytest.mark.parametrize("num_workers", [2, 4])
def test_a_clip_is_changed_alike_however_many_workers_there_are(num_workers: int):
    clips = random_pixels(count=24).unflatten(0, (8, 3))
    whole = augment(clips, EVERYTHING, drawn(3))
    for rank in range(num_workers):
        part = augment(clips[rank::num_workers], EVERYTHING, drawn(3, rank, num_workers))
        assert torch.equal(part, whole[rank::num_workers])


def test_contrast_keeps_what_changes_from_frame_to_frame():
    """A clip that grows lighter still does: its frames have one mean grey."""
    light = torch.tensor([60, 100, 140], dtype=torch.uint8)[None, :, None, None, None]
    clips = light.expand(40, 3, 12, 16, 3)
    changed = augment(clips, AugmentConfig(colour=0.3), drawn())[:, :, 0, 0, 0].float()
    steps = changed.diff(dim=1)
    assert (steps > 10).all()  # 40 by two factors of 0.7 and more are 19.6
    torch.testing.assert_close(steps[:, 0], steps[:, 1], atol=1.5, rtol=0)


@pytest.mark.parametrize("config", [AugmentConfig(mixup=0.5), AugmentConfig(cutmix=0.5)])
def test_clips_are_mixed_as_a_whole_in_one_way_for_all_their_frames(config: AugmentConfig):
    torch.manual_seed(0)
    target = torch.arange(6)
    clips = target.float()[:, None, None, None, None].expand(6, 4, 3, 12, 16).clone()
    mixed, labels = mix(clips, target, 6, config)
    assert mixed.shape == clips.shape
    assert type(mixed) is torch.Tensor
    assert torch.equal(mixed, mixed[:, :1].expand_as(mixed))
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3, 4)), labels @ target.float())


@pytest.mark.parametrize("config", [AugmentConfig(mixup=0.5), AugmentConfig(cutmix=0.5)])
def test_labels_are_mixed_by_the_share_of_the_pictures(config: AugmentConfig):
    torch.manual_seed(0)
    target = torch.arange(6)
    images = target.float()[:, None, None, None].expand(6, 3, 12, 16).clone()
    mixed, labels = mix(images, target, 6, config)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(6))
    # each picture is its number, so its mean is that of its labels
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), labels @ target.float())
    assert (labels > 0).sum() == 12


@pytest.mark.parametrize("height", [9, 10])
def test_quarter_turn_equals_rot90(height: int):
    images = torch.rand(2, 3, height, height, generator=seeded())
    turn = torch.full((2,), math.pi / 2)
    turned = warp(images, turn, torch.ones(2), torch.zeros(2, 2))
    torch.testing.assert_close(turned, images.rot90(1, dims=(2, 3)), atol=1e-5, rtol=0)


def test_move_by_a_quarter_of_the_width_shifts_to_the_left():
    images = torch.rand(1, 3, 8, 12, generator=seeded())
    moved = warp(images, torch.zeros(1), torch.ones(1), torch.tensor([[0.25, 0.0]]))
    torch.testing.assert_close(moved[..., :9], images[..., 3:], atol=1e-5, rtol=0)


def test_half_turn_of_a_picture_that_is_not_square_keeps_its_pixels():
    images = torch.rand(1, 3, 8, 12, generator=seeded())
    turned = warp(images, torch.tensor([math.pi]), torch.ones(1), torch.zeros(1, 2))
    torch.testing.assert_close(turned, images.flip(2, 3), atol=1e-5, rtol=0)


def test_enlarging_by_two_spreads_the_centre():
    images = torch.zeros(1, 3, 8, 8)
    images[..., 2:6, 2:6] = 1.0
    enlarged = warp(images, torch.zeros(1), torch.full((1,), 2.0), torch.zeros(1, 2))
    assert (enlarged[..., 1:7, 1:7] == 1.0).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AugmentConfig(rotation_deg=-1.0), "rotation_deg -1.0"),
        (lambda: AugmentConfig(rotation_deg=181.0), "rotation_deg 181.0"),
        (lambda: AugmentConfig(shift=1.0), "shift 1.0"),
        (lambda: AugmentConfig(scale=-0.1), "scale -0.1"),
        (lambda: AugmentConfig(crop_pad_px=-1), "crop_pad_px -1"),
        (lambda: AugmentConfig(colour=1.0), "colour 1.0"),
        (lambda: AugmentConfig(mixup=-0.1), "mixup -0.1"),
    ],
)
def test_impossible_values_are_refused_by_name(make: Callable[[], object], said: str):
    with pytest.raises(ValueError, match=f"augment.{said}"):
        make()


def test_padding_as_large_as_the_picture_is_refused():
    with pytest.raises(ValueError, match="crop_pad_px 12"):
        augment(random_pixels(), AugmentConfig(crop_pad_px=12), drawn())
