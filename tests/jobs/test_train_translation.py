"""Training from pairs and from pictures alone, step-exact; and pictures made by what was learnt."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from jobs import stylize, train_gan
from jobs.pictures.adversaries import balance
from jobs.runtime.checkpoints import BEST, LAST, METRICS
from jobs.runtime.examples import shared_pictures
from jobs.runtime.learner import Training, TrainingConfig
from jobs.runtime.resources import Resources
from jobs.runtime.run import TooManyFailedError
from jobs.runtime.sources.origin import Source
from jobs.runtime.training import TrainingResources, fit
from jobs.train_translation import TASK, Config, main, parse
from tests.jobs.broken_off import (
    Killed,
    assert_same_training,
    die_here,
    fit_with,
    metrics_of,
    prepared,
    train_in_two,
)
from vision_ops.checkpoint import load_checkpoint
from vision_ops.learners.gan import GanModelConfig
from vision_ops.learners.translate import TranslationLossConfig, TranslationModelConfig
from vision_ops.metrics.sliced import projected_patches, texture_distance
from vision_ops.models.dcgan import DcganGenerator
from vision_ops.models.unet import UNet
from vision_ops.noise import Noise
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.pairs import PairPreprocess
from vision_ops.preprocess import Preprocess

INLINE = TrainingResources(engine="inline", checkpoint_every_s=0, max_failed_fraction=0.5)
MODEL = TranslationModelConfig(
    width=4, discriminator_halvings=1, preprocess=PairPreprocess(height_px=16, width_px=16)
)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARGUS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pairs (a map right, its colours inverted left), and three files that are none."""
    folder, random = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for name in ("pairs/deep", "maps"):
        (folder / name).mkdir(parents=True)
    for number in range(20):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        given = coarse.repeat(4, axis=0).repeat(4, axis=1)
        both = Image.fromarray(np.concatenate([255 - given, given], axis=1))
        name = f"deep/{number}.png" if number % 3 else f"{number}.png"
        both.save(folder / "pairs" / name)
        if number < 3:
            Image.fromarray(given).resize((40 + number, 24)).save(folder / f"maps/{number}.png")
    Image.new("RGB", (31, 16)).save(folder / "pairs/odd.png")
    Image.new("RGB", (16, 16)).save(folder / "pairs/single.png")
    (folder / "pairs/bad.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


def small(place: Path, out: Path, **more: Any) -> Config:
    base = parse([])
    config = replace(
        base,
        data=Source(uri=str(place / "pairs"), slice_rows=8),
        model=MODEL,
        optim=replace(base.optim, learning_rate=5e-3),
        training=TrainingConfig(epochs=4, batch_size=4, validation_fraction=0.25, seed=1),
        resources=INLINE,
        out=str(out),
    )
    return replace(config, **more)


@pytest.fixture(scope="module")
def undisturbed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    main(small(place, out))
    return out


def test_pairs_teach_a_network_that_makes_one_picture_of_the_other(
    undisturbed: Path, capsys: pytest.CaptureFixture[str]
):
    first, *_, last = metrics_of(undisturbed)
    assert last["loss"] < 0.9 * first["loss"]
    assert {"generator_loss", "discriminator_loss", "real_accuracy", "l1"} <= set(last)
    assert last["objective"] == pytest.approx(last["generator_loss"] + 100 * last["l1"])
    network, card = load_checkpoint(undisturbed / BEST, "cpu")
    assert isinstance(network, UNet)
    assert (card.network, card.classes, card.embedding_size) == ("unet:4x4", (), 0)
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert sum(manifest["counts"].values()) == 20  # the three that are no pairs are left out
    page = (undisturbed / "report" / "index.html").read_text()
    assert "Generator and discriminator" in page
    assert '<ul class="thumbnails beside strips">' in page
    # of adversaries no curve says whether they fit
    kept = next(
        one for one in metrics_of(undisturbed) if one["epoch"] == manifest["metrics"]["epoch"]
    )
    for name, key in (("L1", "difference"), ("texture distance", "texture")):
        assert f"{name} {kept[f'train_{key}']:.4f} and {kept[key]:.4f}" in page
    assert not re.search(r"Does it fit|underfits|overfits|is still learning", page)
    assert page.count("data:image/png;base64") == manifest["counts"]["validate"]
    assert "L1 0." in page


def test_the_mean_of_the_targets_is_what_one_makes_who_does_not_look(place: Path, tmp_path: Path):
    training = prepared(small(place, tmp_path), TASK)
    files = {p.stem: np.asarray(Image.open(p)) for p in (place / "pairs").rglob("[0-9]*.png")}
    targets = {name: pixels[:, :16].astype(float) for name, pixels in files.items()}
    learnt, kept = (
        [targets[Path(id).stem] for id in examples.ids]
        for examples in (training.learn, training.validate)
    )
    mean = np.mean(learnt, axis=0)
    off = [np.abs(each - mean).mean() / 255 for each in kept]
    wanted, guessed = (
        projected_patches(torch.tensor(np.array(each)).float().permute(0, 3, 1, 2) / 127.5 - 1)
        for each in (kept, [mean] * len(kept))
    )
    chance = np.mean(off) + texture_distance(guessed, wanted)
    found = TASK.loss_of_chance(small(place, tmp_path), training)
    assert found == pytest.approx(chance, rel=1e-4)


@pytest.mark.parametrize("steps", [0, 6])  # an epoch is 3 or 4 steps
def test_killed_and_repeated_training_ends_with_the_bits_of_an_undisturbed_one(
    undisturbed: Path, place: Path, tmp_path: Path, steps: int
):
    config = small(place, tmp_path)
    with pytest.raises(Killed):
        fit_with(config, TASK, steps, die_here)
    main(config)
    assert_same_training(tmp_path, undisturbed)


def test_second_run_of_a_finished_training_changes_nothing(undisturbed: Path, place: Path):
    before = {name: (undisturbed / name).stat().st_mtime_ns for name in (BEST, LAST, METRICS)}
    main(small(place, undisturbed))
    assert {name: (undisturbed / name).stat().st_mtime_ns for name in before} == before


def test_too_many_files_that_are_no_pairs_end_the_run_with_their_causes(
    place: Path, tmp_path: Path
):
    (tmp_path / "singles").mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20)).save(tmp_path / "singles" / f"{number}.png")
    config = small(place, tmp_path / "out", data=Source(uri=str(tmp_path / "singles")))
    with pytest.raises(TooManyFailedError, match="no pair of pictures side by side"):
        main(config)


def test_stylize_makes_pictures_of_any_size_by_what_was_learnt(
    undisturbed: Path, place: Path, tmp_path: Path
):
    op = StylizeConfig(weights=str(undisturbed / BEST))
    config = stylize.Config(
        data=Source(uri=str(place / "maps")),
        op=op,
        resources=Resources(engine="inline", actors=1),
        format="png",
        out=str(tmp_path / "out"),
    )
    run = stylize.main(config)
    rows = [row for batch in run.results() for row in batch.to_pylist()]
    assert [row["status"] for row in rows] == ["ok"] * 3
    for row in rows:
        with Image.open(row["image_uri"]) as made, Image.open(place / "maps" / row["id"]) as given:
            assert made.size == given.size == (row["width_px"], row["height_px"])
            assert np.asarray(made).std() > 10
    styled = replace(config, op=replace(op, styles=("waves",)), out=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"op.styles: .* has no styles"):
        stylize.main(styled)
    assert not (tmp_path / "other").exists()


def shares(*means: float) -> list[dict[str, float]]:
    return [{"real_accuracy": mean - 0.02, "made_accuracy": mean + 0.02} for mean in means]


def test_who_wins_is_said_after_three_epochs_in_a_row():
    assert balance(shares(0.97, 0.97)) == ""
    assert "the discriminator wins" in balance(shares(0.6, 0.97, 0.96, 0.96))
    assert balance(shares(0.97, 0.96, 0.94)) == ""
    assert "the discriminator is beaten" in balance(shares(0.9, 0.5, 0.54, 0.5))
    assert balance(shares(0.5, 0.56, 0.5)) == ""
    # one that takes everything for made knows no more than a coin
    blind = [{"real_accuracy": 0.02, "made_accuracy": 0.99}] * 3
    assert "no better than a coin" in balance(blind)


@pytest.mark.parametrize(
    ("rate", "discriminator_rate", "said"),
    [(5e-3, 1e-8, "the discriminator is beaten"), (1e-8, 5e5, "the discriminator wins")],
)
def test_a_training_in_which_one_wins_warns_in_the_log_and_on_the_page(
    place: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    rate: float,
    discriminator_rate: float,
    said: str,
):
    """A discriminator that cannot learn; one that does, before a generator that cannot."""
    config = small(place, tmp_path)
    config = replace(
        config,
        optim=replace(config.optim, learning_rate=rate),
        loss=TranslationLossConfig(discriminator_rate=discriminator_rate),
        training=replace(config.training, epochs=14),
    )
    main(config)
    assert said in caplog.text
    page = (tmp_path / "report" / "index.html").read_text()
    assert said[1:] in page  # a sentence begins with a capital letter


def small_gan(place: Path, out: Path) -> train_gan.Config:
    base = train_gan.parse([])
    return replace(
        base,
        data=Source(uri=str(place / "maps"), slice_rows=1),
        validation=Source(uri=str(place / "pairs"), slice_rows=8),
        model=GanModelConfig(
            width=2,
            noise=Noise(length=6),
            preprocess=Preprocess(height_px=16, width_px=16, resize_px=16),
        ),
        training=TrainingConfig(epochs=3, batch_size=2, seed=1),
        resources=INLINE,
        out=str(out),
    )


def test_a_dcgan_is_trained_and_goes_on_after_a_kill_bit_for_bit(place: Path, tmp_path: Path):
    once, again = (small_gan(place, tmp_path / name) for name in ("once", "again"))
    train_gan.main(once)
    with pytest.raises(Killed):
        fit_with(again, train_gan.TASK, 2, die_here)
    train_gan.main(again)
    assert_same_training(tmp_path / "again", tmp_path / "once")
    network, card = load_checkpoint(tmp_path / "once" / BEST, "cpu")
    assert isinstance(network, DcganGenerator)
    assert (card.network, card.embedding_size) == ("dcgan:2x16", 6)
    losses = [metrics["loss"] for metrics in metrics_of(tmp_path / "once")]
    manifest = json.loads((tmp_path / "once" / "manifest.json").read_text())
    assert manifest["metrics"]["loss"] in losses
    assert min(losses) > 0
    page = (tmp_path / "once" / "report" / "index.html").read_text()
    assert "on others: sliced Wasserstein distance 0." in page
    assert "Does it fit" not in page
    assert page.count("data:image/png;base64") == 24


@pytest.mark.slow
def test_two_workers_learn_as_one_without_dropout(place: Path, tmp_path: Path):
    """By SGD: Adam's first steps have the size of the rate, whichever sign last bits give them."""

    def asked(name: str) -> Training:
        config = small(place, tmp_path / name)
        optim = replace(config.optim, optimizer="sgd", learning_rate=1e-3)
        model, training = replace(MODEL, dropout=0.0), replace(config.training, epochs=1)
        return prepared(replace(config, model=model, optim=optim, training=training), TASK)

    one, two = asked("1"), asked("2")
    fit(one, INLINE)
    train_in_two(two, tmp_path / "meeting")
    wanted, found = load_file(tmp_path / "1" / LAST), load_file(tmp_path / "2" / LAST)
    first = one.make_learner(torch.device("cpu")).networks["generator"].state_dict()
    moved = max((value - first[name]).abs().max().item() for name, value in wanted.items())
    off = max((value - found[name]).abs().max().item() for name, value in wanted.items())
    assert off < 1e-3 * moved
    ours, theirs = metrics_of(tmp_path / "2"), metrics_of(tmp_path / "1")
    names = ("loss", "difference", "objective", "l1", "generator_loss", "discriminator_loss")
    for name in names:
        assert ours[0][name] == pytest.approx(theirs[0][name], rel=1e-4)


def test_dry_runs_tell_and_write_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    jobs: list[Callable[[], Any]] = [
        partial(main, small(place, tmp_path / "a", dry_run=True)),
        partial(train_gan.main, replace(small_gan(place, tmp_path / "b"), dry_run=True)),
    ]
    for job in jobs:
        job()
        told = capsys.readouterr().out
        for text in ("to learn from", "of generator", "of discriminator", "not begun"):
            assert text in told
    assert not list(tmp_path.iterdir())


def test_options_reach_their_fields():
    words = ["--model.preprocess.source", "left", "--model.preprocess.height-px", "128"]
    config = parse([*words, "--model.preprocess.width-px", "128", "--loss.l1-weight", "10"])
    assert config.model.preprocess.source == "left"
    assert (config.model.network, config.loss.l1_weight) == ("unet:32x7", 10)
    assert train_gan.parse(["--model.noise.length", "8"]).model.noise == Noise(length=8)


def test_pairs_that_are_learnt_from_and_validated_on_are_said_whatever_they_are_called(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    kept, pairs = tmp_path / "kept", place / "pairs"
    kept.mkdir()
    Image.open(pairs / "deep" / "1.png").save(kept / "copy.bmp")
    Image.open(pairs / "3.png").save(kept / "other name.webp", lossless=True)
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (16, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(kept / f"{number}.png")
    config = small(place, tmp_path / "out", validation=Source(uri=str(kept)))
    main(replace(config, training=replace(config.training, epochs=1)))
    said = "2 of 5 inputs to validate on are learnt from too, the same value by value"
    assert said in caplog.text
    assert said in (tmp_path / "out" / "report" / "index.html").read_text()


def test_pairs_of_which_none_is_learnt_from_are_no_cause_for_a_word(
    undisturbed: Path, place: Path, tmp_path: Path
):
    assert "learnt from too" not in (undisturbed / "report" / "index.html").read_text()
    training = prepared(small(place, tmp_path), TASK)
    assert shared_pictures(training.learn, training.validate) == ""
    assert shared_pictures(training.learn, training.learn) != ""


@pytest.mark.slow
@pytest.mark.parametrize("kept_back", [False, True], ids=["a part", "what holds them all"])
def test_the_command_of_the_readme_learns_from_pairs_that_others_made(
    shared_data: Path, tmp_path: Path, kept_back: bool
):
    """As it is there, but for a network so small, twice; and validated on a folder of copies."""
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (command,) = re.findall(r"python -m jobs\.train_translation (--data\.uri facades.*)", readme)
    asked = parse([*shlex.split(command), "--resources.engine", "inline"])
    assert (asked.model.width, asked.model.preprocess.shape) == (64, (2, 256, 256, 3))
    small_pairs = replace(asked.model.preprocess, height_px=64, width_px=64)
    facades = shared_data / "facades"
    config = replace(
        asked,
        data=Source(uri=str(facades / "train")),
        model=replace(asked.model, width=4, preprocess=small_pairs, discriminator_halvings=2),
        optim=replace(asked.optim, learning_rate=3e-3),
        training=replace(asked.training, epochs=2),
        out=str(tmp_path),
    )
    if kept_back:
        config = replace(config, validation=Source(uri=str(facades / "val")))
    run = main(config)
    assert sum(run.manifest["counts"].values()) == (255 if kept_back else 100)
    assert metrics_of(tmp_path)[-1]["difference"] < 0.25
    page = (tmp_path / "report" / "index.html").read_text()
    assert ("100 of 155 inputs to validate on are learnt from too" in page) == kept_back
