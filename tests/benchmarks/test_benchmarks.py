import io
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.navigation.layouts import RoomsConfig
from jobs.navigation.rooms import Rooms
from jobs.runtime.slices import Row
from jobs.runtime.sources import choose, cut_slices, read_slice
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage
from jobs.runtime.training import TrainingResources
from tests.benchmarks import agents, clips, forward, navigation_worlds
from tests.benchmarks.contenders import Contender, number_of, parse_contender
from tests.benchmarks.figures import Done, make_figures, note_batch, read_notes, steady_rate
from tests.benchmarks.photographs import (
    LABELS,
    SIZES,
    Layout,
    label_of,
    make_photograph,
    write_photographs,
)
from tests.benchmarks.processes import MARK, Tree, new_mark
from tests.benchmarks.summary import Outcome, plot, share_equal, summarise, table
from tests.benchmarks.training import Config as TrainingBenchmark
from tests.benchmarks.training import make_request, plain_rate, rate_of, write_pictures
from tests.made_clips import made
from vision_ops.clips.decode import DecodeClip
from vision_ops.decode import DecodeConfig, read_rgb

COUNT = 40


def test_a_photograph_is_the_same_whenever_it_is_made():
    first = make_photograph(7)
    assert make_photograph(7) == first
    assert make_photograph(7, seed=1).data != first.data
    assert first.label == label_of(7)


def test_photographs_have_sizes_and_bytes_like_those_of_imagenet():
    made = [make_photograph(number) for number in range(COUNT)]
    sizes = [tuple(sorted(read_rgb(each.data).size, reverse=True)) for each in made]
    assert set(sizes) <= set(SIZES)
    assert max(set(sizes), key=sizes.count) == (500, 375)
    assert 50_000 < np.mean([len(each.data) for each in made]) < 200_000


def test_photographs_with_one_label_show_the_same_region():
    """The most similar of others has the same label far more often than one in 40."""
    seen = {number: tiny(number) for number in range(3 * COUNT)}
    hits = 0
    for number, picture in seen.items():
        distances = {n: np.abs(other - picture).sum() for n, other in seen.items() if n != number}
        nearest = min(distances, key=distances.__getitem__)
        hits += label_of(nearest) == label_of(number)
    assert hits / len(seen) > 8 / len(LABELS)


def tiny(number: int) -> np.ndarray:
    """A photograph in 8 x 8 pixels, blind to mirroring and to light."""
    image = Image.open(io.BytesIO(make_photograph(number).data)).convert("RGB").resize((8, 8))
    pixels = np.asarray(image, np.float32)
    pixels = pixels + pixels[:, ::-1]
    return (pixels - pixels.mean()) / pixels.std()


@pytest.mark.parametrize(
    ("layout", "label"), [("files", "folder"), ("parquet", "auto"), ("tars", "auto")]
)
def test_argus_reads_every_photograph_of_a_layout_once(layout: Layout, label: str, tmp_path: Path):
    folder = write_photographs(tmp_path, layout, COUNT)
    stamp = folder.stat().st_mtime_ns
    rows = rows_of(folder, label)
    assert sorted(number_of(row.id) for row in rows) == list(range(COUNT))
    for row in rows:
        number = number_of(row.id)
        assert row.data == make_photograph(number).data
        index = str(LABELS.index(label_of(number)))
        assert row.truth == (index if layout == "tars" else label_of(number))
    assert write_photographs(tmp_path, layout, COUNT).stat().st_mtime_ns == stamp


def rows_of(folder: Path, label: str) -> list[Row]:
    origin = Origin(source=Source(uri=str(folder), label=label), storage=Storage())
    format, entries, _ = choose(origin, origin.find())
    return [r for piece in cut_slices(origin, format, entries) for r in read_slice(origin, piece)]


@pytest.mark.parametrize(
    "row_id",
    [
        "/data/files/china-07/000317.jpg",
        "file:///data/files/china-07/000317.jpg",
        "000317.jpg",
        "000300.parquet#17",
        "000300.tar#000317.jpg",
    ],
)
def test_every_contenders_id_names_its_photograph(row_id: str):
    assert number_of(row_id) == 317


def test_an_id_without_a_number_is_refused():
    with pytest.raises(ValueError, match="names no photograph"):
        number_of("photo.jpg")


def test_a_contender_may_have_a_precision_if_it_runs_argus_network():
    assert parse_contender("argus_ray:int8") == Contender(kind="argus_ray", precision="int8")
    assert parse_contender("argus_ray:int8").name == "argus_ray:int8"
    for wrong in ("spark", "loader:int8", "argus_ray:int4"):
        with pytest.raises(ValueError, match=wrong):
            parse_contender(wrong)


def at(*moments: tuple[float, int]) -> list[Done]:
    return [Done(time_s=moment, rows=rows) for moment, rows in moments]


def test_steady_rate_is_of_the_rows_after_a_fifth():
    # 100 rows; 20 are there at 12 s; the other 80 took until 22 s
    assert steady_rate(at((10, 10), (12, 10), (17, 40), (22, 40))) == 8.0
    # the batch that passes a fifth counts whole: 70 rows in 7 s
    assert steady_rate(at((10, 30), (12, 20), (17, 50))) == 10.0
    assert steady_rate(at((10, 100))) is None
    assert steady_rate([]) is None


def test_figures_are_told_from_the_start_of_the_process():
    figures = make_figures(at((110, 20), (120, 80)), start_s=100, stop_s=125, cpu_s=31)
    assert (figures.rows, figures.first_result_s, figures.total_s) == (100, 10, 25)
    assert (figures.steady_rate, figures.cpu_s) == (8.0, 31)
    with pytest.raises(ValueError, match="no row"):
        make_figures([], 0, 1, 0)


def outcome(contender: str, repeat: int, steady_s: float, total_s: float) -> Outcome:
    """A run of 100 rows, the last 80 of which took `steady_s`."""
    done = at((5, 20), (5 + steady_s, 80))
    figures = make_figures(done, start_s=0, stop_s=total_s, cpu_s=2 * total_s)
    return Outcome(
        network="net", layout="files", contender=contender, repeat=repeat, load=0, figures=figures
    )


def test_a_summary_holds_medians_ratios_and_agreement(tmp_path: Path):
    outcomes = [
        outcome("ray_recipe", 0, steady_s=8, total_s=50),
        outcome("argus_ray", 0, steady_s=2, total_s=20),
        outcome("ray_recipe", 1, steady_s=10, total_s=40),
        outcome("argus_ray", 1, steady_s=1, total_s=10),
        outcome("ray_recipe", 2, steady_s=16, total_s=100),
        Outcome(
            network="net",
            layout="files",
            contender="argus_ray",
            repeat=2,
            load=0,
            figures=None,
            failure="exit code 1: no memory",
        ),
        Outcome(
            network="net",
            layout="files",
            contender="loader",
            repeat=0,
            load=0,
            figures=None,
            failure="took longer than 9 s",
        ),
    ]
    found = {
        ("net", "files", "ray_recipe"): {0: "a", 1: "b", 2: "a", 3: "b"},
        ("net", "files", "argus_ray"): {0: "a", 1: "b", 2: "b", 3: "b"},
    }

    ray, argus, loader = summarise(outcomes, found, truth={0: "a", 1: "a", 2: "a", 3: "a"})

    assert (ray.steady_rate, ray.whole_rate, ray.total_s, ray.runs) == (8.0, 2.0, 50, 3)
    assert (ray.steady_ratio, ray.whole_ratio, ray.agreement, ray.accuracy) == (1, 1, 1, 0.5)
    assert argus.steady_rate == pytest.approx(60)  # of 40 and 80
    assert argus.whole_rate == pytest.approx(7.5)  # of 5 and 10
    assert argus.cpu_ms == pytest.approx(300)  # of 40 s and 20 s over 100 rows
    assert argus.steady_ratio == pytest.approx(7.5)
    assert argus.whole_ratio == pytest.approx(3.75)
    assert (argus.agreement, argus.accuracy, argus.runs) == (0.75, 0.25, 2)
    assert argus.failure == "exit code 1: no memory"
    assert (loader.runs, loader.steady_rate, loader.failure) == (0, None, "took longer than 9 s")
    assert "took longer than 9 s" in table([ray, argus, loader]).splitlines()[-1]
    plot([ray, argus, loader], tmp_path / "rates.png", "a machine")
    with Image.open(tmp_path / "rates.png") as picture:
        assert picture.width > 500


def test_agreement_is_over_the_references_photographs():
    assert share_equal({0: "a"}, {0: "a", 1: "a"}) == 0.5
    assert share_equal({0: "a"}, {}) is None


def test_batches_noted_by_a_process_are_read_in_order_of_time(tmp_path: Path):
    (tmp_path / "progress").mkdir()
    (tmp_path / "progress" / "1.log").write_text("20.5 7\n30.5 9\n")
    note_batch(tmp_path, rows=3)
    assert [note.rows for note in read_notes(tmp_path)] == [7, 9, 3]


def test_cpu_time_and_end_reach_a_grandchild_that_lost_its_parent():
    burn = "import time\nwhile True:\n    time.process_time()"
    start = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}])"
    mark = new_mark()
    tree = Tree(mark)
    subprocess.run([sys.executable, "-c", start], env=os.environ | {MARK: mark}, check=True)
    deadline = time.monotonic() + 10
    while tree.cpu_s < 0.2 and time.monotonic() < deadline:
        tree.look()
        time.sleep(0.05)
    assert tree.cpu_s >= 0.2
    assert len(tree.living()) == 1
    tree.end()
    while tree.living() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tree.living() == []


@pytest.mark.slow
def test_fit_and_the_plain_loop_both_tell_a_rate(tmp_path: Path):
    config = TrainingBenchmark(count=300, size_px=16, epochs=2)
    pixels = write_pictures(tmp_path / "pictures.parquet", config)
    assert pixels.shape == (300, 16, 16, 3)
    request = make_request(tmp_path / "pictures.parquet", config)
    inline = replace(request, resources=TrainingResources(engine="inline"), out=str(tmp_path / "a"))
    assert rate_of(inline) > 0
    assert plain_rate(pixels, config) > 0


def test_every_way_to_decode_a_clip_is_timed_and_the_plain_ones_give_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "clip.mp4").write_bytes(made("mp4 h264 b-frames"))
    clips.main(clips.Config(rounds=1, files=(tmp_path / "clip.mp4",)))
    assert capsys.readouterr().out.count("Argus, dense") == 2  # of the file, and together
    found = np.empty((2, *clips.UNIFORM.shape), np.uint8)
    clips.some_of_all(made("mp4 h264"), found[0])
    clips.all_converted(made("mp4 h264"), found[1])
    assert np.abs(found[0].astype(int) - found[1]).mean() < 2  # another conversion to RGB
    exact = DecodeClip(DecodeConfig(mode="exact"), clips.UNIFORM)
    assert exact(made("mp4 h264"), found[1]) == ""
    assert np.array_equal(found[0], found[1])


def test_every_world_is_played_and_told_with_its_picture(capsys: pytest.CaptureFixture[str]):
    navigation_worlds.main(navigation_worlds.Config(steps=300, rounds=1))
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()[1:]]
    told = {cells[0]: cells[1:] for cells in ([c.strip() for c in row if c] for row in rows)}
    assert told.keys() == navigation_worlds.worlds().keys()
    assert told[navigation_worlds.PEER][0] == "56 x 56"
    assert told["rooms, eye"][0] == "48 x 64"
    assert all(float(cells[1].replace(",", "")) > 0 for cells in told.values())
    env = Rooms(RoomsConfig(max_steps=10))
    env.reset(seed=0)
    assert navigation_worlds.play(env, [0] * 35) == 3


def test_the_plain_loop_beside_agents_acts_and_learns():
    world = "tests.jobs.navigation.worlds:corridor"
    told = agents.run_plain(agents.Config(world=world, steps=3 * agents.BATCH))
    assert told["steps_per_s"] > 0
    assert told["success"] == 1.0


def test_a_network_is_timed_beside_a_bare_loop(capsys: pytest.CaptureFixture[str]):
    forward.main(forward.Config(networks=("mobilefacenet",), seconds=0.01, rounds=1))
    _, head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["network", "precision", "pass", "bare", "loop", "Argus", "ratio"]
    assert {row.split()[0] for row in rows} == {"mobilefacenet"}
    for row in rows:
        bare, argus, ratio = (float(cell.replace(",", "")) for cell in row.split()[-3:])
        assert min(bare, argus, ratio) > 0
