"""Networks that make pictures, trained by a worker of Ray Train: bit for bit as in one process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import train_gan, train_style, train_translation
from jobs.runtime.training import TrainingResources
from tests.jobs import test_train_style, test_train_translation
from tests.jobs.broken_off import assert_same_training
from tests.jobs.test_train_style import small as small_style
from tests.jobs.test_train_translation import small as small_translation
from tests.jobs.test_train_translation import small_gan

photos, pairs = test_train_style.place, test_train_translation.place  # fixtures
JOBS: dict[str, tuple[Callable[[Any], Any], Callable[[Path, Path], Any]]] = {
    "photos": (train_style.main, small_style),
    "pairs": (train_translation.main, small_translation),
    "noise": (train_gan.main, small_gan),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", JOBS)
def test_a_worker_of_ray_learns_what_this_process_does(
    local_ray: None, photos: Path, pairs: Path, tmp_path: Path, kind: str
):
    main, small = JOBS[kind]
    place = photos if kind == "photos" else pairs
    here, there = (small(place, tmp_path / name) for name in ("here", "there"))
    on_ray = TrainingResources(
        engine="ray", cpus_per_worker=1, checkpoint_every_s=0, max_failed_fraction=0.5
    )
    main(here)
    run = main(replace(there, resources=on_ray))
    assert run.manifest["status"] == "done"
    assert_same_training(tmp_path / "there", tmp_path / "here")
