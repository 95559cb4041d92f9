"""Training a network that paints: from any pictures, step-exact, and refused where it cannot be."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn

from jobs.pictures.styles import read_styles
from jobs.runtime.checkpoints import BEST, LAST, METRICS
from jobs.runtime.epochs import run_worker
from jobs.runtime.learner import Place, Training, TrainingConfig
from jobs.runtime.resources import Resources
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage
from jobs.runtime.training import TrainingResources, fit
from jobs.stylize import Config as StylizeJob
from jobs.stylize import main as stylize
from jobs.train_style import FEATURES, Config, main, parse, task
from tests.jobs.broken_off import (
    Killed,
    assert_same_training,
    die_here,
    fit_with,
    metrics_of,
    prepared,
)
from vision_ops.card import Card, read_card, sha256_file
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.learners.style import AdainModelConfig, StyleLossConfig, StyleModelConfig
from vision_ops.models import build
from vision_ops.models.adain import Adain
from vision_ops.models.style_transform import StyleTransform
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.preprocess import Preprocess
from vision_ops.style.feed_forward import FeedForward
from vision_ops.weights import resolve

SMALL = Preprocess(height_px=16, width_px=16, resize_px=16)
INLINE = TrainingResources(engine="inline", checkpoint_every_s=0)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARGUS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def save_features(path: Path, network: str = "residual") -> str:
    """A classifier of random weights."""
    torch.manual_seed(0)
    card = Card(
        network=network,
        classes=("a", "b", "c"),
        preprocess=replace(SMALL, height_px=32, width_px=32),
        licence="Apache-2.0",
        source="random",
        embedding_size=160,
    )
    save_checkpoint(path, build(network, 3), card)
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures in folders, of several sizes, one damaged; two styles; features."""
    folder, random = tmp_path_factory.mktemp("style"), np.random.default_rng(0)
    for name in ("photos", "photos/below", "styles"):
        (folder / name).mkdir()
    for number in range(20):
        height, width = random.integers(16, 40, 2)
        smooth = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        name = f"below/{number}.png" if number % 3 else f"{number}.jpg"
        smooth.resize((width, height)).save(folder / "photos" / name)
    (folder / "photos" / "bad.jpg").write_bytes(b"\xff\xd8\xff no picture")
    stripes = np.zeros((50, 70, 3), np.uint8)
    stripes[::4] = (250, 120, 0)
    Image.fromarray(stripes).save(folder / "styles" / "stripes.png")
    noise = random.integers(0, 256, (36, 33, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "styles" / "noise.png")
    save_features(folder / "features.safetensors")
    return folder


def small(place: Path, out: Path) -> Config:
    return Config(
        data=Source(uri=str(place / "photos"), slice_rows=8),
        styles=(str(place / "styles"),),
        style_px=34,
        features=str(place / "features.safetensors"),
        model=StyleModelConfig(width=4, preprocess=SMALL),
        optim=OptimConfig(learning_rate=2e-2, weight_decay=0),
        training=TrainingConfig(epochs=4, batch_size=4, validation_fraction=0.25, seed=1),
        resources=INLINE,
        out=str(out),
    )


def task_of(config: Config):
    storage = Storage(config.storage)
    features = resolve(config.features, storage.fetch)
    return task(features, read_styles(storage, config.styles, config.style_px))


@pytest.fixture(scope="module")
def undisturbed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    main(small(place, out))
    return out


def test_unlabelled_pictures_teach_a_network_that_paints_in_both_styles(
    undisturbed: Path, place: Path
):
    first, *_, last = metrics_of(undisturbed)
    assert last["loss"] < 0.8 * first["loss"]
    assert last["style"] < first["style"]
    assert last["unchanged"] == first["unchanged"] > 0
    loss = small(place, undisturbed).loss
    assert last["loss"] > last["content"] + loss.style_weight * last["style"]
    network, card = load_checkpoint(undisturbed / BEST, "cpu")
    assert isinstance(network, StyleTransform)
    assert (card.network, card.classes) == ("style_transform:4", ("noise", "stripes"))
    assert card.parent == sha256_file(place / "features.safetensors")
    assert card.source.endswith("; costs: relative, content 1, style 6, variation 0.1")
    assert sha256_file(undisturbed / FEATURES) == card.parent
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert sum(manifest["counts"].values()) == 20
    assert manifest["metrics"]["style"] in [each["style"] for each in metrics_of(undisturbed)]
    page = (undisturbed / "report" / "index.html").read_text()
    assert "Does it fit?" in page
    assert page.count("data:image/png;base64") == 2 * min(4, manifest["counts"]["validate"])


def test_what_was_trained_paints_a_picture_of_another_size(undisturbed: Path):
    content = np.random.default_rng(1).integers(0, 256, (30, 45, 3), dtype=np.uint8)
    painted = FeedForward(undisturbed / BEST, {"stripes": 1})([content])[0].pixels
    assert painted.shape == content.shape
    red, _, blue = painted.reshape(-1, 3).mean(axis=0)
    assert red > blue + 20  # as the stripes' own


def test_second_run_of_a_finished_training_changes_nothing(undisturbed: Path, place: Path):
    before = {name: (undisturbed / name).stat().st_mtime_ns for name in (BEST, LAST, METRICS)}
    main(small(place, undisturbed))
    assert {name: (undisturbed / name).stat().st_mtime_ns for name in before} == before


def small_of_any(place: Path, out: Path) -> Config:
    return replace(
        small(place, out),
        model=AdainModelConfig(preprocess=SMALL, licence="CC0-1.0"),
        loss=StyleLossConfig(
            style_weight=1.0, content_layer="blocks.0", style_layers=("stem.2", "blocks.0")
        ),
        optim=OptimConfig(learning_rate=3e-3, weight_decay=0),
        unseen=(str(place / "unseen.png"),),
        style_px=32,
    )


@pytest.fixture(scope="module")
def any_style(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    unseen = np.random.default_rng(7).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    Image.fromarray(unseen).save(place / "unseen.png")
    out = tmp_path_factory.mktemp("any")
    main(small_of_any(place, out))
    return out


def test_pictures_and_styles_teach_a_network_of_any_style(any_style: Path, place: Path):
    first, *_, last = metrics_of(any_style)
    assert last["loss"] < 0.9 * first["loss"]
    network, card = load_checkpoint(any_style / BEST, "cpu")
    assert isinstance(network, Adain)
    assert (card.network, card.classes) == ("adain:residual/blocks.0", ())
    assert card.licence == "CC0-1.0; its encoder: Apache-2.0"
    assert card.parent == sha256_file(place / "features.safetensors")
    learnt, _ = load_checkpoint(place / "features.safetensors", "cpu")
    encoder = network.encoder.classifier.state_dict()
    state = learnt.state_dict()
    assert encoder
    assert all(torch.equal(value, state[name]) for name, value in encoder.items())
    page = (any_style / "report" / "index.html").read_text()
    assert "Painted in styles not learnt from" in page
    shown = min(4, json.loads((any_style / "manifest.json").read_text())["counts"]["validate"])
    assert page.count("data:image/png;base64") == 3 * shown


def painted_in(place: Path, weights: Path, out: Path, style: str, strength: float = 1.0):
    """What stylize makes of the pictures, by their ids: float (H, W, 3)."""
    job = StylizeJob(
        data=Source(uri=str(place / "photos")),
        op=StylizeConfig(weights=str(weights), styles=(str(place / style),), strength=strength),
        resources=Resources(engine="inline", actors=1, max_failed_fraction=1.0),
        format="png",
        out=str(out),
    )
    rows = [row for batch in stylize(job).results() for row in batch.to_pylist()]
    assert [row["id"] for row in rows if row["status"] == "failed"] == ["bad.jpg"]
    return {
        row["id"]: np.asarray(Image.open(row["image_uri"]).convert("RGB"), float)
        for row in rows
        if row["status"] == "ok"
    }


def test_what_learnt_any_style_paints_pictures_in_that_of_a_file(
    any_style: Path, place: Path, tmp_path: Path
):
    striped = painted_in(place, any_style / BEST, tmp_path / "whole", "styles/stripes.png")
    bare = painted_in(place, any_style / BEST, tmp_path / "none", "styles/stripes.png", 0.0)
    unseen = painted_in(place, any_style / BEST, tmp_path / "unseen", "unseen.png")
    assert len(striped) == 20
    for id, pixels in striped.items():
        with Image.open(place / "photos" / id) as photo:
            assert pixels.shape[:2] == photo.size[::-1]
        assert not np.array_equal(pixels, unseen[id])
    with Image.open(place / "styles" / "stripes.png") as file:
        colour = np.asarray(file.convert("RGB"), float).mean(axis=(0, 1))

    def away(made: dict[str, np.ndarray]) -> float:
        return float(np.mean([np.abs(p.mean(axis=(0, 1)) - colour).mean() for p in made.values()]))

    assert away(striped) < away(bare)


@pytest.mark.slow
def test_killed_and_repeated_training_of_any_style_ends_with_the_same_bits(
    any_style: Path, place: Path, tmp_path: Path
):
    config = small_of_any(place, tmp_path)
    with pytest.raises(Killed):
        fit_with(config, task_of(config), 5, die_here)
    main(config)
    assert_same_training(tmp_path, any_style)


@pytest.mark.parametrize("steps", [0, 6])  # an epoch is 3 or 4 steps
def test_killed_and_repeated_training_ends_with_the_bits_of_an_undisturbed_one(
    undisturbed: Path, place: Path, tmp_path: Path, steps: int
):
    config = small(place, tmp_path)
    with pytest.raises(Killed):
        fit_with(config, task_of(config), steps, die_here)
    main(config)
    assert_same_training(tmp_path, undisturbed)


def test_other_pixels_under_the_name_of_a_style_are_another_run(
    undisturbed: Path, place: Path, tmp_path: Path
):
    (tmp_path / "styles").mkdir()
    for path in (place / "styles").iterdir():
        Image.open(path).rotate(90, expand=True).save(tmp_path / "styles" / path.name)
    config = replace(small(place, undisturbed), styles=(str(tmp_path / "styles"),))
    with pytest.raises(ValueError, match="styles"):
        main(config)


def take_part(rank: int, training: Training, address: str) -> None:
    """One of two workers, in a process of its own."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    run_worker(training, Place(device=torch.device("cpu"), rank=rank, num_workers=2))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [small, small_of_any])
def test_two_workers_learn_styles_as_one(
    place: Path, tmp_path: Path, kind: Callable[[Path, Path], Config]
):
    """For some small steps: the loss is so rough that last bits of weights grow tenfold in one."""

    def asked(name: str) -> Training:
        config = kind(place, tmp_path / name)
        optim = OptimConfig(optimizer="sgd", learning_rate=1e-3, schedule="constant", warmup=0)
        training = replace(config.training, epochs=1)
        return prepared(replace(config, optim=optim, training=training), task_of(config))

    one, two = asked("1"), asked("2")
    fit(one, INLINE)
    spawn(take_part, (two, f"file://{tmp_path}/meeting"), nprocs=2)
    one.make_learner(torch.device("cpu")).save(tmp_path / "first.safetensors")
    files = ("first.safetensors", f"1/{LAST}", f"2/{LAST}")
    first, wanted, found = (load_file(tmp_path / file) for file in files)
    moved = max((value - first[name]).abs().max().item() for name, value in wanted.items())
    off = max((value - found[name]).abs().max().item() for name, value in wanted.items())
    assert off < 0.01 * moved
    ours, theirs = metrics_of(tmp_path / "2"), metrics_of(tmp_path / "1")
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=1e-3)
    assert ours[0]["objective"] == pytest.approx(theirs[0]["objective"], rel=1e-3)


def test_style_pictures_are_reduced_never_enlarged_and_called_by_their_files(place: Path):
    storage = Storage(None)
    styles = read_styles(storage, (str(place / "styles" / "*.png"),), 40)
    assert [(each.name, each.pixels.shape) for each in styles] == [
        ("noise", (36, 33, 3)),
        ("stripes", (40, 56, 3)),
    ]


def with_styles(*names: str) -> Callable[[Config, Path], Config]:
    return lambda config, place: replace(config, styles=tuple(str(place / each) for each in names))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_styles("nothing"), "no picture there; `python -m jobs.make_samples --kind styles`"),
        (with_styles("photos/bad.jpg"), "styles .*bad.jpg: "),
        (with_styles("styles", "styles/noise.png"), "several pictures are called noise"),
        (with_styles("photos/0.jpg"), "each side must have 32"),
        (
            lambda c, _: replace(c, loss=StyleLossConfig(style_layers=("blocks.9",))),
            "residual has no layer blocks.9; it has",
        ),
        (
            lambda c, _: replace(c, loss=StyleLossConfig(content_layer="head")),
            "layer head gives no map of positions",
        ),
        (
            lambda c, p: replace(c, features=save_features(p / "other.safetensors", "resnet20")),
            "must be named for features of resnet20",
        ),
    ],
)
def test_what_cannot_be_learnt_is_refused_by_name(
    place: Path, tmp_path: Path, change: Callable[[Config, Path], Config], said: str
):
    with pytest.raises(ValueError, match=said):
        main(change(small(place, tmp_path / "out"), place))


def test_a_painter_gives_no_features(undisturbed: Path, place: Path, tmp_path: Path):
    config = replace(small(place, tmp_path), features=str(undisturbed / BEST))
    assert read_card(undisturbed / BEST).is_painter
    with pytest.raises(ValueError, match=r"features .*: style_transform:4 makes pictures"):
        main(config)


def test_dry_run_tells_and_writes_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    main(replace(small(place, tmp_path / "out"), dry_run=True))
    told = capsys.readouterr().out
    for text in ("to learn from", "of network", "estimate", "not begun"):
        assert text in told
    assert not (tmp_path / "out").exists()


def test_options_reach_their_fields():
    config = parse(["--styles", "a.jpg", "b.jpg", "--model.preprocess.height-px", "80"])
    assert config.styles == ("a.jpg", "b.jpg")
    assert config.model.preprocess.shape == (80, 96, 3)
    preset = parse(["any_style", "--unseen", "c.jpg", "--model.preprocess.height-px", "96"])
    assert preset.unseen == ("c.jpg",)
    assert isinstance(preset.model, AdainModelConfig)
    assert preset.model.preprocess.shape == (96, 128, 3)
    with pytest.raises(ValueError, match="unseen: only any_style"):
        Config(unseen=("c.jpg",))
    with pytest.raises(ValueError, match="preset 'some_style': not one of styles, any_style"):
        parse(["some_style"])
    with pytest.raises(ValueError, match="loss.style_weight -1"):
        StyleLossConfig(style_weight=-1)
