"""Boxes of objects beside pictures: Pascal VOC's XML, and columns of Parquet.

XML comes from strangers: a document type is refused before anything in it is looked at, so there
are no entities to expand and nothing is fetched.
"""

import json
import posixpath
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import pyarrow as pa

from jobs.runtime.objects import Marked, make_marked, to_truth
from jobs.runtime.sources.origin import Origin
from jobs.runtime.storage import refusal_of

LABEL = "boxes"
"""of --data.label: truth is where things are"""
COLUMN = "objects"
XML_SUFFIX = ".xml"
FOLDERS = ("", "../annotations", "../Annotations")
"""where the XML of a picture is looked for, from the picture's folder"""
MAX_XML_BYTES = 4_000_000


def read_voc(origin: Origin, uri: str) -> tuple[str | None, str]:
    """The truth beside the picture at `uri`, or None where there is none; and what is wrong.

    Raises OSError when storage is down.
    """
    folder, name = posixpath.split(uri)
    name = posixpath.splitext(name)[0] + XML_SUFFIX
    for each in FOLDERS:
        up = posixpath.dirname(folder) if each else folder
        place = posixpath.join(up, each.removeprefix("../"), name)
        try:
            with origin.storage.open_input(place) as file:
                if file.size() > MAX_XML_BYTES:
                    return None, f"annotation {place}: more than {MAX_XML_BYTES / 1e6:g} MB"
                data = file.read()
        except (FileNotFoundError, IsADirectoryError):
            continue
        except (OSError, pa.ArrowInvalid) as error:
            reason = refusal_of(error)
            if not reason:
                raise
            return None, f"annotation {place}: {reason}"
        try:
            return to_truth(parse_voc(data)), ""
        except ValueError as wrong:
            return None, f"annotation {place}: {wrong}"
    return None, ""


def parse_voc(data: bytes) -> list[Marked]:
    """The objects of a Pascal VOC file. Raises ValueError for one that is none.

    VOC counts pixels from 1 and names the last one inside (Everingham et al. 2010): the box
    81, 88, 522, 408 becomes 80, 87, 522, 408. An edge of 0 is taken for the first pixel.
    """
    root = _tree(data)
    if root.tag != "annotation":
        raise ValueError(f"<{root.tag}> is no Pascal VOC annotation")
    size = _size(root)
    found = []
    for each in root.iter("object"):
        name = (each.findtext("name") or "").strip()
        edges = [_number(each, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
        box = [max(edges[0] - 1, 0.0), max(edges[1] - 1, 0.0), edges[2], edges[3]]
        found.append(make_marked(name, box, size))
    return found


def _tree(data: bytes) -> Element:
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise ValueError("has a document type, which is refused")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError) as wrong:
        raise ValueError(f"not XML: {wrong}") from wrong
    return builder.close()


def _size(root: Element) -> tuple[int, int] | None:
    """Height and width; None where the file does not say them, or says 0, as some tools write."""
    if root.find("size") is None:
        return None
    height, width = (_number(root, f"size/{name}") for name in ("height", "width"))
    return (int(height), int(width)) if min(height, width) > 0 else None


def _number(element: Element, path: str) -> float:
    text = element.findtext(path)
    try:
        value = float(text or "")
    except ValueError as wrong:
        raise ValueError(f"<{path}> {text!r}: not a number") from wrong
    if abs(value) > 1e9 or value != value:
        raise ValueError(f"<{path}> {text!r}: no coordinate")
    return value


def objects_column(schema: pa.Schema) -> str:
    """The column of boxes. Raises ValueError where there is none."""
    if COLUMN not in schema.names:
        raise ValueError(f"data.label boxes: no column {COLUMN!r}; there are {schema.names}")
    return COLUMN


def truth_of(value: Any, names: Sequence[str]) -> tuple[str | None, str]:
    """The truth that a value of the column tells, and what is wrong with it.

    Accepted: a list of {label, box: x0, y0, x1, y1}, and Hugging Face's {bbox, category} as a list
    of them or as lists in one, with COCO's x, y, width, height; `names` of numbered categories.
    """
    if value is None:
        return None, ""
    try:
        if isinstance(value, dict):  # a struct of lists
            value = [
                {"bbox": bbox, "category": category}
                for bbox, category in zip(value["bbox"], value["category"], strict=True)
            ]
        if not isinstance(value, list):
            raise ValueError(f"{value!r:.80} is no list of objects")
        return to_truth([_object(each, names) for each in value]), ""
    except (ValueError, KeyError, TypeError) as wrong:
        words = f"no {wrong}" if isinstance(wrong, KeyError) else str(wrong)
        return None, f"objects: {words}"


def _object(value: Any, names: Sequence[str]) -> Marked:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.80} is no object with a box")
    if "box" in value:
        return make_marked(value["label"], value["box"] or (), None)
    label, bbox = value["category"], value["bbox"] or ()
    if isinstance(label, int):
        if names and not 0 <= label < len(names):
            raise ValueError(f"category {label}: there are {len(names)} names, from 0")
        label = names[label] if names else str(label)
    if len(bbox) == 4 and None not in bbox:
        x, y, width, height = bbox
        bbox = (x, y, x + width, y + height)
    return make_marked(label, bbox, None)


def category_names(schema: pa.Schema) -> Sequence[str]:
    """Names of numbered categories as Hugging Face's metadata has them."""
    described = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(described).get("info", {}).get("features", {}) if described else {}
    feature = features.get(COLUMN, {})
    feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
    category = feature.get("category", {}) if isinstance(feature, dict) else {}
    category = category.get("feature", category)
    return category.get("names", ()) if category.get("_type") == "ClassLabel" else ()
