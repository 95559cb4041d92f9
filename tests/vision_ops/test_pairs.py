"""Pairs of pictures in one file: taken apart, refused where they are none, varied alike."""

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vision_ops.augment import Draws
from vision_ops.augment_pairs import PairAugmentConfig, augment_pairs
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import make_decoder
from vision_ops.inputs import kind_of_input
from vision_ops.pairs import DecodePair, PairPreprocess

RED, BLUE = (200, 30, 40), (20, 60, 220)


def encoded(width: int, height: int, format: str = "PNG", **options: Any) -> bytes:
    """Red on the left, blue on the right; the middle column of an odd width is blue."""
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, width // 2, height))
    target = io.BytesIO()
    image.save(target, format, **options)
    return target.getvalue()


def decoded(data: bytes, **asked: Any) -> tuple[str, np.ndarray, DecodePair]:
    preprocess = PairPreprocess(**{"height_px": 32, "width_px": 32, **asked})
    decoder = make_decoder(DecodeConfig(), preprocess)
    assert isinstance(decoder, DecodePair)
    out = np.zeros(decoder.shape, decoder.dtype)
    return decoder(data, out), out, decoder


@pytest.mark.parametrize(("source", "given", "made"), [("right", BLUE, RED), ("left", RED, BLUE)])
@pytest.mark.parametrize("size", [(64, 32), (512, 256), (34, 17)])
def test_halves_become_source_and_target_and_nothing_of_one_bleeds_into_the_other(
    source: str, given: tuple[int, ...], made: tuple[int, ...], size: tuple[int, int]
):
    reason, out, decoder = decoded(encoded(*size), source=source)
    assert reason == ""
    assert (out[0] == given).all()
    assert (out[1] == made).all()
    assert decoder.extent == (size[1], size[0] // 2)
    assert decoder.suffixes == tuple(sorted(decoder.suffixes))
    assert ".jpg" in decoder.suffixes


def test_a_half_of_other_size_is_resized_as_a_whole():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 80, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    _, out, _ = decoded(target.getvalue(), interpolation="bicubic")
    for half, place in ((out[1], slice(40)), (out[0], slice(40, 80))):
        alone = Image.fromarray(pixels[:, place]).resize((32, 32), Image.Resampling.BICUBIC)
        assert np.array_equal(half, np.asarray(alone))


def test_proportions_of_a_half_may_be_others_where_that_is_asked_for():
    assert decoded(encoded(64, 64), width_px=16)[0] == ""
    assert "16 x 32 are wanted" in decoded(encoded(64, 32), width_px=16)[0]
    assert decoded(encoded(66, 32))[0] == ""  # by 3 % only
    for size in ((64, 20), (64, 51)):
        assert "(tolerance 0.05)" in decoded(encoded(*size))[0]
        assert decoded(encoded(*size), tolerance=0.6)[0] == ""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encoded(63, 32), "no pair of pictures side by side: 63 x 32 px (width x height), an odd"),
        (encoded(64, 64), "halves of 32 x 64 where 32 x 32 are wanted"),
        (encoded(32, 64), "halves of 16 x 64"),
        (encoded(72, 32), "halves of 36 x 32"),
        (encoded(64, 32)[:80], "truncated PNG"),
        (b"", "empty file"),
        (b"no picture", "not an image"),
    ],
)
def test_what_is_no_pair_is_refused_with_the_reason(data: bytes, said: str):
    reason, out, _ = decoded(data)
    assert said in reason
    assert not out.any()


def test_pairs_turned_by_exif_are_taken_apart_upright():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: red is on the right
    reason, out, _ = decoded(encoded(64, 32, "JPEG", quality=100, subsampling=0, exif=exif))
    assert reason == ""
    assert np.abs(out[0].astype(int) - RED).max() < 6


def test_the_decoder_travels_and_says_what_it_makes():
    preprocess = PairPreprocess(height_px=8, width_px=16)
    decoder = pickle.loads(pickle.dumps(make_decoder(DecodeConfig(), preprocess)))
    assert decoder.shape == preprocess.shape == (2, 8, 16, 3)
    assert kind_of_input(preprocess) == "pair"
    assert "right half given" in preprocess.describe()["pixels"]
    with pytest.raises(ValueError, match="height_px 0"):
        PairPreprocess(height_px=0)
    with pytest.raises(ValueError, match="tolerance -1"):
        PairPreprocess(tolerance=-1)


def draws(seed: int = 0, **more: Any) -> Draws:
    return Draws(generator=torch.Generator().manual_seed(seed), **more)


def ramps(count: int = 16, side: int = 24) -> torch.Tensor:
    """Pairs of which both pictures are one smooth picture, and another for each pair."""
    rows, columns = np.mgrid[0:side, 0:side]
    each = [
        np.stack([rows * 9 + k, columns * 9 + k, (rows + columns) * 4 + k], axis=-1)
        for k in range(count)
    ]
    pixels = torch.from_numpy(np.stack(each).clip(0, 255).astype(np.uint8))
    return torch.stack([pixels, pixels], dim=1)


def test_both_pictures_of_a_pair_are_changed_alike_and_pairs_differently():
    pixels = ramps()
    found = augment_pairs(pixels, PairAugmentConfig(), draws())
    assert found.shape == pixels.shape
    assert found.dtype == torch.uint8
    assert torch.equal(found[:, 0], found[:, 1])
    offsets = (found.float() - pixels.float()).mean(dim=(2, 3))[:, 0]
    assert len(offsets.unique(dim=0)) == len(pixels)
    mirrored = found[:, 0, 12, 0, 1] > found[:, 0, 12, -1, 1]
    assert 3 <= mirrored.sum() <= 13


def test_jitter_enlarges_by_its_fraction_and_shows_nothing_from_outside():
    found = augment_pairs(ramps(), PairAugmentConfig(jitter=0.2, flip=False), draws())
    ups = found[:, 0, :, 12, 0].float()
    slopes = (ups[:, -4] - ups[:, 3]) / (24 - 7)
    assert slopes == pytest.approx(torch.full((16,), 9 / 1.2), abs=0.15)
    assert torch.equal(ups.sort(dim=1).values, ups)  # no border is repeated or mirrored
    firsts = ups[:, 0] - torch.arange(16)
    assert firsts.min() >= 0
    assert firsts.max() <= 9 * 24 / 6


def test_without_jitter_a_pair_is_itself_or_its_mirror_image():
    pixels = ramps()
    assert augment_pairs(pixels, PairAugmentConfig(jitter=0, flip=False), draws()) is pixels
    found = augment_pairs(pixels, PairAugmentConfig(jitter=0), draws())
    for before, after in zip(pixels, found, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(2))


def test_workers_change_pairs_as_one_would():
    pixels, config = ramps(), PairAugmentConfig()
    whole = augment_pairs(pixels, config, draws())
    for rank in range(2):
        mine = augment_pairs(pixels[rank::2], config, draws(rank=rank, num_workers=2))
        assert torch.equal(mine, whole[rank::2])


def test_impossible_jitter_is_refused():
    with pytest.raises(ValueError, match="augment.jitter 1"):
        PairAugmentConfig(jitter=1)
