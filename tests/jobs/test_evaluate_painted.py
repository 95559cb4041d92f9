"""Pictures that trained networks painted, measured against styles that files or trainings name."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from jobs import evaluate, stylize
from jobs.pictures.measured import PictureEvaluation
from jobs.pictures.measuring import PictureProtocol
from jobs.runtime.resources import Resources
from jobs.runtime.sources.origin import Source
from tests.untrained import save_untrained
from vision_ops.canvas import Canvas
from vision_ops.card import Card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.models import build
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.style.compare import CompareConfig, Comparer

INLINE = Resources(engine="inline", actors=1)
DOTTED = ("mona.lisa", "van.gogh")
"""what lies behind the last dot might be an ending"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs, two style pictures of dotted names, a classifier."""
    root, whole = tmp_path_factory.mktemp("place"), Image.fromarray(load_sample_images().images[0])
    (root / "photos").mkdir()
    (root / "styles").mkdir()
    for number in range(2):
        left = 60 * number
        whole.crop((left, 30, left + 48, 90)).save(root / "photos" / f"{number}.png")
    y, x = np.mgrid[0:48, 0:56]
    rings = np.stack([127 + 120 * np.sin(np.hypot(y, x) / k) for k in (2, 3, 5)], axis=2)
    dark = np.full((48, 56, 3), (20, 0, 40))
    for name, style in zip(DOTTED, (rings, dark), strict=True):
        Image.fromarray(style.astype(np.uint8)).save(root / "styles" / f"{name}.png")
    save_untrained(root / "features.safetensors", size_px=32)
    return root


def save_painter(path: Path, network: str, learnt: tuple[str, ...]) -> str:
    torch.manual_seed(0)
    card = Card(
        network=network,
        classes=learnt,
        preprocess=Canvas(),
        licence="none",
        source="random",
        embedding_size=0,
    )
    save_checkpoint(path, build(network, len(learnt)), card)
    return str(path)


def painted(place: Path, out: Path, op: StylizeConfig) -> Path:
    source = Source(uri=str(place / "photos"))
    run = stylize.Config(data=source, op=op, resources=INLINE, format="png", out=str(out))
    stylize.main(run)
    return out


def measured(place: Path, run: Path, out: Path, styles: tuple[str, ...] = ()) -> pd.DataFrame:
    asked = PictureProtocol(features=str(place / "features.safetensors"), styles=styles)
    found = evaluate.main(evaluate.Config(run=str(run), out=str(out), pictures=asked))
    assert isinstance(found, PictureEvaluation)
    assert not found.missing
    return pd.read_parquet(out / "results")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def cost(place: Path, picture: Path, shares: dict[str, float]) -> float:
    """The style cost of a picture, computed anew; the style pictures are too small to reduce."""
    comparer = Comparer(CompareConfig(weights=str(place / "features.safetensors")))
    styles = [pixels(place / "styles" / f"{name}.png") for name in shares]
    grams = comparer.style_of(styles, list(shares.values()))
    return comparer.style_cost(comparer.look(pixels(picture)), grams)


def test_pictures_in_any_style_are_held_against_the_files_that_they_were_painted_in(
    place: Path, tmp_path: Path
):
    weights = save_painter(tmp_path / "any.safetensors", "adain:residual/blocks.0", ())
    files = tuple(str(place / "styles" / f"{name}.png") for name in DOTTED)
    op = StylizeConfig(weights=weights, styles=files, style_weights=(3, 1), longest_px=48)
    run = painted(place, tmp_path / "mixed", op)
    rows = measured(place, run, tmp_path / "measured").set_index("id")
    wanted = {DOTTED[0]: 0.75, DOTTED[1]: 0.25}
    for name in ("0.png", "1.png"):
        expected = cost(place, run / "images" / name, wanted)
        assert rows.loc[name, "style_cost"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("network", ["adain:residual/blocks.0", "style_transform:4"])
def test_a_picture_in_each_of_styles_with_dots_in_their_names_is_held_against_its_own(
    place: Path, tmp_path: Path, network: str
):
    """A network that learnt styles knows them by name; their pictures are told."""
    learnt = () if network.startswith("adain") else DOTTED
    weights = save_painter(tmp_path / "painter.safetensors", network, learnt)
    files = tuple(str(place / "styles" / f"{name}.png") for name in DOTTED)
    op = StylizeConfig(weights=weights, styles=learnt or files, each=True, longest_px=48)
    run = painted(place, tmp_path / "each", op)
    told = (str(place / "styles"),) if learnt else ()
    rows = measured(place, run, tmp_path / "measured", told)
    assert len(rows) == 4
    for row in rows.to_dict("records"):
        style = next(name for name in DOTTED if name.startswith(row["style"]))
        picture = run / "images" / row["style"] / row["id"]
        expected, other = (
            cost(place, picture, {name: 1.0}) for name in (style, *(set(DOTTED) - {style}))
        )
        assert row["style_cost"] == pytest.approx(expected, rel=1e-5)
        assert row["style_cost"] != pytest.approx(other, rel=1e-3)


def test_what_a_generator_made_has_no_style(place: Path, tmp_path: Path):
    weights = save_painter(tmp_path / "unet.safetensors", "unet:2x4", ())
    run = painted(place, tmp_path / "translated", StylizeConfig(weights=weights, longest_px=48))
    rows = measured(place, run, tmp_path / "measured")
    assert np.isfinite(rows["ssim"].to_numpy()).all()
    assert np.isnan(rows["style_cost"].to_numpy(float)).all()
    with pytest.raises(ValueError, match=r"pictures\.styles: .* are in no style"):
        measured(place, run, tmp_path / "told", (str(place / "styles"),))
