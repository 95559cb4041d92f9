"""Single images of a finished run, for the pictures of a page."""

import io
import tarfile
from pathlib import Path

import pytest

from jobs.runtime.reread import read_images
from jobs.runtime.resources import Resources
from tests.jobs.runtime.toy import make_pictures, run_toy

INLINE = Resources(engine="inline", max_failed_fraction=1.0)


def test_single_images_are_read_again_by_id(tmp_path: Path):
    _, run = run_toy(make_pictures(tmp_path / "in", 35), tmp_path / "out", INLINE)
    run.manifest["config"] = {"data": run.manifest["identity"]["data"]}

    found = read_images(run, ["0000.png", "0034.png", "never.png"])

    assert found == {"0000.png": b"a" * 10, "0034.png": b"i" * 10}


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_single_images_of_tars_are_read_again_without_the_others(tmp_path: Path, ending: str):
    (tmp_path / "in").mkdir()
    for shard in "ab":
        with tarfile.open(
            tmp_path / "in" / f"{shard}.{ending}", "w:gz" if "gz" in ending else "w"
        ) as tar:
            for number in range(25):
                header = tarfile.TarInfo(f"x/{number}.png")
                header.size = 10
                tar.addfile(header, io.BytesIO(bytes([97 + number]) * 10))
    _, run = run_toy(tmp_path / "in", tmp_path / "out", INLINE)
    run.manifest["config"] = {"data": run.manifest["identity"]["data"]}

    asked = [f"a.{ending}#x/3.png", f"b.{ending}#x/24.png", f"b.{ending}#x/99.png", "c.tar#x/1.png"]
    assert read_images(run, asked) == {asked[0]: b"d" * 10, asked[1]: b"y" * 10}

    tar = tmp_path / "in" / f"b.{ending}"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    assert read_images(run, asked) == {asked[0]: b"d" * 10}  # as far as it can be read
    tar.unlink()
    assert read_images(run, asked) == {asked[0]: b"d" * 10}
