"""Pictures of noise, measured: as a set, against pictures that somebody names."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from jobs import evaluate
from jobs.generate import main as generate
from jobs.pictures.measured import PictureEvaluation
from jobs.pictures.measuring import PictureProtocol
from tests.jobs import test_generate
from tests.jobs.test_generate import asked
from tests.untrained import save_untrained
from vision_ops.metrics.frechet import SpreadAccumulator, frechet_distance
from vision_ops.style.compare import CompareConfig, Comparer

weights = test_generate.weights  # a fixture


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_untrained(tmp_path_factory.mktemp("features") / "w.safetensors", size_px=32)


@pytest.fixture(scope="module")
def made(weights: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven pictures, 16 px square."""
    out = tmp_path_factory.mktemp("made")
    generate(asked(weights, out))
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures wider than high, and one that is none."""
    folder, whole = tmp_path_factory.mktemp("photos"), load_sample_images().images[0]
    for number in range(5):
        piece = whole[30:90, 40 * number : 40 * number + 80]
        Image.fromarray(piece).save(folder / f"{number}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def measured(made: Path, out: Path, **asked: Any) -> PictureEvaluation:
    config = evaluate.Config(run=str(made), out=str(out), pictures=PictureProtocol(**asked))
    found = evaluate.main(config)
    assert isinstance(found, PictureEvaluation)
    return found


def test_pictures_of_noise_are_as_far_from_photographs_as_their_features_are(
    made: Path, photos: Path, features: str, tmp_path: Path
):
    found = measured(made, tmp_path, features=features, reference=str(photos))
    assert found.frechet is not None
    assert (found.frechet.num_pictures, found.frechet.num_reference) == (7, 5)
    assert found.counts["reference_unreadable"] == 1
    assert not found.measures
    comparer = Comparer(CompareConfig(weights=features))

    def spread(pictures: Sequence[Image.Image]) -> Any:
        seen = [comparer.embedding(comparer.look(np.asarray(each))) for each in pictures]
        sums = SpreadAccumulator(len(seen[0]))
        sums.update(np.stack(seen))
        return sums.result()

    pictures = [Image.open(path) for path in sorted((made / "images").glob("*.png"))]
    wanted = [
        ImageOps.fit(Image.open(photos / f"{number}.png"), (16, 16), Image.Resampling.BILINEAR)
        for number in range(5)
    ]
    expected = frechet_distance(spread(pictures), spread(wanted))
    assert found.frechet.distance == pytest.approx(expected, rel=1e-3)
    told = json.loads((tmp_path / "metrics.json").read_text())
    assert told["frechet"]["distance"] == found.frechet.distance
    page = (tmp_path / "report" / "index.html").read_text()
    assert "As a set" in page
    assert "Not to be trusted" in page
    assert "Worst by" not in page


def test_pictures_of_noise_are_no_distance_from_themselves(
    made: Path, features: str, tmp_path: Path
):
    found = measured(made, tmp_path, features=features, reference=str(made / "images"))
    assert found.frechet is not None
    assert found.frechet.distance == pytest.approx(0, abs=1e-3)  # float32 rows


def test_a_picture_that_is_gone_is_counted(weights: str, features: str, tmp_path: Path):
    generate(asked(weights, tmp_path / "run"))
    reference = str(tmp_path / "run" / "images")
    (tmp_path / "run" / "images" / "00000002.png").unlink()
    found = measured(tmp_path / "run", tmp_path / "out", features=features, reference=reference)
    assert (found.counts["measured"], found.counts["without_picture"]) == (6, 1)


@pytest.mark.parametrize(
    ("asked_for", "said"),
    [
        ({}, "pictures.reference: pictures of noise are held against others as a set"),
        ({"reference": "nowhere"}, "pictures.reference: nothing at"),
        ({"reference": "x", "targets": "y"}, "pictures.reference: pictures of noise"),
        ({"reference": "x", "styles": ("z",)}, "pictures.styles: .* are in no style"),
    ],
)
def test_what_pictures_of_noise_cannot_be_held_against_is_refused(
    made: Path, features: str, tmp_path: Path, asked_for: dict[str, Any], said: str
):
    with pytest.raises(ValueError, match=said):
        measured(made, tmp_path / "out", features=features, **asked_for)
    assert not (tmp_path / "out" / "metrics.json").exists()
