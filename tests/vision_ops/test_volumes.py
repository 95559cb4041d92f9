"""Volumes: NIfTI and .npy to voxels or a reason, turned, resampled, scaled, seen, drawn."""

import gzip
import io
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.funcs import as_closest_canonical
from nibabel.loadsave import load
from nibabel.nifti1 import Nifti1Image
from nibabel.nifti2 import Nifti2Image
from PIL import Image

from vision_ops.card import Card, card_from_json, card_to_json
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import make_decoder
from vision_ops.normalize import normalize
from vision_ops.resampling import resample
from vision_ops.volumes import VolumePreprocess, middle_slice, read_volume

SIZE = (5, 6, 4)
"""X, Y, Z of the volumes made here"""
VALUES = np.random.default_rng(0).integers(0, 200, SIZE).astype(np.uint8)
SMALL = VolumePreprocess(depth=4, height=6, width=5, scaling="none")


def nifti(values: np.ndarray, affine: np.ndarray | None = None, kind: type = Nifti1Image) -> bytes:
    return kind(values, np.eye(4) if affine is None else affine).to_bytes()


def npy(values: np.ndarray) -> bytes:
    target = io.BytesIO()
    np.save(target, values)
    return target.getvalue()


def decode(data: bytes, preprocess: VolumePreprocess = SMALL, **config: float):
    decoder = make_decoder(DecodeConfig(**config), preprocess)  # pyright: ignore[reportArgumentType]
    out = np.full(decoder.shape, np.nan, decoder.dtype)
    return out, decoder(data, out), decoder.extent


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("kind", [Nifti1Image, Nifti2Image])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_nifti_of_both_versions_packed_or_not_is_depth_height_width(dtype, kind, pack):
    out, reason, extent = decode(pack(nifti(VALUES.astype(dtype), kind=kind)))
    assert reason == ""
    assert extent == (4, 6, 5)
    assert np.array_equal(out, VALUES.transpose(2, 1, 0))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR", "IAL", "SRP"])
def test_however_a_scanner_stores_it_a_volume_stands_upright(axes):
    original = Nifti1Image(VALUES, np.diag([2.0, 3.0, 4.0, 1.0]))
    orientation = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt(("R", "A", "S")),
        nibabel.orientations.axcodes2ornt(tuple(axes)),
    )
    stored = original.as_reoriented(orientation)  # pyright: ignore[reportArgumentType]
    assert "".join(nibabel.orientations.aff2axcodes(stored.affine)) == axes
    assert np.array_equal(read_volume(stored.to_bytes()), VALUES.transpose(2, 1, 0))


def test_slope_and_intercept_are_applied():
    image = Nifti1Image(VALUES.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(2.5, -100)
    data = image.to_bytes()
    expected = Nifti1Image.from_bytes(data).get_fdata()
    assert np.array_equal(read_volume(data), expected.transpose(2, 1, 0).astype(np.float32))
    assert expected.min() < 0


def test_a_run_becomes_its_mean_over_time():
    run = np.stack([VALUES, VALUES + 10.0, VALUES + 50.0], axis=3)
    np.testing.assert_allclose(read_volume(nifti(run)), VALUES.transpose(2, 1, 0) + 20.0)
    one = nifti(VALUES[..., None, None])
    assert np.array_equal(read_volume(one), VALUES.transpose(2, 1, 0))


def test_an_array_is_taken_as_depth_height_width():
    volume = np.random.default_rng(0).normal(size=(4, 6, 5))
    assert np.array_equal(read_volume(npy(volume)), volume.astype(np.float32))


def header_with(at: int, value: bytes) -> bytes:
    data = bytearray(nifti(VALUES))
    data[at : at + len(value)] = value
    return bytes(data)


WHOLE = nifti(VALUES)
PACKED = gzip.compress(WHOLE)
NOT_FINITE = VALUES.astype(np.float32) * np.where(VALUES.max() == VALUES, np.nan, 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty file"),
        (b"\x89PNG" + bytes(600), "neither a NIfTI file nor a .npy file"),
        (WHOLE[:200], "not even its header"),
        (WHOLE[:-1], "truncated NIfTI: 471 bytes of 472"),
        (PACKED[:-9], "truncated gzip"),
        (PACKED[:150], "truncated gzip"),
        (PACKED[:-8] + bytes(8), "damaged gzip"),
        (gzip.compress(b"hello"), "neither a NIfTI file"),
        (gzip.compress(WHOLE + bytes(2 << 20)), "more bytes than its header tells of"),
        (header_with(40, b"\x03\x00\xff\x7f\xff\x7f\xff\x7f"), "more than the 100,000,000 allowed"),
        (header_with(40, b"\x03\x00\x00\x00"), "empty"),
        (header_with(40, b"\x09\x00"), "damaged NIfTI header: dim"),
        (header_with(40, b"\x03\x00\xfb\xff"), "damaged NIfTI header: dim"),
        (header_with(40, b"\x02\x00"), "a volume has three axes"),
        (header_with(70, b"\x99\x33"), "damaged NIfTI header"),
        (header_with(70, b"\x20\x00"), "complex64"),
        (header_with(70, b"\x80\x00"), "voxels of type"),
        (header_with(108, bytes(4)), "voxels begin at byte 0"),
        (header_with(344, b"ni1\x00"), "without its voxels"),
        (header_with(280, bytes(48)), "axes have no direction"),
        (nifti(NOT_FINITE), "values are missing or infinite"),
        (nifti(np.zeros((2, 2, 2, 2, 3), np.uint8)), "2 x 2 x 2 x 2 x 3: a volume has three axes"),
        (npy(np.zeros((3, 4))), "2 axes"),
        (npy(np.zeros((3, 4, 5), complex)), "complex128"),
        (npy(np.full((3, 4, 5), np.inf)), "60 of 60"),
    ],
)
def test_what_is_no_volume_has_a_reason(data: bytes, said: str):
    _, reason, _ = decode(data)
    assert re.search(said, reason), reason


def test_a_claimed_size_takes_no_memory():
    """4,000 x 4,000 x 4,000 voxels in 300 bytes of gzip: refused by the header alone."""
    bomb = header_with(40, b"\x03\x00" + (4000).to_bytes(2, "little") * 3)
    assert "4000 x 4000 x 4000 values" in decode(gzip.compress(bomb))[1]
    within = header_with(40, b"\x03\x00" + (400).to_bytes(2, "little") * 3)
    assert "truncated NIfTI" in decode(gzip.compress(within))[1]
    assert "megabytes" in decode(WHOLE, max_megabytes=1e-4)[1]


@settings(max_examples=100)
@given(place=st.integers(0, 360), junk=st.binary(min_size=1, max_size=8), packed=st.booleans())
def test_damaged_bytes_never_raise(place: int, junk: bytes, packed: bool):
    data = WHOLE[:place] + junk + WHOLE[place + len(junk) :]
    out, reason, _ = decode(gzip.compress(data) if packed else data, max_megapixels=1.0)
    assert reason or np.isfinite(out).all()


@settings(max_examples=50)
@given(place=st.integers(2, len(PACKED) - 1), junk=st.binary(min_size=1, max_size=8))
def test_damaged_gzip_never_raises(place: int, junk: bytes):
    _, reason, _ = decode(PACKED[:place] + junk + PACKED[place + len(junk) :])
    assert isinstance(reason, str)


def test_resampling_is_trilinear_as_torch_has_it():
    volume = np.random.default_rng(0).normal(size=(7, 9, 8)).astype(np.float32)
    larger, grid = volume, (14, 20, 9)
    for axis, size in enumerate(grid):
        larger = resample(larger, size, axis)
    wanted = F.interpolate(torch.from_numpy(volume)[None, None], grid, mode="trilinear")
    np.testing.assert_allclose(larger, wanted[0, 0].numpy(), atol=3e-5)


def test_a_volume_is_standardised_in_half_the_memory():
    wanted = VolumePreprocess(depth=3, height=7, width=5)
    out, reason, extent = decode(nifti(VALUES), wanted)
    assert (reason, extent, out.dtype) == ("", (4, 6, 5), np.float16)
    assert abs(out.mean(dtype=np.float64)) < 1e-3
    assert abs(out.std(dtype=np.float64) - 1) < 1e-3
    volume = read_volume(nifti(VALUES))
    for axis, size in enumerate(wanted.shape):
        volume = resample(volume, size, axis)
    exact = (volume - volume.mean()) / volume.std()
    np.testing.assert_allclose(out, exact, rtol=6e-4, atol=1e-6)


def test_hounsfield_units_come_through_as_they_are():
    values = np.linspace(-1024, 70_000, VALUES.size).reshape(SIZE).astype(np.float32)
    out, reason, _ = decode(nifti(values))
    assert (reason, out.dtype) == ("", np.float32)
    assert np.array_equal(out, values.transpose(2, 1, 0))


def test_a_network_sees_one_channel_of_float32():
    batch = np.arange(48, dtype=np.float16).reshape(2, 4, 3, 2)
    batch.flags.writeable = False
    seen = normalize(batch, VolumePreprocess(depth=4, height=3, width=2), "cpu")
    assert (seen.shape, seen.dtype) == ((2, 1, 4, 3, 2), torch.float32)
    assert np.array_equal(seen[:, 0].numpy(), batch)


def test_a_card_keeps_how_volumes_are_prepared():
    card = Card(
        network="convnet_3d", classes=("a", "b"), preprocess=SMALL, licence="none", source="test",
        embedding_size=64,
    )  # fmt: skip
    assert card_from_json(card_to_json(card)) == card
    with pytest.raises(ValueError, match="kind 'cloud': not one of picture, clip, signal, volume"):
        card_from_json(card_to_json(card).replace('"volume"', '"cloud"'))


def test_a_grid_without_voxels_is_refused():
    with pytest.raises(ValueError, match=r"height 0: must be 1\.\."):
        VolumePreprocess(height=0)
    with pytest.raises(ValueError, match="scaling 'window': not one of"):
        VolumePreprocess(scaling="window")  # pyright: ignore[reportArgumentType]


def test_the_thumbnail_shows_the_middle_slice_with_the_front_above():
    volume = np.zeros((20, 30, 10), np.uint8)  # X, Y, Z
    volume[12:16, 22:28, 5] = 200  # right of the middle and in front, in the middle slice
    image = np.asarray(Image.open(io.BytesIO(middle_slice(nifti(volume), 60))))
    assert image.shape == (60, 40)
    rows, columns = np.nonzero(image > 128)
    assert rows.max() < 20
    assert columns.min() > 20


@pytest.mark.parametrize(("name", "extent"), [("anatomy", (56, 67, 57)), ("epi", (33, 61, 53))])
def test_real_volumes_are_read_as_nibabel_reads_them(shared_data: Path, name, extent):
    path = shared_data / "volumes" / f"someones_{name}.nii.gz"
    _, reason, found = decode(path.read_bytes())
    assert (reason, found) == ("", extent)
    image = as_closest_canonical(load(path))
    expected = np.asarray(image.get_fdata(), np.float32).transpose(2, 1, 0)
    np.testing.assert_allclose(read_volume(path.read_bytes()), expected, rtol=1e-6)
