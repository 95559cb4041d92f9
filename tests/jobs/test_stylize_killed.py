"""SIGKILL twice while pictures are made of photographs with odd names: the tree of one run."""

import os
import random
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jobs.runtime.drawn import read_pictures
from jobs.runtime.resources import Resources
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage
from jobs.stylize import Config, main
from tests.jobs.killed import END_S, RAY, Attempt, descendants, parts_of, wait_for_parts
from tests.untrained import save_untrained
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.style.gatys_config import GatysConfig

FOLDERS = ("", "a b", "ü/é/ß", "100%", "x#y", "deep/er/and/deeper")
NUM_PICTURES = 30
BAD = {
    "a b/no picture.jpg": b"no picture",
    "empty.png": b"",
    "100%/cut off.jpg": b"\xff\xd8\xff\xe0",
}
STEPS = 3


def draw_pictures(folder: Path) -> None:
    """Parts of two photographs in nested folders, some of one name but for their ending."""
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(NUM_PICTURES):
        left, width, height = 9 * number, 40 + 3 * (number % 9), 40 + 5 * (number % 5)
        part = photographs[number % 2].crop((left, 40, left + width, 40 + height))
        name = f"{number // 12} photo{('.jpg', '.png')[number // 6 % 2]}"
        path = folder / FOLDERS[number % len(FOLDERS)] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part.save(path)
    for name, data in BAD.items():
        (folder / name).write_bytes(data)


@pytest.fixture(scope="module", params=["files", "archives"])
def attempt(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Attempt:
    """A run of stylize; it was at `out` beside it, for rows tell where their pictures lie."""
    root, archives = tmp_path_factory.mktemp("killed"), request.param == "archives"
    draw_pictures(root / "in")
    Image.fromarray(load_sample_images().images[1][:64, :64]).save(root / "style.png")
    op = StylizeConfig(
        weights=save_untrained(root / "w.safetensors", 48),
        styles=(str(root / "style.png"),),
        longest_px=48,
        gatys=GatysConfig(steps=STEPS, levels=1),
    )
    data = Source(uri=str(root / "in"), slice_rows=2)
    inline = Resources(engine="inline")
    main(Config(data=data, op=op, resources=inline, archives=archives, out=str(root / "out")))
    (root / "out").rename(root / "undisturbed")
    options = ["--data.uri", data.uri, "--data.slice-rows", "2", "--op.longest-px", "48"]
    options += ["--op.weights", op.weights, "--op.styles", *op.styles]
    options += ["--op.gatys.steps", str(STEPS), "--op.gatys.levels", "1"]
    options += ["--archives"] if archives else []
    return Attempt(job="jobs.stylize", options=options, undisturbed=root / "undisturbed")


def images_of(run: Path) -> dict[str, bytes]:
    below = run / "images"
    return {str(p.relative_to(below)): p.read_bytes() for p in below.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_a_run_killed_twice_and_finished_has_the_tree_of_an_undisturbed_one(attempt: Attempt):
    out, chance = attempt.undisturbed.parent / "out", random.Random(3)
    for parts, title in ((2, ""), (6, "ray::MapWorker")):
        run = attempt.start(out, *RAY)
        try:
            wait_for_parts(out, parts, run)
            below = [pid for pid, name in descendants(run.pid).items() if name.startswith(title)]
            os.kill(chance.choice(below) if title and below else run.pid, signal.SIGKILL)
            if title:
                os.kill(run.pid, signal.SIGKILL)
            run.wait(END_S)
        finally:
            run.kill()
            run.wait()
    again = attempt.start(out, *RAY, "--resources.batch-size", "1")
    try:
        again.wait(END_S)
    finally:
        again.kill()
        again.wait()
    assert again.returncode == 0, (out.parent / "out.log").read_text()
    assert parts_of(out) == parts_of(attempt.undisturbed)
    assert images_of(out) == images_of(attempt.undisturbed)
    rows = pq.read_table(out / "results").to_pylist()
    assert {row["id"] for row in rows if row["status"] == "failed"} == set(BAD)
    found = read_pictures(Storage(None), [row["image_uri"] for row in rows if row["image_uri"]])
    assert len(found) == NUM_PICTURES
    names = {uri.partition("/images/")[2].rpartition("#")[2] for uri in found}
    assert "x%23y/0 photo.jpg" in names
