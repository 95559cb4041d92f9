"""A confusion matrix as a picture: rows are the truth, columns the label given."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from jobs.runtime.report.page import shorten

NUM_WITH_NUMBERS = 20
"""up to so many classes every cell shows its count"""
NUM_WHOLE = 120
"""up to so many classes the whole matrix is shown, of more those that any image has to do with"""
NUM_MISTAKEN = 60
"""beyond that, the classes with the most mistakes"""
SIZE = 980


def confusion(matrix: np.ndarray, names: Sequence[str]) -> tuple[Markup, str]:
    """The chart of an integer matrix (K, K) [truth, label], and a caption that says what is shown.

    Colour is the share of a row: right answers in the accent colour, mistakes in the other.
    """
    caption = "Rows are the truth, columns the label. Colour is the share of the row."
    names, num_classes = list(names), len(names)
    if num_classes > NUM_WHOLE:
        total = matrix.sum(axis=0) + matrix.sum(axis=1)
        shown = np.flatnonzero(total)
        told = f" Shown: {len(shown)} of {num_classes:,} classes, those that occur or are given."
        if len(shown) > NUM_WHOLE:
            wrong = total - 2 * np.diagonal(matrix)
            shown = np.sort(np.lexsort((-total, -wrong))[:NUM_MISTAKEN])
            told = f" Shown: {len(shown)} of {num_classes:,} classes, those with the most mistakes."
        caption += told
        share = _shares(matrix)[np.ix_(shown, shown)]
        return _draw(matrix[np.ix_(shown, shown)], share, [names[i] for i in shown]), caption
    return _draw(matrix, _shares(matrix), names), caption


def _shares(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def _draw(matrix: np.ndarray, share: np.ndarray, names: Sequence[str]) -> Markup:
    num = len(names)
    letters = min(max((len(name) for name in names), default=1), 22)
    font = min(13.0, 0.86 * 760 / max(num, 1))
    margin = 30 + letters * font * 0.56
    cell = min((SIZE - margin) / max(num, 1), 56.0)
    side = cell * num
    marks = [
        f'<rect class="track" x="{margin:.1f}" y="{margin:.1f}" '
        f'width="{side:.1f}" height="{side:.1f}"/>'
    ]
    for i, name in enumerate(names):
        middle = margin + (i + 0.5) * cell
        text = escape(shorten(name, 22))
        marks.append(
            f'<text x="{margin - 6:.1f}" y="{middle + font * 0.35:.1f}" '
            f'text-anchor="end">{text}</text>'
            f'<text transform="translate({middle + font * 0.35:.1f} {margin - 6:.1f}) '
            f'rotate(-90)">{text}</text>'
        )
    for i, k in zip(*np.nonzero(matrix), strict=True):
        marks.append(_cell(int(i), int(k), matrix, share, names, cell, margin))
    edge = margin + side
    marks.append(
        f'<text class="soft" style="font-size: 13px" text-anchor="middle" '
        f'transform="translate(13 {margin + side / 2:.1f}) rotate(-90)">truth</text>'
        f'<text class="soft" style="font-size: 13px" x="{margin + side / 2:.1f}" y="14" '
        f'text-anchor="middle">label</text>'
    )
    large = " large" if num > NUM_WITH_NUMBERS else ""
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" class="matrix{large}" role="img" '
        f'viewBox="0 0 {edge + 2:.0f} {edge + 2:.0f}" style="max-width: {edge + 2:.0f}px; '
        f'font-size: {font:.1f}px" aria-label="confusion matrix of {num} classes">'
        + "".join(marks)
        + "</svg>"
    )


def _cell(
    i: int,
    k: int,
    matrix: np.ndarray,
    share: np.ndarray,
    names: Sequence[str],
    cell: float,
    margin: float,
) -> str:
    part = float(share[i, k])
    x, y = margin + k * cell, margin + i * cell
    gap = 1.0 if cell > 12 else 0.25
    kind = "cell" if i == k else "cell wrong"
    visible = 0.12 + 0.88 * part  # one mistake in a thousand is still seen
    mark = (
        f"<g><title>{escape(names[i])} called {escape(names[k])}: {matrix[i, k]:,} "
        f'({part:.1%})</title><rect class="{kind}" fill-opacity="{visible:.3f}" x="{x + gap:.2f}" '
        f'y="{y + gap:.2f}" width="{cell - 2 * gap:.2f}" height="{cell - 2 * gap:.2f}"/>'
    )
    if len(names) <= NUM_WITH_NUMBERS:
        over = " over" if visible > 0.55 else ""
        mark += (
            f'<text class="number{over}" text-anchor="middle" x="{x + cell / 2:.1f}" '
            f'y="{y + cell / 2 + 4.5:.1f}">{matrix[i, k]:,}</text>'
        )
    return mark + "</g>"
