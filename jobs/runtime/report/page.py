"""One self-contained HTML page: key figures, facts, charts, thumbnails and tables.

The page holds no script and asks for nothing: styles and charts are inline, pictures are data:
URIs, and its Content-Security-Policy forbids everything else. It opens from disk and from S3.
Text is escaped; what looks like a credential is blanked.
"""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup

SECRET_NAME = re.compile(r"secret|password|passwd|token|credential|access_?key|signature", re.I)
SECRET_TEXT = re.compile(
    r"(?i)((?:X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature|password"
    r"|secret|token)=)[^&\s\"']+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
BLANK = "•••"
SIGNATURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A key number, shown large."""

    name: str
    value: str
    note: str = ""
    """a few words below it"""
    bad: bool = False
    """shown in the colour of warnings"""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing made by `jobs.runtime.report.charts`."""

    title: str
    svg: Markup
    caption: str = ""
    wide: bool = False
    """takes the whole width of the page"""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small picture with what is known of it."""

    title: str
    """row id, shown cut when it is long"""
    image: bytes = b""
    """PNG, JPEG, GIF or WebP; empty: a placeholder"""
    caption: str = ""
    detail: str = ""
    bad: bool = False
    """caption in the colour of warnings"""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text and numbers; numbers stand on the right and get thousands separators."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float | Sequence[str]]]
    """a cell that is a list of strings is shown as lines"""
    title: str = ""
    note: str = ""
    bars: frozenset[int] = frozenset()
    """columns (by index) of shares 0..1 that get a bar behind the number"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands below it, in the order of the fields."""

    title: str
    text: str = ""
    charts: Sequence[Chart] = ()
    thumbnails: Sequence[Thumbnail] = ()
    beside: int = 1
    """each thumbnail is of so many pictures side by side"""
    films: bool = False
    """each thumbnail is a film, shown in its own shape, two beside each other"""
    tables: Sequence[Table] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    """name -> value, as a two-column list"""
    folded: bool = False
    """closed until a person opens it"""


def page(
    title: str, subtitle: str, figures: Sequence[Figure], sections: Sequence[Section]
) -> bytes:
    """The page as UTF-8 HTML. The same input gives the same bytes."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        finalize=_redacted,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "data_uri": data_uri,
        "shorten": shorten,
        "number": number,
        "columns": columns,
    }
    environment.tests["number"] = lambda cell: isinstance(cell, int | float)
    style = Markup((folder / "page.css").read_text())
    template = environment.get_template("page.html.jinja")
    return template.render(
        title=title, subtitle=subtitle, figures=figures, sections=sections, style=style
    ).encode()


def columns(count: int, most: int) -> int:
    """Columns, `most` at the most, in which so many tiles make rows that are nearly alike."""
    return math.ceil(count / math.ceil(count / most))


def redact(text: str) -> str:
    """The text without passwords in URLs and signatures in their queries."""
    return SECRET_TEXT.sub(lambda found: (found[1] or "") + BLANK, text)


def facts_of(value: object, prefix: str = "") -> dict[str, str]:
    """A nested config (JSON-like dicts and lists) as flat facts: "data.uri" -> "s3://…".

    Values of fields that are named like secrets are blanked; empty ones are left out.
    """
    if isinstance(value, Mapping):
        facts: dict[str, str] = {}
        for name, inner in value.items():
            if SECRET_NAME.search(str(name)) and inner:
                inner = BLANK
            facts |= facts_of(inner, f"{prefix}.{name}" if prefix else str(name))
        return facts
    if isinstance(value, list | tuple):
        text = shorten(", ".join(map(str, value)), 300)
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    else:
        text = "" if value is None else str(value)
    return {prefix: text} if text else {}


def data_uri(image: bytes) -> str:
    """A picture as a data: URI. Raises ValueError for bytes of another kind."""
    for signature, kind in SIGNATURES.items():
        if image.startswith(signature):
            return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    raise ValueError(f"thumbnail: begins with {image[:4]!r}, accepted: {list(SIGNATURES.values())}")


def shorten(text: str, num_letters: int = 40) -> str:
    """The text with its middle cut out where it is longer: the end of a path tells most."""
    if len(text) <= num_letters:
        return text
    end = num_letters * 2 // 3
    return f"{text[: num_letters - end - 1]}…{text[-end:]}"


def number(value: int | float) -> str:
    """Integers with thousands separators, shares and the like with four digits; NaN as a dash."""
    if value != value:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def _redacted(value: object) -> object:
    return redact(value) if type(value) is str else value
