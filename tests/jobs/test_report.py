"""Report pages: what they say, what they keep to themselves, and how a browser takes them."""

import re
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jobs.runtime.report import bulk, charts
from jobs.runtime.report.causes import Causes, pattern_of
from jobs.runtime.report.classification import class_table
from jobs.runtime.report.heatmap import confusion
from jobs.runtime.report.page import (
    Chart,
    Figure,
    Section,
    Table,
    Thumbnail,
    facts_of,
    page,
    redact,
    shorten,
)
from jobs.runtime.reread import read_images
from jobs.runtime.run import Run
from jobs.runtime.work import ROW_SCHEMA
from tests.jobs.browser import open_page
from tests.jobs.made_run import draw_pictures, fail, make_rows, make_run, make_scores

CLASSES = ["ant", "bee", "<b>cow</b>", "dodo & co"]
EVIL = '"><script>alert(1)</script>'


class Balanced(HTMLParser):
    """Fails where tags do not nest; gathers addresses that a browser would ask for."""

    VOID = frozenset({"meta", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)


def parse(html: bytes) -> Balanced:
    """The page, parsed; whatever it holds, it asks for nothing and runs nothing."""
    parser = Balanced()
    parser.feed(html.decode())
    assert not parser.open
    assert "script" not in parser.seen
    assert all(address.startswith("data:") for address in parser.addresses)
    assert not re.search(r"url\(|@import|\son\w+=", html.decode())
    return parser


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 240 rows over 60 pictures that are there, with 42 failed ones."""
    folder = tmp_path_factory.mktemp("report")
    names = draw_pictures(folder / "pictures", 60)
    ids = names + [f"gone/{i:04d}.png" for i in range(180)]
    truth, scores = make_scores(240, 4, seed=3)
    rows = make_rows(ids, [CLASSES[t] for t in truth], scores, CLASSES, 4)
    for i in range(100, 140):
        rows[i] = fail(rows[i], "decode", f"truncated JPEG: {i} bytes missing in {ids[i]}")
    rows[140] = fail(rows[140], "read", EVIL)
    rows[141] = fail(rows[141], "decode", "worker died (SIGSEGV)")
    return make_run(folder / "classify", folder / "pictures", rows, CLASSES)


def small(run: Run, ids: list[str]) -> dict[str, bytes]:
    """The pictures as they are: PNG of 24 px."""
    return read_images(run, ids)


def test_bulk_page_tells_counts_labels_and_causes(finished: Run) -> None:
    html = bulk.bulk_page(finished, lambda ids: small(finished, list(ids))).decode()
    for text in (
        "240",
        "198",
        "42",
        "17.50% of all",
        "MIT",
        "truncated JPEG: N bytes missing in …",
    ):
        assert text in html
    assert html.count("truncated JPEG") == 1
    assert "worker died (SIGSEGV)" in html  # alone, hence as it was written
    assert "<b>cow</b>" not in html
    assert "&lt;b&gt;cow&lt;/b&gt;" in html
    assert EVIL not in html


def test_bulk_page_is_one_file_that_asks_for_nothing(finished: Run) -> None:
    html = bulk.bulk_page(finished, lambda ids: small(finished, list(ids)))
    parse(html)
    assert html.count(b"data:image/png") > 0
    assert b"default-src 'none'" in html
    assert html == bulk.bulk_page(finished, lambda ids: small(finished, list(ids)))


def test_pictures_shown_are_those_of_extreme_confidence(finished: Run) -> None:
    rows = pa.Table.from_batches(finished.results(bulk.COLUMNS)).to_pylist()
    good = [row for row in rows if row["status"] == "ok"]
    falling = [row["id"] for row in sorted(good, key=lambda row: (-row["confidence"], row["id"]))]
    asked: list[str] = []

    def note(ids) -> dict[str, bytes]:
        asked.extend(ids)
        return {}

    html = bulk.bulk_page(finished, note).decode()
    assert asked[:12] == falling[:12]
    rising = [row["id"] for row in sorted(good, key=lambda row: (row["confidence"], row["id"]))]
    assert asked[12:] == rising[:12]
    assert html.count("no picture") == 24


def test_page_of_a_job_without_labels_has_what_it_can(tmp_path: Path, finished: Run) -> None:
    columns = ["id", "uri", "truth", "status", "stage", "error"]
    source = finished.manifest["config"]["data"]["uri"]
    rows = [
        {name: row[name] for name in columns}
        for row in pa.Table.from_batches(finished.results(columns)).to_pylist()
    ]
    run = make_run(tmp_path / "stylize", Path(source), rows, CLASSES, schema=ROW_SCHEMA)
    html = bulk.bulk_page(run)
    parse(html)
    assert b"Images by label" not in html
    assert b"Failed images" in html


def make_batch(num: int, first: int, rng: np.random.Generator) -> pa.RecordBatch:
    numbers = range(first, first + num)
    failed = rng.random(num) < 0.2
    columns = {
        "id": [f"folder/{i:09d}.jpg" for i in numbers],
        "uri": [f"s3://bucket/folder/{i:09d}.jpg" for i in numbers],
        "status": np.where(failed, "failed", "ok").tolist(),
        "stage": np.where(failed, "read", "").tolist(),
        "error": [f"object s3://bucket/folder/{i:09d}.jpg: 404 after {i} ms" for i in numbers],
        "label": [f"class {i % 50}" for i in numbers],
        "confidence": rng.random(num).astype(np.float32).round(2).tolist(),
    }
    return pa.record_batch(columns)


def test_memory_of_a_summary_does_not_grow_with_its_rows() -> None:
    rng, summary, sizes = np.random.default_rng(0), bulk.Summary(), []
    tracemalloc.start()
    for i in range(12):
        summary.add(make_batch(5000, 5000 * i, rng))
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[-1] < sizes[1] + 100_000
    assert summary.counts.total() == 60_000
    assert len(summary.causes.groups()) == 1


@given(
    values=st.lists(st.integers(0, 8), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    sign=st.sampled_from([-1, 1]),
)
def test_extremes_equal_sorting_whatever_the_batches(
    values: list[int], cuts: list[int], sign: int
) -> None:
    extremes = bulk.Extremes(5, sign)
    bounds = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    rows = [(value / 8, f"id {i * 7 % 60:02d}", "x") for i, value in enumerate(values)]
    for start, stop in zip(bounds, bounds[1:], strict=False):
        batch = pa.record_batch(
            {
                "id": pa.array([id for _, id, _ in rows[start:stop]], pa.string()),
                "label": pa.array(["x"] * (stop - start), pa.string()),
            }
        )
        extremes.add(np.array([value for value, _, _ in rows[start:stop]], np.float32), batch)
    assert extremes.rows() == sorted(rows, key=lambda row: (sign * row[0], row[1]))[:5]


def test_ten_thousand_like_errors_make_one_line_with_three_examples() -> None:
    causes = Causes()
    for i in range(10_000):
        uri = f"s3://bucket/photos/a b {i}.jpg"
        causes.add(f"photos/a b {i}.jpg", uri, "decode", f"truncated JPEG: {uri}: {i * 3} bytes")
    (only,) = causes.groups()
    assert only.count == 10_000
    assert only.text == "truncated JPEG: …: N bytes"
    assert only.examples == [f"s3://bucket/photos/a b {i}.jpg" for i in range(3)]


@pytest.mark.parametrize(
    ("error", "pattern"),
    [
        ("cannot open '/data/x y.png'", "cannot open …"),
        ("object at 0x7f3a2b gone", "object at N gone"),
        ("179,000,000 pixels, at most 100.0", "N pixels, at most N"),
        ("JPEG2000 is not read", "JPEG2000 is not read"),
        ("it isn't there, it's gone", "it isn't there, it's gone"),
        ("etag 9e107d9d372bb6826bd81d3542a419d6 changed", "etag N changed"),
        ("first line\n  second", "first line second"),
    ],
)
def test_pattern_keeps_words_and_drops_what_varies(error: str, pattern: str) -> None:
    assert pattern_of(error) == pattern


def test_causes_beyond_the_limit_are_counted_together() -> None:
    causes = Causes()
    for i in range(3000):
        causes.add(f"i{i}", "", "read", "x" * (i + 1))
    groups = causes.groups()
    assert len(groups) == 1001
    assert groups[0].count == 2000
    assert sum(group.count for group in groups) == 3000


def test_no_credential_reaches_a_page() -> None:
    config = {
        "storage": {"endpoint": "http://me:hunter2@host:9000", "secret_key": "hunter2"},
        "data": {"uri": "https://host/x.png?X-Amz-Signature=hunter2&part=1", "token": "hunter2"},
        "op": {"top_k": 5, "weights": "s3://b/w", "embeddings": False, "classes": ["a", "b"]},
    }
    facts = facts_of(config)
    assert facts["op.top_k"] == "5"
    assert facts["op.embeddings"] == "no"
    section = Section(title="Request", facts=facts, text="at s3://me:hunter2@bucket/key")
    html = page("t", "https://me:hunter2@host", [Figure(name="n", value="v")], [section]).decode()
    assert "hunter2" not in html
    assert "host:9000" in html
    assert "part=1" in html
    assert redact("s3://bucket/a b/c@d.png") == "s3://bucket/a b/c@d.png"


def test_names_from_outside_are_escaped_in_every_chart() -> None:
    matrix = np.array([[3, 1], [0, 2]])
    names = [EVIL, "b"]
    line = charts.Series(name=EVIL, x=[0, 1], y=[0, 1])
    drawn = [
        charts.bars(names, [3, 2], muted=["b"]),
        charts.lines([line], EVIL, "y", diagonal=EVIL),
        charts.histogram([1, 2], [0, 0.5, 1], EVIL),
        confusion(matrix, names)[0],
    ]
    shown = [Chart(title=EVIL, svg=svg, caption=EVIL) for svg in drawn]
    thumbnails = [Thumbnail(title=EVIL, caption=EVIL, detail=EVIL)]
    tables = [Table(title=EVIL, columns=(EVIL, "n"), rows=[(EVIL, 1.5)], bars=frozenset({1}))]
    section = Section(title=EVIL, charts=shown, thumbnails=thumbnails, tables=tables)
    parse(page(EVIL, EVIL, [Figure(name=EVIL, value=EVIL)], [section]))


@pytest.mark.parametrize(("num", "shown"), [(1, 1), (20, 20), (21, 21), (120, 120), (400, 60)])
def test_confusion_of_many_classes_stays_small_and_says_what_it_shows(num: int, shown: int) -> None:
    rng = np.random.default_rng(num)
    truth, label = rng.integers(0, num, (2, 4000))
    matrix = np.zeros((num, num), np.int64)
    np.add.at(matrix, (truth, np.where(rng.random(4000) < 0.7, truth, label)), 1)
    svg, caption = confusion(matrix, [f"class {i}" for i in range(num)])
    assert f"confusion matrix of {shown} classes" in svg
    assert (f"{shown} of {num}" in caption) == (shown < num)
    assert ('class="number' in svg) == (num <= 20)
    assert len(svg) < 600_000


def test_confusion_shows_no_class_that_no_image_has_to_do_with() -> None:
    matrix = np.zeros((1000, 1000), np.int64)
    matrix[7, 7], matrix[500, 900] = 3, 1
    svg, caption = confusion(matrix, [f"class {i}" for i in range(1000)])
    assert "Shown: 3 of 1,000 classes, those that occur or are given" in caption
    assert all(f">class {i}<" in svg for i in (7, 500, 900))
    assert ">class 0<" not in svg


def test_table_of_classes_leaves_out_those_that_no_image_has_to_do_with() -> None:
    numbers = {
        "F1": np.array([0.5, 0.0, 0.0, 0.9]),
        "images": np.array([4, 0, 0, 6]),
        "labels given": np.array([3, 2, 0, 5]),
    }
    table = class_table(["a", "b", "c", "d"], numbers, bars=1)
    assert [row[0] for row in table.rows] == ["a", "d", "b"]
    assert table.note == "1 classes neither occur nor are given."


def test_empty_charts_are_drawn() -> None:
    drawn = [
        charts.bars([], []),
        charts.histogram([0, 0], [0, 0.5, 1], "confidence"),
        charts.lines([], "x", "y"),
        charts.reliability([0, 0.5, 1], [0, 0], [np.nan] * 2, np.array([np.nan] * 2)),
    ]
    parse(page("t", "", [], [Section(title="s", charts=[Chart(title="c", svg=s) for s in drawn])]))
    assert not any("nan" in svg for svg in drawn)


def test_other_bytes_than_a_picture_are_refused() -> None:
    with pytest.raises(ValueError, match="thumbnail: begins with b'<svg'"):
        page("t", "", [], [Section(title="s", thumbnails=[Thumbnail(title="x", image=b"<svg")])])


def test_long_names_keep_their_end() -> None:
    assert shorten("short.png") == "short.png"
    cut = shorten("a/very/long/path/" * 5 + "picture.png", 40)
    assert len(cut) == 40
    assert cut.endswith("picture.png")


def test_page_opens_in_a_browser_silently(finished: Run, tmp_path: Path) -> None:
    bulk.write(finished, lambda ids: small(finished, list(ids)))
    path = Path(finished.uri) / "report" / "index.html"
    for name, width, dark in (("light", 1280, False), ("dark", 1280, True), ("narrow", 500, False)):
        shot = tmp_path / f"{name}.png"
        console, asked = open_page(path, shot, width=width, dark=dark)
        assert not console
        assert not asked
        with Image.open(shot) as picture:
            assert picture.width == width
            mean = np.asarray(picture.convert("L")).mean()
            assert (mean < 100) == dark


def test_browser_check_notices_a_page_that_errs_and_asks(tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        '<img src="http://pictures.invalid/x.png"><script>console.error("broken")</script>'
    )
    console, asked = open_page(path, tmp_path / "bad.png")
    assert any("broken" in line for line in console)
    assert any("pictures.invalid" in line for line in asked)
