"""What a person says of the source, and the source opened."""

import posixpath
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from typing import Literal

from jobs.runtime.listing import Listing, listed
from jobs.runtime.storage import GLOB_CHARACTERS, Entry, Storage, absolute, relative

Format = Literal["auto", "files", "parquet", "webdataset", "uris", "series", "wfdb"]

IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg"),
    *(".png", ".tif", ".tiff", ".webp"),
)
GROUP_IN_PATH = r"(?:^|[/_])(sub-[0-9A-Za-z]+)"
"""a subject, as BIDS names it"""
GROUP_COLUMNS = ("group", "patient", "patient_id", "subject", "subject_id")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the images are and how they are cut into slices."""

    uri: str
    """folder, file, glob or s3:// prefix"""
    format: Format = "auto"
    """auto: told by what lies there; uris: a Parquet table with one address a row; series: time
    series in .ts and .arff files; wfdb: heart beats of WFDB records"""
    image: str = ""
    """Parquet column that holds the images or addresses; empty: the only one that can"""
    label: str = "auto"
    """true classes: auto (Parquet column label_name or label, a tar's .cls or .json, a series'
    class, a beat's AAMI class), folder (the parent folder's name), none, the name of a Parquet
    column, JSON field or ARFF attribute, or, of loose files, a regular expression that is searched
    for in ids, of which the (…) is the class; `symbol`: a beat's as it was annotated; `boxes`: true
    objects from a Parquet column `objects`, or Pascal VOC's x.xml beside x.jpg or in
    ../annotations"""
    faces: str = ""
    """Parquet column of the faces of each image, for embed_faces: a list of {box, landmarks,
    confidence} in pixels of the upright original, as embed_faces writes it"""
    group: str = "auto"
    """rows that belong together, and are learnt from or validated on together: auto (a Parquet
    column group, patient or subject; a beat's record; `sub-…` in a path), none, a Parquet column,
    or a regular expression that is searched for in ids, of which the first (…) is the group"""
    ignore: tuple[str, ...] = (".*", "_SUCCESS", "Thumbs.db", "desktop.ini")
    """patterns of names that are no rows; matched against the path and each of its parts"""
    suffixes: tuple[str, ...] = ()
    """endings of the files that are decoded, others become failed rows; none: the decoder's"""
    slice_rows: int = 0
    """rows per slice: the unit of work, of retry and of commit; 0: a 64th of about all there are,
    64 (of shards 128) to 512; where faces are looked for from 32 (64) on"""
    max_image_mb: float = 100.0
    """a larger file is a failed row, unread"""

    def __post_init__(self) -> None:
        if self.slice_rows < 0:
            raise ValueError(f"data.slice_rows: {self.slice_rows}, must not be negative")
        if self.max_image_mb <= 0:
            raise ValueError(f"data.max_image_mb: {self.max_image_mb}, must be above 0")
        if bad := [each for each in self.suffixes if not each.startswith(".")]:
            raise ValueError(f"data.suffixes: {bad}, must begin with a dot")
        for name in ("group", "label"):
            said = getattr(self, name)
            try:
                pattern = re.compile(said)
            except re.error as wrong:
                raise ValueError(f"data.{name}: {said!r}, no pattern: {wrong}") from wrong
            if pattern.groups > 1:
                raise ValueError(f"data.{name}: {said!r}, must have one (…)")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A source opened: what the reader of any slice of it needs. Small and picklable."""

    source: Source
    storage: Storage
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES
    """endings of the files that the job's decoder reads"""
    takes: str = ""
    """what the job's network is for, in the plural; empty: no matter, or not known"""
    least_rows: int = 64
    """of a slice of loose files where slice_rows is 0, of shards twice as many; fewer for rows that
    are much work each"""

    @cached_property
    def uri(self) -> str:
        """The source's absolute URI."""
        return absolute(self.source.uri)

    @cached_property
    def root(self) -> str:
        """What ids are relative to: the folder or prefix, without a glob."""
        parts = self.uri.split("/")
        literal = [GLOB_CHARACTERS.isdisjoint(part) for part in parts]
        first = literal.index(False) if False in literal else len(parts)
        return "/".join(parts[:first])

    def name(self, uri: str) -> str:
        """Path relative to the source: the id of a loose file, the shard in other ids."""
        return relative(uri, self.root)

    def is_ignored(self, name: str) -> bool:
        """True where a pattern of `ignore` matches the path or one of its parts.

        `./` says nothing: `tar -C folder .` begins every name with it.
        """
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        candidates = ("/".join(parts), *parts)
        if self.source.label == "boxes" and name.lower().endswith(".xml"):
            return True  # said with its picture
        return any(map(self.ignored.match, candidates))

    @cached_property
    def ignored(self) -> re.Pattern[str]:
        """What a path or a part of one that is ignored looks like; with no pattern none does."""
        return re.compile("|".join(map(translate, self.source.ignore)) or r"(?!)")

    def is_image(self, name: str) -> bool:
        """True where the name ends as an image that is read."""
        return name.lower().endswith(self.source.suffixes or self.suffixes)

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """What finds the group in an id."""
        said = GROUP_IN_PATH if self.source.group == "auto" else self.source.group
        pattern = re.compile(said)
        return pattern if pattern.groups else None

    def group_of(self, id: str) -> str:
        """The group that an id tells; "" where it tells none."""
        found = self.pattern.search(id) if self.pattern else None
        return (found[1] or "") if found else ""

    def group_column(self, names: Sequence[str]) -> str:
        """The column of groups among these; "" where there is none. Raises ValueError."""
        wanted = self.source.group
        if wanted == "auto":
            return next((name for name in GROUP_COLUMNS if name in names), "")
        if wanted == "none" or "(" in wanted:
            return ""
        if wanted not in names:
            raise ValueError(f"data.group: no column {wanted!r}; there are {list(names)}")
        return wanted

    def refuse_type(self, name: str) -> str:
        """Why a name is no image, in a person's words."""
        ending = posixpath.splitext(name)[1] or "no extension"
        if ".jpg" in self.suffixes:
            return f"not an image type Argus reads: {ending}"
        return f"not a file that this network is for: {ending} ({', '.join(self.suffixes)} are)"

    def refuse_size(self, num_bytes: int) -> str:
        """Why this many bytes are not read; empty where they are."""
        if num_bytes <= self.source.max_image_mb * 1e6:
            return ""
        return f"{num_bytes / 1e6:.1f} MB, more than the {self.source.max_image_mb:g} MB allowed"

    def listed(self) -> AbstractContextManager[Listing]:
        """All objects of the source that are not ignored, in order of their URIs; see `listed`."""
        return listed(self.storage, self.uri, lambda uri: not self.is_ignored(self.name(uri)))

    def find(self) -> list[Entry]:
        """The same as a list, of a source that is known to be small."""
        with self.listed() as entries:
            return list(entries)
