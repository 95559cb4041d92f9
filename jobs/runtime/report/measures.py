"""The page of pictures that were measured: each measure over all, its worst and best pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.runtime.report import charts
from jobs.runtime.report.bulk import about, title_of
from jobs.runtime.report.causes import Causes
from jobs.runtime.report.page import Chart, Figure, Section, Table, Thumbnail, page
from jobs.runtime.run import Run

NUM_BINS = 20


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a measure is, for a person."""

    name: str
    text: str
    lower_is_worse: bool = False


MEASURES = {
    "ssim": Measure(
        name="SSIM with the content",
        text="structural similarity of the luma (Wang et al. 2004), 1: the same",
        lower_is_worse=True,
    ),
    "feature_distance": Measure(
        name="feature distance from the content",
        text="unit feature vectors, squared distance, 0 to 4 (as Zhang et al. 2018, without learnt "
        "weights and by another network: not LPIPS)",
    ),
    "content_cost": Measure(name="content cost", text="of the content layers"),
    "style_cost": Measure(name="style cost", text="Gram matrices of the style layers"),
    "colour_error": Measure(
        name="colour error",
        text="mean CIEDE2000 of the pixels against the content: 1 is just seen",
    ),
    "target_ssim": Measure(
        name="SSIM with the target",
        text="as above, against the target",
        lower_is_worse=True,
    ),
    "target_psnr": Measure(
        name="PSNR, dB",
        text="over all channels, against the target; a picture that is its target has none",
        lower_is_worse=True,
    ),
    "target_feature_distance": Measure(
        name="feature distance from the target", text="as above, against the target"
    ),
    "target_colour_error": Measure(
        name="colour error against the target", text="mean CIEDE2000 of the pixels"
    ),
}
"""columns of the rows, and what they are"""
LEFT_OUT = ("failed", "without_content", "without_picture")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture at an end of a measure."""

    id: str
    value: float
    image: bytes
    """what it was made of, the picture, perhaps the target, side by side; empty where gone"""


Ends = tuple[Sequence[Shown], Sequence[Shown]]
"""the worst pictures and the best"""


def measures_page(
    run: Run,
    numbers: Mapping[str, Any],
    histograms: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    shown: Mapping[str, Ends],
    causes: Causes,
) -> bytes:
    """The page as HTML, from the numbers of metrics.json."""
    drawn = [
        Chart(
            title=MEASURES[name].name,
            svg=charts.histogram(counts, edges, MEASURES[name].name, "pictures"),
        )
        for name, (counts, edges) in histograms.items()
    ]
    tables = [_table(found)] if (found := numbers["measures"]) else []
    measures = Section(title="Measures", text=numbers["missing"], tables=tables)
    sections = [
        *([measures] if tables or numbers["missing"] else []),
        *_as_a_set(numbers),
        *_ends(shown),
        *([Section(title="How they are spread", charts=drawn)] if drawn else []),
        Section(title="Features", text=FEATURES_TEXT, facts=_facts(numbers["features"])),
        *_left_out(numbers["counts"], causes),
        *about(run),
    ]
    figures = list(_figures(numbers))
    return page(f"Evaluation of {title_of(run)}", run.uri, figures, sections)


FEATURES_TEXT = (
    "Feature distance, costs and the distance of sets are by this network and these layers: "
    "numbers by others are others."
)


def _figures(numbers: Mapping[str, Any]) -> Iterator[Figure]:
    counts = numbers["counts"]
    yield Figure(name="Pictures", value=f"{counts['measured']:,}", note="measured")
    for name in ("ssim", "feature_distance", "style_cost", "target_ssim", "target_psnr"):
        if found := numbers["measures"].get(name):
            error = found["standard_error"]
            note = f"standard error {error:.2g}" if error == error else "one picture"
            yield Figure(name=MEASURES[name].name, value=f"{found['mean']:.4g}", note=note)
    if left := sum(counts[name] for name in LEFT_OUT):
        yield Figure(name="Left out", value=f"{left:,}", note=left_out(counts), bad=True)


def left_out(counts: Mapping[str, int]) -> str:
    """The rows that are not in the numbers, in words; empty where all are."""
    named = (*LEFT_OUT, "without_target")
    return ", ".join(f"{counts[n]:,} {n.replace('_', ' ')}" for n in named if counts.get(n))


def _table(measures: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = ("measure", "mean", "standard error", "least", "most", "pictures", "what it is")
    keys = ("mean", "standard_error", "least", "most", "num_pictures")
    rows = [
        [MEASURES[name].name, *(found[key] for key in keys), MEASURES[name].text]
        for name, found in measures.items()
    ]
    return Table(columns=columns, rows=rows)


def _as_a_set(numbers: Mapping[str, Any]) -> Iterator[Section]:
    if found := numbers["frechet"]:
        facts = {
            "distance": f"{found['distance']:.4g}",
            "pictures": f"{found['num_pictures']:,}",
            "reference": f"{found['num_reference']:,} pictures: {found['reference']}",
            "features": f"{found['num_features']:,}, means over positions of {found['layer']}",
        }
        text = (
            "Fréchet distance of the features of all pictures from those of the reference (Heusel "
            "et al. 2017), here by the network named below: not to be compared with FIDs by the "
            f"Inception network. {found['told']}"
        )
        yield Section(title="As a set", text=text, facts=facts)


def _ends(shown: Mapping[str, Ends]) -> Iterator[Section]:
    text = "What each was made of on the left, the picture beside it, then the target if any."
    beside = 3 if any(name.startswith("target") for name in shown) else 2
    for name, ends in shown.items():
        for title, pictures in zip(("Worst", "Best"), ends, strict=True):
            if title == "Best" and {e.id for e in pictures} == {e.id for e in ends[0]}:
                continue  # so few that the worst are all
            thumbnails = [
                Thumbnail(title=each.id, image=each.image, caption=f"{each.value:.4g}")
                for each in pictures
            ]
            heading = f"{title} by {MEASURES[name].name}"
            yield Section(title=heading, text=text, thumbnails=thumbnails, beside=beside)
            text = ""


def _facts(features: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: ", ".join(value) if isinstance(value, list | tuple) else str(value)
        for name, value in features.items()
    }


def _left_out(counts: Mapping[str, int], causes: Causes) -> Iterator[Section]:
    if sum(counts[name] for name in LEFT_OUT):
        text = "These rows have no figures: the run failed, or what they need is gone."
        yield Section(title="Left out", text=text, tables=[causes.table()])
