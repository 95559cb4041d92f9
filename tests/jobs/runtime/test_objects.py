"""True objects of pictures: from Pascal VOC's files and Parquet, and what is wrong with them."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jobs.runtime.objects import Marked, fitted, from_truth, make_marked, to_truth
from jobs.runtime.slices import Row
from jobs.runtime.sources import choose, cut_slices, read_slice
from jobs.runtime.sources.boxes import MAX_XML_BYTES, parse_voc
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage, StorageConfig
from tests.jobs.runtime.source_rows import rows_of, write_tree

NAMES = st.text(min_size=1, max_size=8)
PLACES = st.floats(-1e6, 1e6)


def voc(*objects: tuple[str, tuple[object, ...]], size: str = "") -> bytes:
    """A file as LabelImg writes it."""
    parts = [
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>"
        for name, (x0, y0, x1, y1) in objects
    ]
    return f"<annotation>{size}{''.join(parts)}</annotation>".encode()


def size_of(height: int, width: int) -> str:
    return f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"


CAT = voc(("cat", (81, 88, 522, 408)))
CAT_TRUTH = [{"label": "cat", "box": [80.0, 87.0, 522.0, 408.0]}]


def told(row: Row) -> Any:
    return None if row.truth is None else json.loads(row.truth)


def test_voc_is_found_beside_a_picture_and_in_both_folders_of_annotations(tmp_path: Path):
    files = {
        "a/1.jpg": b"1", "a/1.xml": CAT,
        "images/b.c.png": b"2", "annotations/b.c.xml": CAT,
        "JPEGImages/3.jpg": b"3", "Annotations/3.xml": voc(),
        "lonely/4.jpg": b"4",
    }  # fmt: skip
    write_tree(tmp_path, files)
    rows = rows_of(tmp_path, label="boxes")[1]
    assert {row.id: told(row) for row in rows} == {
        "a/1.jpg": CAT_TRUTH,
        "images/b.c.png": CAT_TRUTH,
        "JPEGImages/3.jpg": [],  # nothing is marked, which somebody looked for
        "lonely/4.jpg": None,  # nobody did
    }
    assert not any(row.error for row in rows)
    assert all(row.data for row in rows)


def test_annotations_above_a_source_are_found_though_it_is_the_folder_of_pictures(tmp_path: Path):
    write_tree(tmp_path, {"images/1.jpg": b"1", "annotations/1.xml": CAT})
    assert [told(row) for row in rows_of(tmp_path / "images", label="boxes")[1]] == [CAT_TRUTH]
    assert [told(row) for row in rows_of(tmp_path / "images/1.jpg", label="boxes")[1]] == [
        CAT_TRUTH
    ]


def test_xml_is_a_row_like_any_other_file_where_boxes_are_not_asked_for(tmp_path: Path):
    write_tree(tmp_path, {"1.jpg": b"1", "1.xml": CAT})
    rows = rows_of(tmp_path)[1]
    assert [row.error for row in rows] == ["", "not an image type Argus reads: .xml"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not XML"),
        (CAT[:-20], "not XML"),
        (b"\x00\xff" + CAT, "not XML"),
        (b"<svg/>", "<svg> is no Pascal VOC annotation"),
        (voc(("", (1, 2, 3, 4))), "an object needs a name"),
        (voc(("cat", (1, "two", 3, 4))), "<bndbox/ymin> 'two': not a number"),
        (voc(("cat", (1, 2, "", 4))), "<bndbox/xmax> '': not a number"),
        (voc(("cat", (1, 2, "nan", 4))), "<bndbox/xmax> 'nan': no coordinate"),
        (voc(("cat", (1, 2, "1e300", 4))), "no coordinate"),
        (voc(("cat", (30, 2, 10, 9))), "box [29.0, 1.0, 10.0, 9.0] of cat: empty"),
        (b"<annotation><object><name>cat</name></object></annotation>", "<bndbox/xmin> None"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", "a document type, which is refused"),
        (b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><annotation/>", "a document type"),
        (b"<?xml version='1.0' encoding='klingon'?><annotation/>", "not XML"),
        (b" " * (MAX_XML_BYTES + 1), "more than 4 MB"),
        (b"<annotation>" + b"<a>" * 500_000 + b"</annotation>", "not XML"),
    ],
)
def test_broken_annotation_is_a_failed_row_that_names_file_and_reason(
    tmp_path: Path, data: bytes, said: str
):
    write_tree(tmp_path, {"1.jpg": b"1", "1.xml": data, "2.jpg": b"2", "2.xml": CAT})
    bad, good = rows_of(tmp_path, label="boxes")[1]
    assert bad.error.startswith(f"annotation {tmp_path}/1.xml: ")
    assert said in bad.error
    assert (bad.truth, bad.data) == (None, b"")
    assert (told(good), good.error) == (CAT_TRUTH, "")


def test_nesting_of_any_depth_ends_no_process():
    data = b"<annotation>" + b"<a>" * 400_000 + b"</a>" * 400_000 + b"</annotation>"
    assert parse_voc(data) == []


def test_size_that_a_file_tells_goes_along_and_a_size_of_zero_does_not():
    (found,) = parse_voc(voc(("cat", (1, 1, 5, 5)), size=size_of(40, 30)))
    assert (found.size, found.box) == ((40, 30), (0, 0, 5, 5))
    (found,) = parse_voc(voc(("cat", (0, 0, 5, 5)), size=size_of(0, 0)))
    assert (found.size, found.box) == (None, (0, 0, 5, 5))


def test_annotations_are_read_from_s3(bucket: str, s3: StorageConfig):
    storage = Storage(s3)
    for name, data in {"in/x/1.jpg": b"1", "in/annotations/1.xml": CAT}.items():
        storage.put(f"{bucket}/{name}", data)
    origin = Origin(source=Source(uri=f"{bucket}/in", label="boxes"), storage=storage)
    format, entries, _ = choose(origin, origin.find())
    (piece,) = cut_slices(origin, format, entries)
    assert [told(row) for row in read_slice(origin, piece)] == [CAT_TRUTH]


def png() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (4, 3)).save(target, "PNG")
    return target.getvalue()


def shard(
    path: Path, objects: list[Any], type: pa.DataType | None = None, features: Any = None
) -> list[Row]:
    """The rows of a Parquet file with these objects."""
    columns = {"image": pa.array([png()] * len(objects)), "objects": pa.array(objects, type)}
    table = pa.table(columns)
    if features is not None:
        described = json.dumps({"info": {"features": {"objects": features}}})
        table = table.replace_schema_metadata({"huggingface": described})
    pq.write_table(table, path)
    return rows_of(path, label="boxes")[1]


def one(label: str, *box: float) -> list[dict[str, object]]:
    return [{"label": label, "box": list(box)}]


def test_objects_with_edges_are_taken_as_they_are_and_none_is_no_truth(tmp_path: Path):
    rows = shard(tmp_path / "x.parquet", [one("cat", 1, 2, 3.5, 3), [], None])
    assert [told(row) for row in rows] == [one("cat", 1.0, 2.0, 3.5, 3.0), [], None]
    assert not any(row.error for row in rows)


NUMBERED = {"feature": {"category": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}


@pytest.mark.parametrize("features", [NUMBERED, [NUMBERED["feature"]]])
def test_cocos_width_and_height_become_edges_and_numbers_names(tmp_path: Path, features: Any):
    rows = shard(
        tmp_path / "x.parquet", [[{"bbox": [1.0, 2.0, 2.0, 1.0], "category": 1}]], None, features
    )
    assert [told(row) for row in rows] == [one("dog", 1.0, 2.0, 3.0, 3.0)]


def test_hugging_faces_struct_of_lists_is_read_as_a_list_of_structs(tmp_path: Path):
    features = {
        "bbox": {"feature": {"dtype": "float32"}},
        "category": {"feature": {"names": ["cat", "dog"], "_type": "ClassLabel"}},
    }
    objects = [
        {"id": [7, 8], "bbox": [[0.0, 0.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]], "category": [0, 1]},
        {"id": [], "bbox": [], "category": []},
    ]
    rows = shard(tmp_path / "x.parquet", objects, None, features)
    both = [*one("cat", 0.0, 0.0, 2.0, 1.0), *one("dog", 1.0, 1.0, 2.0, 2.0)]
    assert [told(row) for row in rows] == [both, []]


def test_categories_without_names_are_named_by_their_number(tmp_path: Path):
    rows = shard(tmp_path / "x.parquet", [[{"bbox": [0, 0, 1, 1], "category": 17}]])
    assert [told(row) for row in rows] == [one("17", 0.0, 0.0, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("objects", "features", "said"),
    [
        ([{"bbox": [0.0, 0, 1, 1], "category": 2}], NUMBERED, "category 2: there are 2 names"),
        ([{"bbox": [0.0, 0, 1, 1], "category": -1}], NUMBERED, "category -1"),
        ([{"bbox": [0.0, 0, 1, 1], "category": None}], None, "an object needs a name"),
        ([{"bbox": [0.0, 0, -1, 1], "category": 0}], None, "of 0: empty"),
        ([{"bbox": [0.0, 0, 1], "category": 0}], None, "not four finite numbers"),
        ([{"bbox": [0.0, 0, None, 1], "category": 0}], None, "not four finite numbers"),
        ([{"bbox": None, "category": 0}], None, "not four finite numbers"),
        ([{"bbox": [0.0, 0, float("inf"), 1], "category": 0}], None, "not four finite"),
        ([{"category": 0}], None, "objects: no 'bbox'"),
        ([{"label": "cat", "box": None}], None, "not four finite numbers"),
        ([{"label": "", "box": [0.0, 0, 1, 1]}], None, "an object needs a name"),
        ({"bbox": [[0.0, 0, 1, 1]], "category": [0, 1]}, None, "objects: "),
        ("somewhere", None, "'somewhere' is no list of objects"),
        ([None], None, "None is no object with a box"),
        ([4], None, "4 is no object with a box"),
    ],
)
def test_objects_that_cannot_be_are_a_failed_row_with_the_reason(
    tmp_path: Path, objects: Any, features: Any, said: str
):
    (row,) = shard(tmp_path / "x.parquet", [objects], None, features)
    assert said in row.error
    assert (row.truth, row.data) == (None, b"")


def test_parquet_without_objects_is_refused_with_the_columns_there_are(tmp_path: Path):
    pq.write_table(pa.table({"image": [b"1"], "label": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"no column 'objects'; there are .*'label'"):
        rows_of(tmp_path, label="boxes")


def test_a_table_of_addresses_has_objects_too(tmp_path: Path):
    write_tree(tmp_path / "pictures", {"a.png": b"A", "b.png": b"B"})
    objects = [one("cat", 0, 0, 1, 1), one("", 0, 0, 1, 1)]
    table = pa.table({"uri": ["pictures/a.png", "pictures/b.png"], "objects": objects})
    pq.write_table(table, tmp_path / "list.parquet")
    good, bad = rows_of(tmp_path / "list.parquet", label="boxes")[1]
    assert (told(good), good.data) == (one("cat", 0.0, 0.0, 1.0, 1.0), b"A")
    assert "an object needs a name" in bad.error


@given(objects=st.lists(st.tuples(NAMES, PLACES, PLACES, st.floats(0.5, 1e5), st.floats(0.5, 1e5))))
def test_a_truth_tells_what_was_put_into_it(objects: list[tuple[str, float, float, float, float]]):
    marked = [make_marked(n, (x, y, x + w, y + h), (9, 7)) for n, x, y, w, h in objects]
    assert from_truth(to_truth(marked)) == marked


@pytest.mark.parametrize(
    "truth", ["cat", "3", '"cat"', "{}x", "[3]", '[{"label": "a"}]', '[{"box": [1, 2, 3, 4]}]',
              '[{"label": "a", "box": [0, 0, 1, 1], "size": [3]}]', "[null]"]
)  # fmt: skip
def test_truth_of_another_kind_is_told_with_how_boxes_are_read(truth: str):
    with pytest.raises(ValueError, match="boxes are read with --data.label boxes"):
        from_truth(truth)


def marked(*box: float, size: tuple[int, int] | None = None) -> Marked:
    return make_marked("cat", box, size)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (marked(1, 2, 3, 4), (1, 2, 3, 4)),
        (marked(-1, -0.5, 21, 31), (0, 0, 20, 30)),  # a tool that counts from elsewhere
        (marked(0, 0, 20, 30, size=(30, 20)), (0, 0, 20, 30)),
    ],
)
def test_boxes_are_cut_off_at_the_edges_of_their_picture(found: Marked, wanted: tuple[float, ...]):
    assert [each.box for each in fitted([found], height=30, width=20)] == [wanted]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (marked(-1.5, 0, 5, 5), "lies outside 30 x 20 pixels"),
        (marked(0, 0, 22, 5), "lies outside"),
        (marked(20.5, 0, 21, 5), "empty"),  # within a pixel of the picture, and not in it
        (marked(0, 0, 5, 5, size=(20, 30)), r"drawn on 20 x 30 pixels .* the picture has 30 x 20"),
    ],
)
def test_boxes_of_another_picture_are_refused(found: Marked, said: str):
    with pytest.raises(ValueError, match=said):
        fitted([found], height=30, width=20)


def test_a_true_raccoon_is_where_its_file_says(shared_data: Path):
    rows = rows_of(shared_data / "boxes" / "raccoon", label="boxes")[1]
    truths: Mapping[str, Any] = {row.id: told(row) for row in rows}
    assert len(rows) == 80
    assert all(truths.values())
    assert not any(row.error for row in rows)
    for row in rows:
        with Image.open(io.BytesIO(row.data)) as image:
            fitted(from_truth(row.truth or ""), image.height, image.width)
