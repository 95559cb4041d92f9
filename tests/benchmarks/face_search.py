"""Exact search of a gallery beside a bare matrix product, and beside faiss where it is installed.

    python -m tests.benchmarks.face_search --people 100000 --size 512

One thread each, by turns; rates are by seconds of CPU, of the fastest turn.
"""

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402  # after the number of threads is said

from tests.made_faces import unit  # noqa: E402
from vision_ops.faces.search import GALLERY_ROWS, PROBE_ROWS, nearest  # noqa: E402


def product(probes: np.ndarray, gallery: np.ndarray) -> None:
    """What no search by this library can be faster than: the products, and nothing of them."""
    for top in range(0, len(probes), PROBE_ROWS):
        for start in range(0, len(gallery), GALLERY_ROWS):
            np.matmul(probes[top : top + PROBE_ROWS], gallery[start : start + GALLERY_ROWS].T)


def faiss_flat(gallery: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray] | None:
    """Search by faiss.IndexFlatIP; None where faiss is not installed."""
    try:
        faiss = importlib.import_module("faiss")
    except ModuleNotFoundError:
        return None
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    return lambda probes, k: index.search(probes, k)[1]


def main() -> None:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, value in (("people", 100_000), ("size", 512), ("probes", 512), ("k", 5)):
        parser.add_argument(f"--{option}", type=int, default=value)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    gallery = unit(rng.standard_normal((asked.people, asked.size)))
    differs = unit(rng.standard_normal((asked.probes, asked.size)))
    probes = unit(gallery[rng.integers(0, asked.people, asked.probes)] + 1.2 * differs)
    ways: dict[str, Callable[[], np.ndarray | None]] = {
        "exact search": lambda: nearest(probes, gallery, asked.k).places,
        "bare product": lambda: product(probes, gallery),
    }
    if flat := faiss_flat(gallery):
        ways["faiss flat"] = lambda: flat(probes, asked.k)
    best, answers = dict.fromkeys(ways, np.inf), {}
    for _ in range(asked.repeats):
        for name, way in ways.items():
            start = time.process_time()
            answers[name] = way()
            best[name] = min(best[name], time.process_time() - start)
    for name, seconds in best.items():
        rate = f"{asked.probes / seconds:8,.0f} probes per CPU second"
        part = f"{best['bare product'] / seconds:.2f} of the bare product"
        sys.stdout.write(f"{name:<14}{rate}   {part}\n")
    if "faiss flat" in answers:
        same = (answers["faiss flat"] == answers["exact search"]).mean()
        sys.stdout.write(f"faiss names the same people for {same:.2%} of the places\n")


if __name__ == "__main__":
    main()
