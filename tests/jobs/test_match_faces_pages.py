"""The pages of match_faces: scores where they lie, networks with their licences."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs import evaluate
from jobs.match_faces import main
from jobs.pictures.faces.matching.requests import (
    Cluster,
    Enrol,
    Identify,
    SearchResources,
    Similarity,
    Verify,
)
from jobs.runtime.run import Run
from tests.made_faces import make_faces_run, make_people

INLINE = SearchResources(engine="inline")
BAR = re.compile(r"<title>([-\d.e]+) to ([-\d.e]+): ([\d,]+)</title>")


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Identify | Verify | Cluster]:
    """A run whose faces were found by something, a gallery of it, and what may be asked."""
    images = make_people(6, 3, size=8, noise=1.2)
    make_faces_run(tmp_path / "run", images)
    manifest = tmp_path / "run" / "manifest.json"
    told = json.loads(manifest.read_text())
    told["detector"] = {"source": "found.safetensors", "licence": "CC-BY-NC-4.0"}
    manifest.write_text(json.dumps(told))
    (tmp_path / "pairs.csv").write_text(
        "a,b\n" + "".join(f"{a.id},{b.id}\n" for a in images for b in images if a.id < b.id)
    )
    main(Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g"), per_person=1))
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    gallery, pairs = str(tmp_path / "g"), str(tmp_path / "pairs.csv")
    return {
        "identify": Identify(run=run, gallery=gallery, out=out, resources=INLINE),
        "verify": Verify(run=run, pairs=pairs, out=out),
        "cluster": Cluster(run=run, out=out),
    }


def done(request: Identify | Verify | Cluster, similarity: Similarity) -> tuple[Run, str]:
    """The run, and its page."""
    asked = replace(request, similarity=similarity)
    run = main(asked)
    assert isinstance(run, Run)
    return run, Path(asked.out, "report/index.html").read_text()


@pytest.mark.parametrize(("head", "low"), [("cosine", -1.0), ("squared_l2", -4.0)])
@pytest.mark.parametrize("kind", ["identify", "verify"])
def test_bars_stand_where_the_scores_are(
    asked: dict[str, Identify | Verify | Cluster], kind: str, head: str, low: float
):
    run, page = done(asked[kind], Similarity(head=head, threshold=-0.5))
    columns = [batch["similarity"].drop_null().to_numpy() for batch in run.results()]
    scores = np.concatenate(columns)
    assert len(scores) in (18, 153)
    bars = [(float(a), float(b), int(n.replace(",", ""))) for a, b, n in BAR.findall(page)]
    assert bars[0][0] == low
    assert bars[-1][1] == low + (2 if head == "cosine" else 4)
    assert sum(count for _, _, count in bars) == len(scores)
    for start, end, count in bars:
        near = 1e-5  # two bars share an edge
        assert count <= ((scores >= start - near) & (scores <= end + near)).sum()
    assert sum(count > 0 for _, _, count in bars) > 3


def test_so_does_the_page_of_their_evaluation(
    asked: dict[str, Identify | Verify | Cluster], tmp_path: Path
):
    evaluate.main(evaluate.Config(run=asked["verify"].run, out=str(tmp_path / "judged")))
    page = (tmp_path / "judged" / "report" / "index.html").read_text()
    for words in ("made.safetensors", "found.safetensors", "CC-BY-NC-4.0"):
        assert words in page[page.index("<h2>Embedder</h2>") :]


@pytest.mark.parametrize("kind", ["identify", "verify", "cluster"])
def test_every_page_names_embedder_and_detector_with_their_licences(
    asked: dict[str, Identify | Verify | Cluster], kind: str
):
    run, page = done(asked[kind], Similarity(threshold=0.5))
    assert run.manifest["detector"]["licence"] == "CC-BY-NC-4.0"
    for title, words in (
        ("Embedder", ("made.safetensors", "MIT")),
        ("Detector", ("found.safetensors", "CC-BY-NC-4.0")),
    ):
        section = page[page.index(f"<h2>{title}</h2>") :]
        section = section[: section.find("<h2>", 4)]
        assert all(word in section for word in words)
