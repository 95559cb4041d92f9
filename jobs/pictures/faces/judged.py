"""Faces of known people held against each other: as pairs of a list, as all pairs, as searches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jobs.pictures.faces.labelled import LabelledFaces
from jobs.pictures.faces.pairs import PairList, places
from jobs.pictures.faces.similarity import Similarity
from vision_ops.faces.comparisons import (
    Compared,
    Hardest,
    genuine_pairs,
    impostor_pairs,
    num_columns,
    searches,
    strangers,
)
from vision_ops.faces.people import pooled
from vision_ops.faces.search_errors import SearchErrors
from vision_ops.metrics.discard import DiscardAccumulator
from vision_ops.metrics.folds import FoldAccumulator
from vision_ops.metrics.identification import IdentificationAccumulator, IdentificationResult
from vision_ops.metrics.scores import NEVER
from vision_ops.metrics.verification import VerificationAccumulator

NUM_FOLDS = 10
MAX_SEARCHED = 200_000_000
"""comparisons of probes with a gallery; of more probes, a part"""

Gallery = Literal["first", "best"]
"""the face that stands for a person in the gallery: of the first id, or of the best quality"""
TEMPLATE_FACES = (2, 4, 16)
"""most faces of a template, by which thresholds are calibrated too"""
LEAST_STEP = 1.1
"""of the mean number of faces, from one such gallery to the next"""


@dataclass(kw_only=True)
class JudgedPairs:
    """Pairs, counted."""

    pairs: VerificationAccumulator
    folds: FoldAccumulator | None
    lowest: Hardest
    """genuine pairs of the lowest scores"""
    highest: Hardest
    """impostor pairs of the highest"""
    absent: int = 0
    """listed pairs that name an image which the run does not have; in no number"""
    part: float = 1.0
    """of all impostor pairs, how many were compared"""
    fold_note: str = ""


def judge_all(faces: LabelledFaces, similarity: Similarity, num_hardest: int) -> JudgedPairs:
    """All genuine and impostor pairs of faces whose people are known."""
    judged = _new(similarity, num_hardest)
    num = len(faces.ids)
    columns = num_columns(num, similarity.max_pairs)
    if columns < num:
        judged.part = (columns * (2 * num - columns - 1)) / (num * (num - 1))
    embeddings, people = faces.embeddings, faces.people
    for pairs in genuine_pairs(embeddings, people, similarity.scores):
        judged.pairs.update(pairs.scores, np.ones(len(pairs.scores), bool))
        judged.lowest.update(pairs)
    for pairs in impostor_pairs(embeddings, people, similarity.scores, similarity.max_pairs):
        judged.pairs.update(pairs.scores, np.zeros(len(pairs.scores), bool))
        judged.highest.update(pairs)
    missed = _missed_pairs(faces, np.ones(len(faces.names) + 1, bool))
    judged.pairs.genuine[0] += missed[0]
    judged.pairs.impostor[0] += round(missed[1] * judged.part)
    judged.folds, judged.fold_note = _folds(faces, similarity)
    return judged


def judge_list(
    faces: LabelledFaces, listed: PairList, similarity: Similarity, num_hardest: int
) -> JudgedPairs:
    """The pairs of a list. A pair of which an image shows no face has the score NEVER."""
    judged = _new(similarity, num_hardest)
    ids = {id: k for k, id in enumerate(faces.ids)}
    ids |= {id: len(faces.ids) + k for k, id in enumerate(faces.without_face)}
    a, b = (places(names, ids, listed.by_stem) for names in (listed.a, listed.b))
    here = (a >= 0) & (b >= 0)
    judged.absent = int((~here).sum())
    if not here.any():
        raise ValueError(
            f"pairs: none of the {len(here):,} pairs names images of the run: "
            f"{listed.a[0]!r} is asked for, the run has {next(iter(ids))!r}"
        )
    found = here & (a < len(faces.ids)) & (b < len(faces.ids))
    scores = np.full(len(a), NEVER, np.float32)
    embeddings = faces.embeddings
    scores[found] = similarity.paired(embeddings[a[found]], embeddings[b[found]])
    judged.pairs.update(scores[here], listed.same[here])
    judged.folds = FoldAccumulator(listed.num_folds, similarity.grid)
    for fold in range(listed.num_folds):
        chosen = here & (listed.folds == fold)
        judged.folds.update(fold, scores[chosen], listed.same[chosen])
    for hardest, kind in ((judged.lowest, listed.same), (judged.highest, ~listed.same)):
        which = found & kind
        hardest.update(Compared(a[which], b[which], scores[which]))
    if not listed.folds_given:
        judged.fold_note = (
            "The list has no folds: its pairs were dealt to ten by turns, so that a person may be "
            "in several."
        )
    return judged


def genuine_of(
    faces: LabelledFaces, listed: PairList | None, similarity: Similarity
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores and the lower quality of genuine pairs whose faces were found; float32 (B,) each."""
    quality = faces.quality
    if listed is None:
        for pairs in genuine_pairs(faces.embeddings, faces.people, similarity.scores):
            yield pairs.scores, np.minimum(quality[pairs.a], quality[pairs.b])
        return
    ids = {id: k for k, id in enumerate(faces.ids)}
    a, b = (places(names, ids, listed.by_stem) for names in (listed.a, listed.b))
    kept = (a >= 0) & (b >= 0) & listed.same
    scores = similarity.paired(faces.embeddings[a[kept]], faces.embeddings[b[kept]])
    yield scores, np.minimum(quality[a[kept]], quality[b[kept]])


def discarding(
    faces: LabelledFaces, listed: PairList | None, similarity: Similarity, threshold: float
) -> DiscardAccumulator:
    """Errors at a threshold by quality."""
    found = DiscardAccumulator(threshold)
    for scores, quality in genuine_of(faces, listed, similarity):
        found.update(scores, quality)
    return found


def _new(similarity: Similarity, num_hardest: int) -> JudgedPairs:
    return JudgedPairs(
        pairs=VerificationAccumulator(similarity.grid),
        folds=None,
        lowest=Hardest(num_hardest, sign=-1),
        highest=Hardest(num_hardest, sign=1),
    )


def _folds(faces: LabelledFaces, similarity: Similarity) -> tuple[FoldAccumulator | None, str]:
    """All pairs within each of ten groups of people, genuine ones weighed as impostors."""
    counts = np.bincount(faces.people, minlength=len(faces.names))
    order = np.random.default_rng(0).permutation(len(counts))
    several = order[counts[order] > 1]
    if len(several) < 2 * NUM_FOLDS:
        told = f"people with two pictures: {len(several)}; ten folds take {2 * NUM_FOLDS}"
        return None, f"No accuracy by folds: {told}."
    group = np.zeros(len(counts) + 1, np.int64)  # the last: people without any face
    for people in (several, order[counts[order] == 1]):
        group[people] = np.arange(len(people)) % NUM_FOLDS
    folds = FoldAccumulator(NUM_FOLDS, similarity.grid, balanced=True)
    most = similarity.max_pairs // NUM_FOLDS
    for fold in range(NUM_FOLDS):
        held = np.flatnonzero(group[faces.people] == fold)
        embeddings, people = faces.embeddings[held], faces.people[held]
        for pairs in genuine_pairs(embeddings, people, similarity.scores):
            folds.update(fold, pairs.scores, np.ones(len(pairs.scores), bool))
        for pairs in impostor_pairs(embeddings, people, similarity.scores, most):
            folds.update(fold, pairs.scores, np.zeros(len(pairs.scores), bool))
        folds.counts[fold, :, 0] += _missed_pairs(faces, group == fold)
    told = "Ten groups of people, all pairs within each; genuine pairs weigh as much as impostors."
    return folds, told


def _missed_pairs(faces: LabelledFaces, chosen: np.ndarray) -> tuple[int, int]:
    """Genuine and impostor pairs of which an image shows no face, among the chosen people.

    chosen   bool (N + 1,)   by index in `names`; the last of all who have no face at all
    """
    index = {name: k for k, name in enumerate(faces.names)}
    num = len(index)
    found = np.bincount(faces.people, minlength=num)
    nameless: dict[str, int] = {}
    for name in faces.without_face.values():
        if name not in index:
            nameless[name] = nameless.get(name, 0) + 1
    missing = np.zeros(num, np.int64)
    for name in faces.without_face.values():
        if name in index:
            missing[index[name]] += 1
    there, gone = found[chosen[:num]], missing[chosen[:num]]
    if chosen[num]:
        there = np.append(there, np.zeros(len(nameless), np.int64))
        gone = np.append(gone, np.array(list(nameless.values()), np.int64))
    both = there + gone
    genuine = int((_pairs(both) - _pairs(there)).sum())
    every = int(_pairs(both.sum()) - _pairs(there.sum()))
    return genuine, every - genuine


def _pairs(num: np.ndarray) -> np.ndarray:
    return num * (num - 1) // 2


@dataclass(frozen=True, kw_only=True)
class JudgedSearches:
    """Probes held against a gallery of one face a person."""

    found: IdentificationResult
    """over probes with a face"""
    whole: IdentificationResult
    """over all probes: one without a face finds nobody"""
    errors: Mapping[float, SearchErrors]
    """false alarms of galleries whose templates are of so many faces (their harmonic mean over
    people), from 1 on"""
    num_people: int
    """in the gallery"""
    num_probes: int
    num_searched: int
    """of the probes; fewer where all would be too many comparisons"""


def judge_searches(
    faces: LabelledFaces, similarity: Similarity, gallery: Gallery
) -> JudgedSearches | None:
    """One-shot identification, each probe with its person in the gallery and without.

    The people who are looked for in vain are so the same as those who are found, and every face
    counts for both. A person with one face is in the gallery, and is looked for only in vain.
    None where fewer than two people have a face, or nobody has two.
    """
    num_people = len(faces.names)
    counts = np.bincount(faces.people, minlength=num_people)
    if num_people < 2 or counts.max() < 2:
        return None
    shown = gallery_of(faces, gallery)
    is_probe = np.ones(len(faces.ids), bool)
    is_probe[shown[counts > 1]] = False
    probes = np.flatnonzero(is_probe)
    num_probes = len(probes)
    most = max(1, MAX_SEARCHED // num_people)
    if num_probes > most:
        probes = np.sort(np.random.default_rng(0).permutation(probes)[:most])
    weights = 1 / np.bincount(faces.people[probes], minlength=num_people).clip(min=1)
    errors = SearchErrors(similarity.grid, num_people - 1)
    found = IdentificationAccumulator(similarity.grid)
    for part in searches(faces.embeddings, faces.people, shown, probes, similarity.scores):
        known = part.own > NEVER
        found.add_known(part.own[known], part.rank[known])
        found.add_unknown(part.others.max(axis=1))
        errors.update(part.others, weights[faces.people[part.probes]])
    result = found.result()
    enrolled = set(faces.names)
    lost = sum(name in enrolled for name in faces.without_face.values())
    found.add_failed(lost, len(faces.without_face))
    return JudgedSearches(
        found=result,
        whole=found.result(),
        errors={1.0: errors} | judge_templates(faces, similarity, gallery, probes, weights),
        num_people=num_people,
        num_probes=num_probes,
        num_searched=len(probes),
    )


def judge_templates(
    faces: LabelledFaces,
    similarity: Similarity,
    gallery: Gallery,
    probes: np.ndarray,
    weights: np.ndarray,
) -> dict[float, SearchErrors]:
    """False alarms where a template is of several faces, by their harmonic mean over people.

    probes    int64 (Q,)    faces that are looked for among all people but their own
    weights   float64 (N,)  of a probe of each person
    A person of fewer faces has a template of those: the gallery grows by no one and loses no one.
    """
    counts = np.bincount(faces.people, minlength=len(faces.names))
    found: dict[float, SearchErrors] = {}
    last = 1.0
    for most in TEMPLATE_FACES:
        mean = float(1 / np.mean(1 / np.minimum(counts, most)))
        if mean < LEAST_STEP * last:
            continue
        templates = templates_of(faces, gallery, most)
        errors = SearchErrors(similarity.grid, len(counts) - 1)
        searched = strangers(faces.embeddings, faces.people, templates, probes, similarity.scores)
        for some, scores in searched:
            errors.update(scores, weights[faces.people[some]])
        found[mean] = errors
        last = mean
    return found


def templates_of(faces: LabelledFaces, gallery: Gallery, most: int) -> np.ndarray:
    """float32 (N, E): of up to so many faces of each person, as a gallery pools them."""
    order = _ranked(faces, gallery)
    order = order[np.argsort(faces.people[order], kind="stable")]
    ends = np.cumsum(np.bincount(faces.people, minlength=len(faces.names)))
    pooled_faces = [own[:most] for own in np.split(order, ends[:-1])]
    return np.stack([pooled(faces.embeddings[own], faces.quality[own]) for own in pooled_faces])


def gallery_of(faces: LabelledFaces, gallery: Gallery) -> np.ndarray:
    """int64 (N,): the face that stands for each person."""
    order = _ranked(faces, gallery)
    _, first = np.unique(faces.people[order], return_index=True)
    return order[first]


def _ranked(faces: LabelledFaces, gallery: Gallery) -> np.ndarray:
    """int64 (F,): faces in the order in which they would stand for their person."""
    order = np.arange(len(faces.ids))
    return order if gallery == "first" else np.lexsort((order, -faces.quality))
