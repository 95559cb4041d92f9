"""The samples: what they hold, that they are always the same, and that nothing is done twice."""

import io
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.make_samples import TREES, Config, main
from jobs.pictures.samples.faces import Pose, draw_person, photograph
from jobs.pictures.samples.pairs import MAP, SKY, WALL, pairs, scene
from jobs.pictures.samples.styles import style_pictures
from vision_ops.decode import Decode, DecodeConfig
from vision_ops.preprocess import Preprocess


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file but the manifest."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def read_digits(samples: Path, split: str) -> list[dict[str, Any]]:
    shards = sorted((samples / "digits" / split).glob("*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def test_digits_are_split_by_class_and_share_no_row(samples: Path):
    train, test = read_digits(samples, "train"), read_digits(samples, "test")
    assert (len(train), len(test)) == (1437, 360)
    assert len({row["id"] for row in train + test}) == 1797
    counts = Counter(row["label"] for row in test)
    assert sorted(counts) == list("0123456789")
    assert set(counts.values()) <= {35, 36, 37}


def test_digits_come_in_several_shards_of_small_row_groups(samples: Path):
    shards = sorted((samples / "digits").rglob("*.parquet"))
    groups = [pq.ParquetFile(shard).metadata for shard in shards]
    assert len(shards) == 5
    assert all(g.row_group(i).num_rows <= 200 for g in groups for i in range(g.num_row_groups))


def test_synthetic_people_are_in_one_split_alone_and_their_pictures_differ(samples: Path):
    people: dict[str, set[str]] = {}
    for split, (count, each) in {"train": (400, 12), "test": (200, 8)}.items():
        shards = sorted((samples / "faces" / split).glob("*.parquet"))
        rows = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
        pictures = Counter(row["label"] for row in rows)
        people[split] = set(pictures)
        assert len(pictures) == count
        assert set(pictures.values()) == {each}
        assert len({row["image"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)
        shard = [row["label"] for row in pq.read_table(shards[0]).to_pylist()]
        assert len(set(shard)) > count / 2  # mixed: a slice is not one person
        with Image.open(io.BytesIO(rows[0]["image"])) as image:
            assert (image.size, image.mode) == ((64, 64), "RGB")
    assert not people["train"] & people["test"]


def test_pictures_of_a_person_are_more_alike_than_those_of_two_but_no_copies():
    random = np.random.default_rng(0)
    skins = [draw_person(random) for _ in range(12)]
    pictures = np.array(
        [
            [np.asarray(photograph(skin, Pose(), random), np.float64) for _ in range(4)]
            for skin in skins
        ]
    ).reshape(12, 4, -1)
    pictures -= pictures.mean(axis=(0, 1))
    pictures /= np.linalg.norm(pictures, axis=2, keepdims=True)
    cosines = np.einsum("pid,qjd->pqij", pictures, pictures)
    own = cosines[np.arange(12), np.arange(12)][:, *np.triu_indices(4, 1)]
    others = cosines[*np.triu_indices(12, 1)].ravel()
    assert others.mean() + 0.1 < own.mean() < 0.9
    assert (others > np.median(own)).mean() > 0.02  # pixels alone do not tell them apart


def test_photos_and_tar_hold_the_same_pictures(samples: Path):
    files = {p.parent.name: set() for p in (samples / "photos").rglob("*.jpg")}
    for path in (samples / "photos").rglob("*.jpg"):
        files[path.parent.name].add(path.read_bytes())
    with tarfile.open(samples / "photos.tar") as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # pyright: ignore
    images = {name: data for name, data in members.items() if name.endswith(".jpg")}
    assert any(name.count(".") > 1 for name in images)
    for name, data in images.items():
        label = members[name.removesuffix(".jpg") + ".cls"]
        assert data in files[["china", "flower"][int(label)]]
    assert len(images) == sum(map(len, files.values())) == 48


def test_broken_files_each_give_a_picture_or_a_reason(samples: Path):
    decode = Decode(DecodeConfig(), Preprocess())
    out = np.zeros(decode.shape, np.uint8)
    files = [path for path in (samples / "broken").rglob("*") if path.is_file()]
    reasons = {path.name: decode(path.read_bytes(), out) for path in files}
    assert len(files) >= 75
    assert 30 <= sum(reason != "" for reason in reasons.values()) <= len(files) - 30
    refused = [n for n in reasons if n.startswith(("cut-at", "bomb"))]
    assert all(reasons[name] for name in refused)
    fine = [n for n in reasons if n.startswith(("fine-", "exif-", "animated"))]
    assert not [(name, reasons[name]) for name in fine if reasons[name]]


def test_second_run_writes_nothing(samples: Path):
    before = contents(samples)
    manifest = (samples / "manifest.json").stat().st_mtime_ns
    main(Config(out=str(samples), with_broken=True))
    assert contents(samples) == before
    assert (samples / "manifest.json").stat().st_mtime_ns == manifest


def test_half_finished_run_is_finished_and_keeps_what_it_has(samples: Path, tmp_path: Path):
    for name in ("digits", "photos"):
        shutil.copytree(samples / name, tmp_path / name)
    whole = contents(tmp_path)
    lost = ["digits/test/test-00001-of-00002.parquet", "photos/flower/piece-07.jpg"]
    for name in lost:
        (tmp_path / name).unlink()
    for kind in ("digits", "photos"):  # the tar was never begun
        main(Config(out=str(tmp_path), kind=kind))
    finished = contents(tmp_path)
    assert finished.keys() == {*whole, "photos.tar"}
    assert {n: finished[n][0] for n in whole} == {n: data for n, (data, _) in whole.items()}
    assert [n for n, (_, time) in whole.items() if finished[n][1] != time] == sorted(lost)
    assert finished["photos.tar"][0] == (samples / "photos.tar").read_bytes()


def test_broken_files_that_are_asked_for_later_are_added(samples: Path, tmp_path: Path):
    shutil.copytree(samples, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "broken")
    main(Config(out=str(tmp_path / "again"), with_broken=True))
    added = {name: data for name, (data, _) in contents(tmp_path / "again").items()}
    assert added == {name: data for name, (data, _) in contents(samples).items()}


def test_one_kind_alone_is_made_and_others_are_added_later(samples: Path, tmp_path: Path):
    main(Config(out=str(tmp_path), kind="signals"))
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "signals"}
    main(Config(out=str(tmp_path), kind="photos"))
    made = {name: data for name, (data, _) in contents(tmp_path).items()}
    whole = {name: data for name, (data, _) in contents(samples).items()}
    assert made == {n: d for n, d in whole.items() if n.startswith(("signals/", "photos"))}
    for name in TREES:
        assert name in get_args(get_type_hints(Config)["kind"])


def test_styles_are_textures_in_several_colours_that_a_seed_tells():
    once, again, other = (style_pictures(seed) for seed in (0, 0, 1))
    assert once.keys() == {"strokes", "waves", "mosaic", "dots"}
    for name, image in once.items():
        assert image.size == (256, 256)
        assert image.tobytes() == again[name].tobytes()
        assert image.tobytes() != other[name].tobytes()
        pixels = np.asarray(image, np.float32)
        blocks = pixels.reshape(4, 64, 4, 64, 3).std(axis=(1, 3))  # in every part of it
        assert blocks.min() > 8
    lead = (np.asarray(once["mosaic"]).max(axis=2) < 16).mean()
    assert 0.05 < lead < 0.4


def test_other_seed_in_the_same_directory_is_refused(samples: Path):
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        main(Config(out=str(samples), seed=1))


def test_digit_is_readable_in_the_middle_of_its_picture(samples: Path, tmp_path: Path):
    row = read_digits(samples, "test")[0]
    (tmp_path / "digit.png").write_bytes(row["image"])
    with Image.open(tmp_path / "digit.png") as image:
        assert image.size == (32, 32)
        ink = np.asarray(image, np.float64)
    assert ink[8:24, 8:24].mean() > 2 * ink[:, :4].mean()


def test_pairs_are_a_picture_and_the_map_that_it_follows_from(samples: Path):
    files = sorted((samples / "pairs" / "pictures").iterdir())
    maps = sorted((samples / "pairs" / "maps").iterdir())
    assert (len(files), len(maps)) == (320, 24)
    of_walls, of_sky = [], []
    seen: set[bytes] = set()
    for file in files[:40]:
        both = np.asarray(Image.open(file))
        assert both.shape == (64, 128, 3)
        picture, told = both[:, :64], both[:, 64:]
        colours = {tuple(each) for each in told.reshape(-1, 3).tolist()}
        assert colours <= {tuple(each) for each in MAP.tolist()}
        of_walls.append(picture[(told == MAP[WALL]).all(axis=2)].mean(axis=0))
        of_sky.append(picture[(told == MAP[SKY]).all(axis=2)].mean(axis=0))
        seen.add(told.tobytes())
    assert len(seen) == 40
    # each house is red, each sky blue: what a thing looks like follows from the map
    assert all(red > blue + 30 for red, _, blue in of_walls)
    assert all(blue > red + 15 for red, _, blue in of_sky)
    for file in maps:
        told = np.asarray(Image.open(file))
        assert told.shape == (64, 64, 3)
        assert told.tobytes() not in seen


def test_scenes_follow_from_the_seed_alone():
    assert next(pairs(3)) == next(pairs(3)) != next(pairs(4))
    one, other = (scene(np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(one, other)
