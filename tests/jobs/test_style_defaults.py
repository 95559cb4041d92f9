"""Style transfer without flags: the whole road; what makes pictures where no weights are named."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs import stylize
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.stylize import LEARNT, Config
from tests.jobs.broken_off import metrics_of
from tests.jobs.test_stylize import QUICK, images_of, save_painter
from tests.untrained import save_random
from vision_ops.card import CARD_FORMAT
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.style.compare import CompareConfig, Comparer
from vision_ops.weights.hub import published

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place with a photograph and a style; no weights in a cache, no network."""
    for variable in ("ARGUS_CACHE", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    values = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "photos" / "a.png")
    Image.fromarray(values[::-1, :40]).save(tmp_path / "wave.png")
    return tmp_path


def asked(**op: Any) -> Config:
    return Config(
        data=Source(uri="photos"),
        op=StylizeConfig(longest_px=64, **op),
        resources=Resources(engine="inline", actors=1),
        out="out",
    )


def weights_of(run: Run) -> str:
    return run.manifest["weights"]["source"]


@pytest.mark.slow  # half a gigabyte of weights
def test_pictures_are_optimised_by_vgg_19_where_it_is_on_the_machine(here: Path):
    name = published("torchvision:vgg19").name
    slug = name.replace("/", "-").replace(":", "-")
    pulled = here / "ARGUS_CACHE/weights" / f"{slug}.card{CARD_FORMAT}.safetensors"
    pulled.parent.mkdir(parents=True)
    save_random(pulled, "torchvision:vgg19")
    run = stylize.main(asked(styles=("wave.png",), gatys=QUICK))
    assert weights_of(run) == name == "torchvision:vgg19/IMAGENET1K_V1"
    assert set(images_of(here / "out")) == {"a.png.jpg"}


def test_where_vgg_19_cannot_be_had_the_refusal_says_what_does_without(here: Path):
    with pytest.raises(ValueError, match="op.weights: any classifier .* `untrained:textures`"):
        stylize.main(asked(styles=("wave.png",)))
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("network", "classes", "styles"),
    [
        ("style_transform:4", ("waves",), ()),
        ("style_transform:4", ("waves", "dots"), ("dots",)),
        ("adain:torchvision:squeezenet1_1/features.4", (), ("wave.png",)),
    ],
)
def test_what_was_learnt_last_makes_the_pictures_that_it_can(
    here: Path, network: str, classes: tuple[str, ...], styles: tuple[str, ...]
):
    Path(LEARNT).parent.mkdir(parents=True)
    save_painter(Path(LEARNT), network, classes)
    assert weights_of(stylize.main(asked(styles=styles))) == LEARNT


def test_files_of_styles_are_nothing_for_a_network_that_learnt_others(here: Path):
    Path(LEARNT).parent.mkdir(parents=True)
    save_painter(Path(LEARNT), "style_transform:4")
    with pytest.raises(ValueError, match="torchvision:vgg19"):
        stylize.main(asked(styles=("wave.png",)))


@pytest.mark.slow
def test_samples_a_training_and_stylize_without_flags_give_pictures_in_the_style(tmp_path: Path):
    for job in ("make_samples", "train_style", "stylize"):
        subprocess.run(
            [sys.executable, "-m", f"jobs.{job}"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=900,
        )  # fmt: skip
    runs = tmp_path / "runs"
    last = metrics_of(runs / "train_style")[-1]
    assert last["loss"] < 0.6 * last["unchanged"]
    assert json.loads((runs / "stylize/manifest.json").read_text())["status"] == "done"
    features = runs / "train_style/checkpoints/features.safetensors"
    comparer = Comparer(CompareConfig(weights=str(features)))
    pixels = np.asarray(Image.open(runs / "make_samples/styles/waves.png").convert("RGB"))
    style = comparer.style_of([pixels], [1.0])
    images = sorted((runs / "stylize/images").rglob("*.jpg"))
    assert len(images) == 48
    left = []
    for path in images[::6]:
        content = runs / "make_samples/photos" / path.relative_to(runs / "stylize/images")
        seen = [comparer.look(np.asarray(Image.open(p).convert("RGB"))) for p in (path, content)]
        made, before = (comparer.style_cost(maps, style) for maps in seen)
        left.append(made / before)
    assert max(left) < 0.3
