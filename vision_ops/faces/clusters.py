"""Unlabelled faces to people: who belongs together, by an exact graph of neighbours."""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, Int64
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import DBSCAN, AgglomerativeClustering
from sklearn.neighbors import sort_graph_by_row_values

from vision_ops.faces.search import COSINE, Scorer, neighbours

Method = Literal["average", "dbscan"]
NOBODY = -1
"""label of a face that belongs to nobody else"""
MOST_TOGETHER = 10_000
"""faces that hang together and are still merged by average linkage: 0.8 GB of distances"""


def cluster(
    embeddings: Float32[np.ndarray, "N E"],
    threshold: float,
    *,
    method: Method = "average",
    min_faces: int = 2,
    scorer: Scorer = COSINE,
) -> Int64[np.ndarray, "N"]:
    """Number of the person that each face belongs to, NOBODY for those left over.

    average: agglomerative, two groups become one while the mean score between their faces reaches
    the threshold (UPGMA; Sokal and Michener 1958). Groups that are ever merged are joined by a
    pair that reaches it, and the linkage is reducible (Bruynooghe 1977): so each connected part of
    the graph is merged alone, with the same outcome as all faces at once.
    dbscan: faces with `min_faces` - 1 neighbours and more carry a group on (Ester et al. 1996);
    chains of look-alikes may join two people.

    People are numbered from the largest to the smallest, equals by their first face; a group of
    fewer than `min_faces` is nobody. Raises ValueError for a request that makes no sense.
    """
    if method not in get_args(Method):
        raise ValueError(f"method {method!r}: not one of {get_args(Method)}")
    if min_faces < 1:
        raise ValueError(f"min_faces: {min_faces}, must be at least 1")
    if not len(embeddings):
        return np.zeros(0, np.int64)
    graph = neighbours(embeddings, threshold, scorer)
    if method == "dbscan":
        labels = _dense(graph, min_faces)
    else:
        labels = _average(embeddings, graph, threshold, scorer)
    return _numbered(labels, min_faces)


def _dense(graph: csr_matrix, min_faces: int) -> np.ndarray:
    """DBSCAN over the graph: every stored pair is near, whatever its distance."""
    count = len(graph.indptr) - 1
    if not graph.nnz:  # scikit-learn cannot sort an empty graph
        return np.arange(count) if min_faces == 1 else np.full(count, NOBODY)
    top = graph.data.max(initial=0.0)
    distances = csr_matrix((top - graph.data, graph.indices, graph.indptr), shape=graph.shape)
    ranked = sort_graph_by_row_values(distances, warn_when_not_sorted=False)
    reach = float(distances.data.max(initial=0.0)) + 1.0
    return DBSCAN(eps=reach, min_samples=min_faces, metric="precomputed").fit(ranked).labels_


def _average(
    embeddings: np.ndarray, graph: csr_matrix, threshold: float, scorer: Scorer
) -> np.ndarray:
    _, parts = connected_components(graph, directed=False)
    labels = np.empty(len(embeddings), np.int64)
    order = np.argsort(parts, kind="stable")
    next_label = 0
    for members in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1):
        own = _merged(embeddings[members], threshold, scorer)
        labels[members] = own + next_label
        next_label += int(own.max()) + 1
    return labels


def _merged(embeddings: np.ndarray, threshold: float, scorer: Scorer) -> np.ndarray:
    if len(embeddings) == 1:
        return np.zeros(1, np.int64)
    if len(embeddings) > MOST_TOGETHER:
        raise ValueError(
            f"threshold {threshold:g}: {len(embeddings):,} faces hang together by pairs that reach "
            f"it, average linkage takes {MOST_TOGETHER:,}; a higher threshold, or method dbscan"
        )
    exact = embeddings.astype(np.float64)
    scores = scorer.block(exact, exact)
    top = max(float(scores.max()), threshold)
    distances = np.maximum(top - (scores + scores.T) / 2, 0.0)
    np.fill_diagonal(distances, 0.0)
    merging = AgglomerativeClustering(
        n_clusters=None,  # pyright: ignore[reportArgumentType]
        metric="precomputed",
        linkage="average",
        distance_threshold=np.nextafter(top - threshold, np.inf),  # reaching it is enough
    )
    return merging.fit(distances).labels_.astype(np.int64)


def _numbered(labels: np.ndarray, min_faces: int) -> np.ndarray:
    """Labels by falling size, then by first member; small ones and negative ones are NOBODY."""
    names, first, inverse, counts = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    wanted = (names >= 0) & (counts >= min_faces)
    order = [k for k in np.lexsort((first, -counts)) if wanted[k]]
    numbers = np.full(len(names), NOBODY, np.int64)
    numbers[order] = np.arange(len(order))
    return numbers[inverse]
