"""Pictures that those made are held against as a set: files or shards, as any job's input."""

from collections.abc import Iterator
from dataclasses import dataclass

from jobs.runtime.listing import Entries
from jobs.runtime.slices import Row
from jobs.runtime.sources import choose, cut_slices, read_slice
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage
from vision_ops.decode import IMAGE_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Where they lie."""

    origin: Origin
    format: str
    entries: Entries

    @classmethod
    def open(cls, uri: str, storage: Storage) -> "Reference":
        """What is at `uri`. Raises ValueError where no picture is."""
        origin = Origin(
            source=Source(uri=uri, label="none"),
            storage=storage,
            suffixes=tuple(sorted(IMAGE_SUFFIXES)),
            takes="pictures",
        )
        try:
            format, entries, _ = choose(origin, origin.find())
        except ValueError as refusal:
            told = str(refusal).removeprefix("data.uri: ")
            raise ValueError(f"pictures.reference: {told}") from refusal
        return cls(origin=origin, format=format, entries=entries)

    def rows(self) -> Iterator[Row]:
        """Each picture, or why it cannot be had."""
        for piece in cut_slices(self.origin, self.format, self.entries):
            yield from read_slice(self.origin, piece)
