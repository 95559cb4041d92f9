"""Signals: bytes to samples or a reason, fitted, scaled, seen by a network, drawn."""

import io
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision_ops.augment import AugmentConfig
from vision_ops.card import Card, card_from_json, card_to_json
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import make_decoder
from vision_ops.learners.classify import ClassifierLearnerConfig, ModelConfig
from vision_ops.normalize import normalize
from vision_ops.resampling import resample
from vision_ops.signals import SignalPreprocess, fit_signal, plot, read_signal

RAW = SignalPreprocess(samples=4, num_channels=2, fit="crop_or_pad", scaling="none")


def npy(values: np.ndarray, **options: bool) -> bytes:
    target = io.BytesIO()
    np.save(target, values, **options)
    return target.getvalue()


def decode(data: bytes, preprocess: SignalPreprocess, **config: float) -> tuple[np.ndarray, str]:
    decoder = make_decoder(DecodeConfig(**config), preprocess)  # pyright: ignore[reportArgumentType]
    out = np.full(decoder.shape, np.nan, decoder.dtype)
    return out, decoder(data, out)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int16, np.uint8, ">f8"])
def test_an_array_of_any_real_type_is_the_signal(dtype):
    values = np.arange(8).reshape(4, 2)
    out, reason = decode(npy(values.astype(dtype)), RAW)
    assert reason == ""
    assert np.array_equal(out, values)
    fortran = np.asfortranarray(values.astype(dtype))
    assert np.array_equal(decode(npy(fortran), RAW)[0], values)


@pytest.mark.parametrize(
    "text",
    [
        "1,2\n3,4\n5,6\n7,8\n",
        "left,right\n1,2\n3,4\n5,6\n7,8",
        "\ufeffa;b\r\n1;2\r\n3;4\r\n5;6\r\n7;8\r\n",
        "1\t2\n3\t4\n5\t6\n7\t8",
        "1 2\n3 4\n  5   6\n7 8\n\n",
    ],
)
def test_a_csv_has_a_sample_a_line_with_or_without_names(text):
    out, reason = decode(text.encode(), RAW)
    assert reason == ""
    assert out.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_a_csv_of_one_line_is_one_channel():
    assert read_signal(b"1, 2, 3").tolist() == [[1], [2], [3]]


def test_the_extent_is_that_of_the_original():
    decoder = make_decoder(DecodeConfig(), SignalPreprocess(samples=9))
    assert decoder(npy(np.arange(5.0)), np.zeros(decoder.shape, decoder.dtype)) == ""
    assert decoder.extent == (5, 1)


HUGE = npy(np.zeros((4, 2))).replace(b"(4, 2)", b"(9999999999, 2)")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty file"),
        (b"  \n", "empty"),
        (npy(np.zeros((0, 2))), "empty"),
        (npy(np.zeros((4, 0))), "empty"),
        (npy(np.zeros((4, 2)))[:-1], "truncated: 63 bytes of 64"),
        (npy(np.zeros((4, 2)))[:20], "damaged .npy header"),
        (b"\x93NUMPY\x09\x00" + bytes(80), "version"),
        (HUGE, "9999999999 x 2 values, more than the 100,000,000 allowed"),
        (npy(np.array([[1, np.nan], [2, np.inf]])), "2 of 4 values are missing or infinite"),
        (npy(np.full((4, 2), 1e300)), "8 of 8 values are missing or infinite"),
        (npy(np.zeros((2, 4))), r"2 x 4 \(samples x channels\), wanted are 2 channels"),
        (npy(np.zeros(4)), "wanted are 2 channels"),
        (npy(np.zeros((2, 2, 2))), "3 axes"),
        (npy(np.array(1.0)), "0 axes"),
        (npy(np.zeros((4, 2), complex)), "complex128"),
        (npy(np.array([["a"]])), "<U1"),
        (npy(np.array([[{}]], object), allow_pickle=True), "object"),
        (b"1,2\n3\n", "no table of numbers"),
        (b"1,2\n3,x\n", "no table of numbers"),
        (b"1,2\n3,nan\n", "1 of 4 values"),
        (b"left,right\n", "no signal"),
        (b"<!DOCTYPE html>\n<p>404\n", "no table of numbers"),
        (bytes(range(256)), "neither a .npy file nor text"),
    ],
)
def test_what_is_no_signal_has_a_reason(data: bytes, said: str):
    _, reason = decode(data, RAW)
    assert re.search(said, reason), reason


def test_a_larger_file_or_signal_than_allowed_is_refused():
    data = npy(np.zeros((4, 2)))
    assert "megabytes" in decode(data, RAW, max_megabytes=1e-4)[1]
    assert "more than the 6 allowed" in decode(data, RAW, max_megapixels=6e-6)[1]


@settings(max_examples=60)
@given(data=st.binary(max_size=200), cut=st.integers(0, 200), place=st.integers(0, 150))
def test_no_bytes_raise(data: bytes, cut: int, place: int):
    whole = npy(np.arange(8.0).reshape(4, 2))
    for each in (data, whole[:cut], whole[:place] + data[:3] + whole[place + 3 :]):
        out, reason = decode(each, RAW)
        assert reason or np.isfinite(out).all()


@pytest.mark.parametrize(("length", "size"), [(7, 7), (150, 128), (128, 150), (1000, 37), (3, 64)])
def test_resampling_is_what_torch_does_to_a_row_of_pixels(length, size):
    values = np.random.default_rng(0).normal(size=(length, 2)).astype(np.float32)
    row = torch.from_numpy(values.T.copy())[None, :, None]  # (1, 2, 1, L)
    wanted = F.interpolate(row, (1, size), mode="bilinear", antialias=True, align_corners=False)
    found = resample(values, size, axis=0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted[0, :, 0].T.numpy(), atol=3e-5)


def test_what_is_too_fast_for_fewer_samples_is_averaged_away_not_folded():
    fast = np.where(np.arange(1000) % 2, 1.0, -1.0).astype(np.float32)[:, None]
    assert np.abs(resample(fast, 90, axis=0)[2:-2]).max() < 0.02


def test_crop_takes_the_middle_and_padding_stands_at_both_ends():
    signal = np.arange(1.0, 6.0, dtype=np.float32)[:, None]
    keep = SignalPreprocess(samples=3, fit="crop_or_pad", scaling="none")
    pad = SignalPreprocess(samples=8, fit="crop_or_pad", scaling="none")
    assert fit_signal(signal, keep)[:, 0].tolist() == [2, 3, 4]
    assert fit_signal(signal, pad)[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 0]


@pytest.mark.parametrize("fit", ["resample", "crop_or_pad"])
def test_each_channel_is_standardised_by_itself_and_padding_is_its_mean(fit):
    values = np.random.default_rng(0).normal((5, -300), (1, 70), (50, 2))
    for samples in (40, 50, 80):
        wanted = SignalPreprocess(samples=samples, num_channels=2, fit=fit)
        out, reason = decode(npy(values), wanted)
        assert reason == ""
        is_padded = samples == 80 and fit == "crop_or_pad"
        seen = out[15:65] if is_padded else out
        np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(seen.std(axis=0), 1, atol=1e-5)
        assert out[:15].any() != is_padded


def test_a_constant_channel_becomes_zeros_not_noise():
    out, reason = decode(npy(np.full(77, 0.1)), SignalPreprocess(samples=33))
    assert reason == ""
    assert not out.any()


def test_a_network_sees_channels_first():
    batch = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    batch.flags.writeable = False
    seen = normalize(batch, RAW, "cpu")
    assert seen.shape == (3, *RAW.network_shape)
    assert np.array_equal(seen.numpy(), batch.transpose(0, 2, 1))


def test_a_card_keeps_how_signals_are_prepared():
    card = Card(
        network="convnet_1d", classes=("a", "b"), preprocess=RAW, licence="none", source="test",
        embedding_size=128,
    )  # fmt: skip
    assert card_from_json(card_to_json(card)) == card
    with pytest.raises(ValueError, match=r"samples 0: must be 1\.\."):
        card_from_json(card_to_json(card).replace('"samples": 4', '"samples": 0'))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples": 0}, "samples 0"),
        ({"num_channels": 5000}, "num_channels 5000"),
        ({"fit": "stretch"}, "fit 'stretch': not one of"),
        ({"scaling": "max"}, "scaling 'max': not one of"),
    ],
)
def test_impossible_values_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        SignalPreprocess(**options)


def test_changes_for_pictures_are_refused_by_name():
    model = ModelConfig(network="convnet_1d", preprocess=RAW)
    with pytest.raises(ValueError, match=r"augment.shift 0.1: is for pictures; inputs of kind sig"):
        ClassifierLearnerConfig(
            model=model, augment=AugmentConfig(shift=0.1), classes=("a", "b"), num_steps=1
        )


def test_the_thumbnail_draws_the_line_where_the_signal_is():
    rising = plot(npy(np.arange(50.0)), 96)
    image = np.asarray(Image.open(io.BytesIO(rising)).convert("L"))
    assert image.shape == (72, 96)
    ink = [np.flatnonzero(image[:, x] < 200).mean() for x in (10, 48, 86)]
    assert ink[0] > 55
    assert abs(ink[1] - 36) < 3
    assert ink[2] < 17
    for values in (np.zeros(5), np.ones(1), np.zeros((9, 20))):
        assert plot(npy(values)).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="empty"):
        plot(b"")
