"""What trainings on samples reach, as README has it: a minute or two each, hence slow."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import make_samples
from jobs.runtime.checkpoints import best_of
from jobs.runtime.sources.origin import Source
from jobs.train_classifier import PRESETS, Config, main
from tests.jobs.broken_off import metrics_of
from tests.jobs.coloured import INLINE
from vision_ops.augment import AugmentConfig

pytestmark = pytest.mark.slow


def written(files: Iterator[tuple[str, bytes]], folder: Path) -> Path:
    for name, data in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("network", "lowest", "highest"),
    [("cnn_mean:residual", 0.1, 0.4), ("cnn_gru:residual", 0.99, 1.0)],
)
def test_only_what_sees_the_order_of_frames_knows_where_a_blob_moves(
    tmp_path: Path, network: str, lowest: float, highest: float
):
    """On 80 clips; chance is 25 %, with a standard error of 5: within three of them."""
    clips = written(make_samples.clips(0), tmp_path) / "clips"
    config = PRESETS["moving_blob"]()
    config = replace(
        config,
        data=Source(uri=str(clips / "train"), label="folder"),
        validation=Source(uri=str(clips / "test"), label="folder"),
        model=replace(config.model, network=network),
        resources=INLINE,
        out=str(tmp_path / "out"),
    )
    run = main(config)
    assert run.manifest["counts"] == {"learn": 160, "validate": 80}
    assert lowest <= metrics_of(tmp_path / "out")[-1]["accuracy"] <= highest


def test_remedies_against_overfitting_shrink_the_gap_on_500_digits(tmp_path: Path):
    """By a third, and the loss on others does not suffer."""
    digits = written(make_samples.digits(0), tmp_path) / "digits"
    config = Config()
    helped = replace(
        config,
        data=replace(config.data, uri=str(digits / "train")),
        model=replace(config.model, dropout=0.2),
        loss=replace(config.loss, label_smoothing=0.0),
        training=replace(
            config.training,
            epochs=40, batch_size=32, max_examples=500, validation_fraction=0.3,
        ),
        resources=INLINE,
        out=str(tmp_path / "helped"),
    )  # fmt: skip
    plain = replace(
        helped,
        model=config.model,
        optim=replace(config.optim, weight_decay=0.0),
        augment=AugmentConfig(),
        out=str(tmp_path / "plain"),
    )
    gaps, losses = [], []
    for asked in (plain, helped):
        main(asked)
        best = best_of(metrics_of(Path(asked.out)))
        gaps.append(best["loss"] - best["train_loss"])
        losses.append(best["loss"])
    assert gaps[1] <= 0.7 * gaps[0]
    assert losses[1] <= losses[0]
