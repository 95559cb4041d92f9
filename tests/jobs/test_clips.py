"""The whole road of clips: made, trained on, classified in bulk with broken ones, evaluated."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs import benchmark, classify, evaluate, make_samples, train_classifier
from jobs.pictures.samples.moving_blob import DIRECTIONS, NUM_FRAMES, encode_mp4, moving_blobs
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.runtime.training import TrainingResources
from tests.made_clips import decoded
from vision_ops.augment import AugmentConfig
from vision_ops.card import read_card
from vision_ops.clips import CLIP_SUFFIXES, ClipPreprocess
from vision_ops.operators.classify import ClassifierConfig
from vision_ops.preprocess import Preprocess

INLINE = TrainingResources(engine="inline")
TINY = ClipPreprocess(
    frame=Preprocess(
        height_px=8, width_px=8, resize_px=0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    ),
)


def write_blobs(folder: Path, directions: tuple[str, ...], count: int, seed: int) -> Path:
    random = np.random.default_rng(seed)
    for name in directions:
        (folder / name).mkdir(parents=True)
        for number, frames in enumerate(moving_blobs([name] * count, random)):
            (folder / name / f"clip-{number:02}.mp4").write_bytes(encode_mp4(frames))
    return folder


def classified(source: Source, weights: Path, out: Path, engine: str = "inline") -> Run:
    config = classify.Config(
        data=source,
        op=ClassifierConfig(weights=str(weights)),
        resources=Resources(engine=engine, actors=1, max_failed_fraction=0.5),  # pyright: ignore[reportArgumentType]
        out=str(out),
    )
    return classify.main(config)


def results(run: Run) -> list[dict[str, str]]:
    return [row for batch in run.results() for row in batch.to_pylist()]


def thumbnails(page: Path) -> int:
    return len(re.findall(r'src="data:image/jpeg;base64,', page.read_text()))


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two directions, to learn from and to name."""
    folder = tmp_path_factory.mktemp("blobs")
    write_blobs(folder / "train", ("left", "right"), 24, seed=0)
    write_blobs(folder / "test", ("left", "right"), 10, seed=1)
    return folder


@pytest.fixture(scope="module")
def weights(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    config = train_classifier.PRESETS["moving_blob"]()
    train_classifier.main(
        replace(
            config,
            data=Source(uri=str(blobs / "train"), label="folder"),
            model=replace(config.model, network="cnn_gru:resnet20", preprocess=TINY),
            augment=AugmentConfig(shift=0.1, colour=0.1),
            training=replace(config.training, epochs=10, batch_size=8, validation_fraction=0.2),
            resources=INLINE,
            out=str(out),
        )
    )
    return out / "checkpoints" / "last.safetensors"


def test_clips_are_learnt_classified_and_judged_with_broken_ones_among_them(
    blobs: Path, weights: Path, tmp_path: Path
):
    assert read_card(weights).preprocess == TINY
    for path in (blobs / "test").rglob("*.mp4"):
        copy = tmp_path / "clips" / path.relative_to(blobs / "test")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    whole = (blobs / "test" / "left" / "clip-00.mp4").read_bytes()
    (tmp_path / "clips" / "left" / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "clips" / "left" / "empty.mkv").write_bytes(b"")
    (tmp_path / "clips" / "right" / "photo.mp4").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0")
    (tmp_path / "clips" / "right" / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0")
    source = Source(uri=str(tmp_path / "clips"), label="folder", slice_rows=9)
    run = classified(source, weights, tmp_path / "classified")
    rows = {row["id"]: row for row in results(run)}
    assert len(rows) == 24
    failed = {name: row["error"] for name, row in rows.items() if row["status"] == "failed"}
    assert failed.pop("left/half.mp4").startswith("truncated MP4: ")
    assert failed.pop("right/photo.mp4").startswith("not a clip that is read (MP4, AVI, Matroska")
    clips = ", ".join(CLIP_SUFFIXES)
    assert failed == {
        "left/empty.mkv": "empty file",
        "right/photo.jpg": f"not a file that this network is for: .jpg ({clips} are)",
    }
    assert thumbnails(tmp_path / "classified/report/index.html") >= 8
    config = evaluate.Config(run=str(tmp_path / "classified"), out=str(tmp_path / "evaluated"))
    found = evaluate.main(config)
    assert isinstance(found, evaluate.Evaluation)
    assert found.metrics.num_rows == 20
    assert found.metrics.accuracy >= 0.9  # 0.5 is chance
    assert found.counts["failed"] == 4
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "classified/results").iterdir()}
    classified(source, weights, tmp_path / "classified")
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.slow
def test_a_benchmark_reads_what_its_weights_are_for(blobs: Path, weights: Path, tmp_path: Path):
    config = benchmark.Config(
        data=Source(uri=str(blobs / "test"), label="folder"),
        op=ClassifierConfig(weights=str(weights)),
        resources=Resources(engine="inline", actors=1),
        rows=20,
        seconds=0.05,
        out=str(tmp_path),
    )
    run = benchmark.main(config)
    assert (run.manifest["counts"]["ok"], run.manifest["counts"]["failed"]) == (20, 0)


@pytest.mark.slow
def test_clips_on_ray_are_named_as_in_this_process(
    blobs: Path, weights: Path, tmp_path: Path, local_ray: None
):
    source = Source(uri=str(blobs / "test"), label="folder", slice_rows=7)
    here = results(classified(source, weights, tmp_path / "here"))
    there = results(classified(source, weights, tmp_path / "there", engine="ray"))
    assert sorted(here, key=lambda row: row["id"]) == sorted(there, key=lambda row: row["id"])


def test_clips_are_learnt_from_in_the_same_way_each_time(blobs: Path, tmp_path: Path):
    config = train_classifier.PRESETS["clips"]()
    config = replace(
        config,
        data=Source(uri=str(blobs / "train"), label="folder"),
        model=replace(config.model, network="cnn_lstm:resnet20", preprocess=TINY),
        training=replace(config.training, epochs=2, batch_size=16),
        resources=INLINE,
    )
    for name in ("one", "other"):
        train_classifier.main(replace(config, out=str(tmp_path / name)))
    kept = [tmp_path / name / "checkpoints/last.safetensors" for name in ("one", "other")]
    assert kept[0].read_bytes() == kept[1].read_bytes()


# ------------------------------------------------------------------------- real clips


def test_real_clips_are_learnt_and_classified_end_to_end(shared_data: Path, tmp_path: Path):
    """Nine clips of three collections, by the collection that they come from."""
    for path in (shared_data / "videos").iterdir():
        if path.suffix in (".mp4", ".avi"):
            name = {".mp4": "kinetics"}.get(
                path.suffix, "ucf101" if path.name[0] == "v" else "hmdb51"
            )
            (tmp_path / "clips" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "clips" / name / path.name).write_bytes(path.read_bytes())
    whole = (shared_data / "videos" / "TrumanShow_wave_f_nm_np1_fr_med_26.avi").read_bytes()
    (tmp_path / "clips" / "hmdb51" / "cut.avi").write_bytes(whole[:100_000])
    source = Source(uri=str(tmp_path / "clips"), label="folder")
    config = train_classifier.PRESETS["clips"]()
    frame = Preprocess(height_px=16, width_px=16, resize_px=18)
    train_classifier.main(
        replace(
            config,
            data=source,
            validation=source,
            model=replace(config.model, preprocess=ClipPreprocess(num_frames=8, frame=frame)),
            training=replace(config.training, epochs=2, batch_size=3),
            resources=INLINE,
            out=str(tmp_path / "trained"),
        )
    )
    weights = tmp_path / "trained" / "checkpoints" / "last.safetensors"
    run = classified(source, weights, tmp_path / "classified")
    rows = results(run)
    failed = [row for row in rows if row["status"] == "failed"]
    assert (len(rows), [row["id"] for row in failed]) == (10, ["hmdb51/cut.avi"])
    assert failed[0]["error"].startswith("truncated AVI: 242,546 bytes by its own account, 100,000")
    assert thumbnails(tmp_path / "classified/report/index.html") >= 9
    evaluated = evaluate.Config(run=str(tmp_path / "classified"), out=str(tmp_path / "evaluated"))
    found = evaluate.main(evaluated)
    assert isinstance(found, evaluate.Evaluation)
    assert found.metrics.num_rows == 9


# ------------------------------------------------------------------------- samples, recipes


def test_every_direction_shows_the_same_frames_in_another_order():
    """So that a network which looks at them by themselves can name none."""
    seen = set()
    for name in DIRECTIONS:
        frames = moving_blobs([name], np.random.default_rng(0), noise=0.0)[0]
        assert frames.shape == (NUM_FRAMES, 32, 32, 3)
        seen.add(frozenset(frame.tobytes() for frame in frames))
    assert len(seen) == 1
    assert len(next(iter(seen))) == NUM_FRAMES


@pytest.mark.parametrize(("name", "move"), DIRECTIONS.items())
def test_the_blob_moves_where_its_name_says(name: str, move: tuple[int, int]):
    frames = moving_blobs([name], np.random.default_rng(0), noise=0.0)[0, ..., 0].astype(float)
    for number in range(1, 4):
        moved = np.roll(frames[number - 1], (8 * move[0], 8 * move[1]), axis=(0, 1))
        assert np.abs(moved - frames[number]).max() <= 1
    random = np.random.default_rng(3)
    clip = moving_blobs([name], random)[0]
    again = decoded(encode_mp4(clip))
    assert again.shape == clip.shape
    assert np.abs(again.astype(int) - clip).mean() < 4


def test_sample_clips_are_made_the_same_each_time(tmp_path: Path):
    files = dict(make_samples.clips(0))
    assert len(files) == 240
    assert len({data for data in files.values()}) == 240
    assert sorted({name.rsplit("/", 1)[0] for name in files}) == sorted(
        f"clips/{split}/{name}" for split in ("test", "train") for name in DIRECTIONS
    )
    again = make_samples.clips(0)
    assert all(files[name] == data for name, data in (next(again) for _ in range(5)))
    assert next(make_samples.clips(1))[1] != next(iter(files.values()))


def test_presets_of_clips_take_options_of_clips_and_of_their_frames():
    config = train_classifier.parse(
        ["clips", "--model.preprocess.num-frames", "4", "--model.preprocess.frame.height-px", "32"]
        + ["--model.network", "cnn_lstm:torchvision:resnet18"]
    )
    assert isinstance(config.model.preprocess, ClipPreprocess)
    assert config.model.preprocess.network_shape == (4, 3, 32, 64)
    dense = ["--model.preprocess.sampling", "dense", "--model.preprocess.stride", "3"]
    preprocess = train_classifier.parse(["clips", *dense]).model.preprocess
    assert preprocess == replace(
        train_classifier.PRESETS["clips"]().model.preprocess, sampling="dense", stride=3
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["clips", "--model.network", "residual"], "network residual: takes no clips"),
        (["digits", "--model.network", "cnn_gru:residual"], "takes clips, not pictures"),
        (["clips", "--model.preprocess.stride", "2"], "stride 2: is for dense sampling"),
    ],
)
def test_what_does_not_go_together_is_a_bad_request(words: list[str], said: str, capsys):
    with pytest.raises(SystemExit) as ended:
        train_classifier.parse(words)
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_dry_run_of_clips_says_what_it_would_do_and_writes_nothing(
    blobs: Path, weights: Path, tmp_path: Path
):
    config = classify.Config(
        data=Source(uri=str(blobs / "test"), label="folder"),
        op=ClassifierConfig(weights=str(weights)),
        resources=Resources(engine="inline", actors=1),
        out=str(tmp_path / "run"),
        dry_run=True,
    )
    classify.main(config)
    assert not (tmp_path / "run" / "results").exists()
    manifest = tmp_path / "run" / "manifest.json"
    assert not manifest.exists() or json.loads(manifest.read_text())["status"] != "done"
