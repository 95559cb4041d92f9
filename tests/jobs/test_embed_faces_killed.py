"""SIGKILL while faces are found and embedded, crops written: the rows of an undisturbed run."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jobs.embed_faces import Config, main
from jobs.runtime.resources import Resources
from jobs.runtime.sources.origin import Source
from tests.jobs.killed import Attempt
from tests.made_detectors import save_retinaface
from tests.untrained import save_embedder
from vision_ops.faces.detect import DetectorConfig
from vision_ops.operators.embed_faces import FacesConfig

SLICE_ROWS = 4
NUM_PICTURES = 60


def draw_pictures(folder: Path) -> None:
    """Parts of two photographs, of many sizes; one that is none."""
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    folder.mkdir()
    for number in range(NUM_PICTURES - 1):
        left, width, height = 7 * (number % 13), 64 + 9 * (number % 11), 48 + 13 * (number % 7)
        part = photographs[number % 2].crop((left, 40, left + width, 40 + height))
        part.save(folder / f"{number:02}.png")
    (folder / "broken.png").write_bytes(b"no picture")


@pytest.fixture(scope="module")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Attempt:
    """A run of embed_faces by a detector that finds several faces in most pictures.

    It was at `out` beside it, for rows tell where their crops lie.
    """
    root = tmp_path_factory.mktemp("killed")
    draw_pictures(root / "in")
    op = FacesConfig(
        weights=save_embedder(root / "w.safetensors", 48),
        detector=str(save_retinaface(root)),
        detect=DetectorConfig(max_faces=5, min_confidence=0.5),
        crops=True,
    )
    data = Source(uri=str(root / "in"), slice_rows=SLICE_ROWS)
    inline = Resources(engine="inline")
    main(Config(data=data, op=op, resources=inline, out=str(root / "out")))
    (root / "out").rename(root / "undisturbed")
    options = ["--data.uri", data.uri, "--data.slice-rows", str(SLICE_ROWS)]
    options += ["--op.weights", op.weights, "--op.detector", op.detector, "--op.crops"]
    options += ["--op.detect.max-faces", "5", "--op.detect.min-confidence", "0.5"]
    return Attempt(job="jobs.embed_faces", options=options, undisturbed=root / "undisturbed")


def images_of(run: Path) -> dict[str, bytes]:
    below = run / "images"
    return {str(p.relative_to(below)): p.read_bytes() for p in below.rglob("*.jpg")}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("victim", ["driver", "actor", "decoder"])
def test_a_killed_run_repeated_ends_with_the_same_bytes(
    attempt: Attempt, victim: str, seed: int, local_ray: None
):
    out = attempt.undisturbed.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    rows = attempt.assert_survives(out, victim, seed)
    assert len(set(rows["id"].to_pylist())) == rows.num_rows == NUM_PICTURES
    faces = sum(len(found or ()) for found in rows["faces"].to_pylist())
    assert faces > NUM_PICTURES
    assert images_of(out) == images_of(attempt.undisturbed)
    assert len(images_of(out)) == faces
