"""Failed rows grouped by cause: ten thousand like errors make one line."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.runtime.report.page import Table

NUM_EXAMPLES = 3
MAX_GROUPS = 1000
"""further causes are counted together: memory stays small whatever fails"""
OTHERS = ("", "other causes")
VARYING = (
    (re.compile(r"\b(?:s3|https?|file)://\S+|(?<![\w.<])/[^\s:,;'\"]+"), "…"),
    (re.compile(r"(?<!\w)'[^']*'(?!\w)|(?<!\w)\"[^\"]*\"(?!\w)"), "…"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b|\b(?=[a-f]*\d)[0-9a-f]{8,}\b"), "N"),
    (re.compile(r"(?<![A-Za-z_\d])\d+(?:[.,]\d+)*"), "N"),
)


@dataclass(kw_only=True)
class Cause:
    """Failed rows of one stage whose errors differ in numbers and names only."""

    stage: str
    pattern: str
    first: str
    """the first row's error as it was written"""
    count: int = 0
    alike: bool = True
    """every row has the very same error"""
    examples: list[str] = field(default_factory=list)
    """URIs of the first few rows"""

    @property
    def text(self) -> str:
        """What to show: the error itself, or its pattern where the rows differ."""
        return self.first if self.alike else self.pattern


class Causes:
    """Groups failed rows as they come; memory is bounded by the number of distinct patterns."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], Cause] = {}

    def add(self, id: str, uri: str, stage: str, error: str) -> None:
        """Add one failed row."""
        key = (stage, pattern_of(error, id, uri))
        if key not in self._groups and len(self._groups) >= MAX_GROUPS:
            key = OTHERS
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Cause(stage=key[0], pattern=key[1], first=error)
        group.count += 1
        group.alike = group.alike and error == group.first
        if len(group.examples) < NUM_EXAMPLES:
            group.examples.append(uri or id)

    def groups(self) -> list[Cause]:
        """The causes, most frequent first."""
        return sorted(self._groups.values(), key=lambda one: (-one.count, one.stage, one.pattern))

    def counts(self) -> Mapping[str, int]:
        """Rows by stage and cause, for a log line."""
        return {f"{one.stage}: {one.text}": one.count for one in self.groups()}

    def table(self) -> Table:
        """The causes for a page."""
        rows = [(one.count, one.stage, one.text, one.examples) for one in self.groups()]
        return Table(columns=("images", "stage", "cause", "for example"), rows=rows)


def pattern_of(error: str, id: str = "", uri: str = "") -> str:
    """The error with "…" for names and "N" for numbers, on one line."""
    for name in (uri, id, id.rpartition("#")[2], uri.rpartition("/")[2]):
        if len(name) > 3:
            error = error.replace(name, "…")
    for varying, sign in VARYING:
        error = varying.sub(sign, error)
    return " ".join(error.split())
