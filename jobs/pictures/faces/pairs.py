"""Lists of pairs to verify: LFW's pairs.txt as it is published, or any CSV with a, b and same."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.runtime.storage import Storage, absolute

COLUMNS = ("a", "b", "same")
TRUE, FALSE = ("1", "true", "yes", "same"), ("0", "false", "no", "different")
NUM_FOLDS = 10


@dataclass(frozen=True, kw_only=True)
class PairList:
    """Pairs of images, as the file names them."""

    a: Sequence[str]
    b: Sequence[str]
    same: np.ndarray
    """bool (B,)"""
    folds: np.ndarray
    """int64 (B,), from 0"""
    num_folds: int
    by_stem: bool
    """images are named as LFW names them: Person_Name_0001, wherever they lie"""
    folds_given: bool
    """False: dealt out here, by turns, so that a person is in several folds"""


def read_pairs(uri: str, storage: Storage) -> PairList:
    """The pairs of a file. Raises ValueError, naming the line, for what is none."""
    uri = absolute(uri)
    try:
        text = storage.read(uri).decode("utf-8-sig")
    except FileNotFoundError as missing:
        raise ValueError(f"pairs: {uri}: not there") from missing
    except UnicodeDecodeError as binary:
        raise ValueError(f"pairs: {uri}: not text") from binary
    first = text.split("\n", 1)[0].strip()
    if re.fullmatch(r"\d+([\t ]+\d+)?", first):
        return _lfw(uri, text)
    return _table(uri, text)


def _lfw(uri: str, text: str) -> PairList:
    """`folds<TAB>n`, then in each fold n lines `name i j` and n lines `name i other j`.

    A header of one number (pairsDevTrain.txt, pairsDevTest.txt) stands for one fold of n and n.
    """
    lines = text.splitlines()
    header = [int(number) for number in lines[0].split()]
    num_folds, per_half = (header[0], header[1]) if len(header) == 2 else (1, header[0])
    a, b, same = [], [], []
    for number, line in enumerate(lines[1:], start=2):
        words = line.split("\t") if "\t" in line else line.split()
        if not line.strip():
            continue
        if len(words) not in (3, 4) or not (words[1].isdigit() and words[-1].isdigit()):
            raise ValueError(
                f"pairs: {uri}: line {number}: {line!r}; wanted: name i j, or name i other j"
            )
        other = words[0] if len(words) == 3 else words[2]
        a.append(f"{words[0]}_{int(words[1]):04d}")
        b.append(f"{other}_{int(words[-1]):04d}")
        same.append(len(words) == 3)
    wanted = num_folds * 2 * per_half
    if len(a) != wanted:
        raise ValueError(
            f"pairs: {uri}: {len(a):,} pairs, its first line says {num_folds} x 2 x {per_half}"
        )
    judged = np.array(same, bool)
    if num_folds == 1:
        return _dealt(a, b, judged, by_stem=True)
    folds = np.repeat(np.arange(num_folds), 2 * per_half)
    return PairList(
        a=a, b=b, same=judged, folds=folds, num_folds=num_folds, by_stem=True, folds_given=True
    )


def _table(uri: str, text: str) -> PairList:
    reader = csv.DictReader(io.StringIO(text))
    names = reader.fieldnames or []
    if not set(COLUMNS) <= set(names):
        raise ValueError(
            f"pairs: {uri}: columns {list(names)}; wanted: a, b, same and perhaps fold, "
            "or the format of LFW's pairs.txt"
        )
    a, b, same, folds = [], [], [], []
    for row in reader:
        said = (row["same"] or "").strip().lower()
        if said not in TRUE + FALSE or not row["a"] or not row["b"]:
            raise ValueError(
                f"pairs: {uri}: line {reader.line_num}: {row}; same is one of {TRUE + FALSE}"
            )
        a.append(row["a"])
        b.append(row["b"])
        same.append(said in TRUE)
        folds.append((row.get("fold") or "").strip())
    judged = np.array(same, bool)
    if not a:
        raise ValueError(f"pairs: {uri}: no pairs")
    named = sorted(set(folds))
    if "" in named and len(named) > 1:
        raise ValueError(f"pairs: {uri}: some pairs have a fold and some have none")
    if len(named) < 2:
        return _dealt(a, b, judged, by_stem=False)
    index = {name: k for k, name in enumerate(named)}
    return PairList(
        a=a, b=b, same=judged, folds=np.array([index[name] for name in folds]),
        num_folds=len(named), by_stem=False, folds_given=True,
    )  # fmt: skip


def _dealt(a: list[str], b: list[str], same: np.ndarray, by_stem: bool) -> PairList:
    """In ten folds by turns, genuine and impostor pairs apart."""
    folds = np.zeros(len(a), np.int64)
    for kind in (same, ~same):
        folds[kind] = np.arange(kind.sum()) % NUM_FOLDS
    return PairList(
        a=a, b=b, same=same, folds=folds, num_folds=NUM_FOLDS, by_stem=by_stem, folds_given=False
    )


def places(names: Sequence[str], ids: Mapping[str, int], by_stem: bool) -> np.ndarray:
    """Where each name of a list is in the run: int64 (B,), -1 for those that are not.

    names  ids, or LFW's names of images
    ids    a number for each id
    Raises ValueError where two rows bear the name of one LFW image.
    """
    if not by_stem:
        return np.array([ids.get(name, -1) for name in names], np.int64)
    stems: dict[str, int] = {}
    wanted = set(names)
    for id, place in ids.items():
        stem = re.split(r"[/#]", id)[-1].rpartition(".")[0] or id
        if stem in wanted and stem in stems:
            raise ValueError(f"pairs: two rows are called {stem}; their ids end alike")
        stems[stem] = place
    return np.array([stems.get(name, -1) for name in names], np.int64)
