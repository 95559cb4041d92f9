"""Training: on small pictures that a network tells apart in seconds, inline and on real Ray."""

import json
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tensorboardX.proto import event_pb2

from jobs.pictures.learning import make_reading, plan_data
from jobs.pictures.supervised import make_training
from jobs.runtime.checkpoints import BEST, LAST, best_of
from jobs.runtime.examples import decode_here, rows_of
from jobs.runtime.learner import TrainingConfig
from jobs.runtime.mixed import has_bf16
from jobs.runtime.run import Run, TooManyFailedError
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage, StorageConfig
from jobs.runtime.training import TrainingResources, fit
from jobs.train_classifier import PRESETS, TASK, Config, main, parse
from tests.jobs.broken_off import metrics_of
from tests.jobs.coloured import small, write_photos
from vision_ops.card import read_card
from vision_ops.checkpoint import load_checkpoint
from vision_ops.learners.classify import ModelConfig
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.preprocess import Preprocess

FILES = ("checkpoints/best.safetensors", "checkpoints/last.safetensors", "metrics.jsonl")


def test_training_learns_and_leaves_a_checkpoint_with_its_card(trained: Path):
    metrics = metrics_of(trained)
    assert [each["epoch"] for each in metrics] == [1, 2, 3]
    assert metrics[-1]["accuracy"] >= 0.9
    network, card = load_checkpoint(trained / "checkpoints" / "best.safetensors", "cpu")
    assert card.classes == ("blue", "green", "red")
    assert card.preprocess == Preprocess(height_px=8, width_px=8, resize_px=0)
    assert not network.training
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["counts"]["learn"] + manifest["counts"]["validate"] == 60


def test_second_run_of_a_finished_training_changes_nothing(trained: Path, photos: Path):
    before = {name: (trained / name).stat().st_mtime_ns for name in FILES}
    main(small(photos, trained))
    assert {name: (trained / name).stat().st_mtime_ns for name in FILES} == before


def test_training_ends_when_patience_does(photos: Path, tmp_path: Path):
    config = small(photos, tmp_path)
    config = replace(
        config,
        optim=OptimConfig(learning_rate=1e-12, schedule="constant", weight_decay=0),
        training=replace(config.training, epochs=50, patience=2),
    )
    main(config)
    losses = [each["loss"] for each in metrics_of(tmp_path)]
    assert len(losses) < 50
    assert min(losses) == losses[-3]


def without_meaning(folder: Path, out: Path, epochs: int) -> Config:
    """Pictures whose classes nothing tells: each epoch that learns them by heart is a worse one."""
    if not folder.exists():
        write_photos(folder, colours={"heads": (99, 99, 99), "tails": (99, 99, 99)})
    config = small(folder, out)
    return replace(
        config,
        optim=OptimConfig(learning_rate=1e-2, schedule="constant", warmup=0),
        training=replace(config.training, epochs=epochs),
    )


def test_best_checkpoint_is_of_the_last_epoch_that_chance_cannot_tell_from_the_lowest(
    tmp_path: Path,
):
    run = main(without_meaning(tmp_path / "photos", tmp_path / "long", epochs=15))
    history = metrics_of(tmp_path / "long")
    best = best_of(history)
    assert best["epoch"] < 15
    assert run.manifest["metrics"]["epoch"] == best["epoch"]
    main(without_meaning(tmp_path / "photos", tmp_path / "short", epochs=int(best["epoch"])))
    kept, wanted = load_file(tmp_path / "long" / BEST), load_file(tmp_path / "short" / LAST)
    assert all(torch.equal(kept[name], wanted[name]) for name in wanted)


def test_a_hundred_classes_are_all_among_few_examples(tmp_path: Path):
    colours = {f"{number:03}": (2 * number, 99, 99) for number in range(100)}
    config = small(write_photos(tmp_path / "photos", 6, colours), tmp_path / "out")
    config = replace(config, training=TrainingConfig(epochs=1, batch_size=50, max_examples=120))
    assert main(config).manifest["counts"]["learn"] == 120
    few = replace(config, out=str(tmp_path / "few"))
    few = replace(few, training=replace(few.training, max_examples=99))
    with pytest.raises(ValueError, match=r"max_examples 99 are few for 100 classes"):
        main(few)


@pytest.mark.parametrize("engine", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_pictures_that_do_not_fit_are_refused_before_they_are_decoded(
    photos: Path, tmp_path: Path, engine: Any, request: pytest.FixtureRequest
):
    if engine == "ray":
        request.getfixturevalue("local_ray")
    picture = (photos / "red" / "001.png").read_bytes()
    columns = {"image": [picture] * 10_000, "label": ["red", "blue"] * 5_000}
    pq.write_table(pa.table(columns), tmp_path / "many.parquet")
    wall = Preprocess(height_px=8192, width_px=8192, resize_px=0)  # 201 MB each
    config = replace(
        small(photos, tmp_path / "out"),
        data=Source(uri=str(tmp_path / "many.parquet")),
        model=ModelConfig(preprocess=wall),
        resources=TrainingResources(engine=engine),
    )
    where = {"inline": "this machine", "ray": "Ray's object store on its smallest node"}[engine]
    with pytest.raises(ValueError, match=rf"take 2,013.3 GB or more, {where} has room for "):
        main(config)


def test_fewer_examples_are_learnt_from_and_validation_stays(photos: Path, tmp_path: Path):
    config = small(photos, tmp_path)
    config = replace(config, training=replace(config.training, max_examples=20))
    counts = main(config).manifest["counts"]
    assert counts["learn"] == 20
    assert counts["validate"] > 10


def test_report_shows_both_curves_and_says_whether_it_fits(trained: Path):
    page = (trained / "report" / "index.html").read_text()
    section = page[page.index("Does it fit?") :]
    assert section.count("<svg") == 2
    for chart in section.split("<svg")[1:3]:
        assert all(f">{name}<" in chart for name in ("training images", "images kept back"))
    assert "The network " in page
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["report"].endswith("report/index.html")


def test_tensorboard_events_hold_the_metrics(photos: Path, tmp_path: Path):
    config = small(photos, tmp_path)
    main(replace(config, resources=replace(config.resources, tensorboard=True)))
    found: dict[str, list[float]] = {}
    for file in sorted((tmp_path / "tensorboard").iterdir()):
        for record in records(file.read_bytes()):
            event = event_pb2.Event.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(value.simple_value)
    metrics = metrics_of(tmp_path)
    assert found.keys() == metrics[0].keys()
    for name in ("loss", "accuracy", "epoch"):
        assert found[name] == pytest.approx([each[name] for each in metrics])


def records(data: bytes) -> Iterator[bytes]:
    """Of a TFRecord file: length, its checksum, record, its checksum."""
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_dry_run_of_a_first_phase_tells_both_and_what_the_second_takes(
    photos: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    told = []
    for frozen in (0.5, 0.0):
        config = replace(small(photos, tmp_path), dry_run=True)
        model = replace(config.model, weights=str(trained / BEST), frozen=frozen)
        main(replace(config, model=model))
        lines = (line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
        told.append({name: value.strip() for name, value in lines})
    assert re.fullmatch(r"[\d,]+ ms, then [\d,]+ ms for 8 images .*", told[0]["step"])
    assert re.fullmatch(r"[\d,]+ ms for 8 images .*", told[1]["step"])
    assert told[0]["learner"] == told[1]["learner"]  # with the optimiser's state of all layers


def test_dry_run_tells_and_writes_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = replace(small(photos, tmp_path / "out"), dry_run=True)
    main(replace(config, training=replace(config.training, precision="auto")))
    told = capsys.readouterr().out
    assert "15 in 3 epochs" in told  # 45 of 60 learnt from, by 8
    assert "45 to learn from, about 15 kept back" in told
    assert ("bf16" in told) == has_bf16(torch.device("cpu"))
    assert re.search(r"memory +[\d.]+ GB", told)
    assert "of network" in told
    assert "estimate" in told
    assert not (tmp_path / "out").exists()


def test_training_lives_on_s3(photos: Path, bucket: str, s3: StorageConfig, tmp_path: Path):
    config = replace(small(photos, f"{bucket}/net"), storage=s3)
    run = main(config)
    target = tmp_path / "best.safetensors"
    target.write_bytes(run.storage.read(run.path("checkpoints", "best.safetensors")))
    assert read_card(target).classes == ("blue", "green", "red")
    assert main(config).manifest["status"] == "done"


def test_validation_source_is_used_whole(photos: Path, tmp_path: Path):
    held = write_photos(tmp_path / "held", per_class=4)
    config = replace(
        small(photos, tmp_path / "out"), validation=Source(uri=str(held), label="folder")
    )
    assert main(config).manifest["counts"] == {"learn": 60, "validate": 12}


def test_failed_rows_are_left_out_and_too_many_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    photos = write_photos(tmp_path / "photos", per_class=40)
    (photos / "red" / "cut.png").write_bytes((photos / "red" / "001.png").read_bytes()[:60])
    main(small(photos, tmp_path / "one"))
    assert "1 of 121 rows failed" in caplog.text
    for number in range(5):
        (photos / "red" / f"empty{number}.png").write_bytes(b"")
    with pytest.raises(TooManyFailedError, match="6 of 126"):
        main(small(photos, tmp_path / "six"))


def unlabelled(config: Config) -> Config:
    return replace(config, data=replace(config.data, label="none"))


def declared(*classes: str) -> Callable[[Config], Config]:
    return lambda config: replace(config, model=replace(config.model, classes=classes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (unlabelled, "44 of 44 rows have no class, the first is blue/000.png"),
        (declared("blue", "green"), "rows are of .'red'."),
        (declared("blue", "green", "red", "violet"), "no picture to learn from of .'violet'."),
        (lambda c: replace(c, data=replace(c.data, uri=c.data.uri + "/re*/*")), r"1 class \(red\)"),
        (lambda c: replace(c, data=Source(uri=c.data.uri + "/x", label="folder")), "nothing at"),
        (
            lambda c: replace(c, training=replace(c.training, validation_fraction=1e-6)),
            "0 to validate on",
        ),
    ],
)
def test_data_that_teach_nothing_are_refused(
    photos: Path, tmp_path: Path, change: Callable[[Config], Config], said: str
):
    with pytest.raises(ValueError, match=said):
        main(change(small(photos, tmp_path)))


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_a_refused_request_leaves_nothing_that_refuses_the_right_one(photos: Path, tmp_path: Path):
    config = small(photos, tmp_path)
    held = Source(uri=str(photos), label="folder")
    wrong = replace(config, validation=held, training=replace(config.training, batch_size=3))
    cut = tmp_path.with_name("cut")
    for name in ("a/1.png", "b/2.png"):
        (cut / name).parent.mkdir(parents=True)
        (cut / name).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"must be a multiple of resources\.num_workers 2"):
        main(replace(wrong, resources=TrainingResources(engine="ray", num_workers=2)))
    assert not names_in(tmp_path)
    with pytest.raises(TooManyFailedError, match="2 of 2 rows failed"):
        main(replace(config, data=Source(uri=str(cut), label="folder")))
    assert not names_in(tmp_path)
    assert main(config).manifest["status"] == "done"
    changed = replace(config, data=held, optim=OptimConfig(learning_rate=1e-2))
    with pytest.raises(ValueError, match=r"slice_rows was 16, now 0; optim\.learning_rate was"):
        main(changed)
    assert "metrics.jsonl" in names_in(tmp_path)


def test_a_plan_of_a_request_that_was_killed_before_it_began_is_none_of_another(
    photos: Path, tmp_path: Path
):
    other = write_photos(tmp_path / "others", per_class=3)
    killed = small(other, tmp_path / "run")
    with Run.open(
        killed.out, job="x", config=killed, identity={"a": 1}, storage=Storage(killed.storage)
    ) as run:
        plan_data(run, killed)
    assert names_in(tmp_path / "run") == ["plan.parquet"]
    assert main(small(photos, tmp_path / "run")).manifest["counts"]["learn"] > 40


def test_few_rows_are_learnt_from_in_this_process_and_the_dry_run_says_so(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = replace(small(photos, tmp_path), resources=TrainingResources())
    main(replace(config, dry_run=True))
    told = capsys.readouterr().out
    assert "inline: this process" in told
    assert "45 to learn from, about 15 kept back" in told
    held = Source(uri=str(photos / "red"), label="folder")
    main(replace(config, dry_run=True, validation=held, resources=TrainingResources(num_workers=2)))
    told = capsys.readouterr().out
    assert "ray: 2 workers on a local Ray" in told
    assert "60 to learn from, 20 kept back" in told


def test_slices_decoded_at_the_same_time_come_in_the_order_of_the_plan(
    photos: Path, tmp_path: Path
):
    config = small(photos, tmp_path / "run")
    config = replace(config, data=replace(config.data, slice_rows=4))
    with Run.open(
        config.out, job="x", config=config, identity={"a": 1}, storage=Storage(config.storage)
    ) as run:
        (plan,) = plan_data(run, config)
        reading = make_reading(config, plan)
        alone, shared = (list(decode_here(plan, reading, count)) for count in (1, 4))
    assert len(alone) == len(plan.slices) > 10
    assert [rows_of(block) for block in shared] == [rows_of(block) for block in alone]
    assert [block["pixels"] for block in shared] == [block["pixels"] for block in alone]


def test_signals_are_refused_for_a_network_of_pictures_before_they_are_read(
    photos: Path, tmp_path: Path
):
    (tmp_path / "a.ts").write_text("@classLabel true 1 2\n@data\n1,2,3:1\n")
    config = small(tmp_path, tmp_path.with_name("out"))
    with pytest.raises(ValueError, match=r"holds signals \(series\); the network takes pictures"):
        main(config)
    signals = PRESETS["signals"]()
    signals = replace(signals, data=Source(uri=str(photos), label="folder"), out=config.out)
    with pytest.raises(ValueError, match=r"there are 60 \.png; accepted: signals \(\.csv, \.npy\)"):
        main(signals)


def test_data_that_grew_during_a_training_are_refused(tmp_path: Path):
    photos = write_photos(tmp_path / "photos")
    config = small(photos, tmp_path / "out")
    main(config)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    for number in range(20):
        (photos / "red" / f"new{number}.png").write_bytes((photos / "red/001.png").read_bytes())
    for _ in range(2):  # what was refused once is no part of the plan
        with pytest.raises(ValueError, match="grew by 20 files"):
            main(config)


def test_batch_that_workers_cannot_share_is_refused(photos: Path, tmp_path: Path):
    config = small(photos, tmp_path)
    with Run.open(
        config.out, job="x", config=config, identity={}, storage=Storage(config.storage)
    ) as run:
        training = make_training(run, config, TASK, plan_data(run, config))
    with pytest.raises(
        ValueError, match="batch_size 8: must be a multiple of resources.num_workers 3"
    ):
        fit(training, TrainingResources(num_workers=3))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_reached_from_the_command_line(name: str):
    assert parse([name]) == PRESETS[name]()
    changed = parse([name, "--training.epochs", "2", "--out", "elsewhere"])
    assert (changed.training.epochs, changed.out) == (2, "elsewhere")
    assert changed.optim == PRESETS[name]().optim


def test_command_line_without_a_preset_is_the_digits():
    assert parse([]) == Config()
    with pytest.raises(ValueError, match="preset 'digit': not one of digits, photos, clips"):
        parse(["digit"])
