"""The road of style transfer without a flag: samples, a network that learns, pictures by it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.jobs.broken_off import metrics_of
from vision_ops.style.compare import CompareConfig, Comparer

ROOT = Path(__file__).resolve().parents[2]


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
