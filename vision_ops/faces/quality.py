"""How far a face may be trusted, 0..1: is it one, large, sharp, seen from the front, recognised.

Each part is 0..1 and 1 is best; the score is their geometric mean, so that one bad part is not made
up for by the others. It orders faces (which enrol, which are discarded first); it is no probability
of being recognised. Parts that a detector or an embedder does not give are left out of the mean.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

GOOD_EYES_PX = 28.0
"""distance of the eyes in the picture from which it counts in full: most of the 35 px of ArcFace's
crop, below which a crop shows less than its pixels could"""
SHARP = 0.03
"""variance of the Laplacian over that of the grey levels from which a crop counts as sharp"""
ROUNDING = 20 / 12
"""variance of the Laplacian of what rounding to whole levels changes: (4 * 4 + 4) / 12"""
LEAST = 0.01
"""of a part in the mean: one that is wrong does not say everything"""
BOX_TO_EYES = 0.45
"""distance of the eyes as a part of a box's width, for detectors without landmarks"""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Parts of the quality of N faces, each 0..1; not a number where nothing tells."""

    confidence: Float64[np.ndarray, "N"]
    """the detector's"""
    size: Float64[np.ndarray, "N"]
    """distance of the eyes in the picture, as it was seen, over GOOD_EYES_PX, 1 at the most"""
    sharpness: Float64[np.ndarray, "N"]
    """see `sharpness`"""
    frontality: Float64[np.ndarray, "N"]
    """see `frontality`"""
    visible: Float64[np.ndarray, "N"]
    """part of the crop's middle that lies within the picture: half of a face cut in two"""
    norm: Float64[np.ndarray, "N"]
    """of the raw embedding, see `recognisability`"""

    @property
    def score(self) -> Float32[np.ndarray, "N"]:
        """Geometric mean of the parts that are known, none below LEAST; 0 where none is."""
        parts = np.stack([getattr(self, field.name) for field in fields(self)], axis=1)
        known = ~np.isnan(parts)
        logs = np.log(np.clip(np.where(known, parts, 1.0), LEAST, 1.0))
        count = known.sum(axis=1)
        mean = np.exp(logs.sum(axis=1) / np.maximum(count, 1))
        return np.where(count > 0, mean, 0.0).astype(np.float32)


def judge(
    crops: UInt8[np.ndarray, "N S S 3"],
    boxes: Float[np.ndarray, "N 4"],
    landmarks: Float[np.ndarray, "N 5 2"],
    confidence: Float[np.ndarray, "N"],
    visible: Float[np.ndarray, "N"] | None = None,
    norms: Float[np.ndarray, "N"] | None = None,
    usual_norm: float = 0.0,
) -> Quality:
    """The quality of faces.

    crops are aligned, sRGB 0..255; boxes, landmarks and confidence as in `Faces`, in pixels of the
    picture that the crops were cut from: of a reduced one, those of the original would make faces
    larger than anybody saw them; visible is what `vision_ops.faces.align.visible` says of them;
    norms are those of `Embedder.embed`, and count where `usual_norm`, the same embedder's for good
    faces, is given.
    """
    unknown = np.full(len(crops), np.nan)
    points = landmarks.astype(np.float64)
    return Quality(
        confidence=np.clip(confidence.astype(np.float64), 0, 1),
        size=np.clip(eye_distances(boxes, points) / GOOD_EYES_PX, 0, 1),
        sharpness=sharpness(crops),
        frontality=frontality(points),
        visible=unknown if visible is None else visible.astype(np.float64),
        norm=unknown if norms is None or not usual_norm else recognisability(norms, usual_norm),
    )


def eye_distances(
    boxes: Float[np.ndarray, "N 4"], landmarks: Float[np.ndarray, "N 5 2"]
) -> Float64[np.ndarray, "N"]:
    """Pixels of the picture from eye to eye, as if seen from the front; by the box without them.

    A face that turns away brings its eyes together, one that nods its mouth and eyes: of both, what
    says the larger face counts (from eyes to mouth is 1.15 times from eye to eye in the template).
    """
    eyes = np.linalg.norm(landmarks[:, 1] - landmarks[:, 0], axis=1)
    middles = (landmarks[:, :2].mean(axis=1), landmarks[:, 3:].mean(axis=1))
    faces = np.linalg.norm(middles[1] - middles[0], axis=1) / 1.15
    by_box = np.maximum(boxes[:, 2] - boxes[:, 0], 0).astype(np.float64) * BOX_TO_EYES
    return np.where(np.isnan(eyes), by_box, np.fmax(eyes, faces))


def sharpness(crops: UInt8[np.ndarray, "N S S 3"]) -> Float64[np.ndarray, "N"]:
    """Variance of the Laplacian of the grey levels over their own variance, of SHARP, to 1.

    Variance of the Laplacian (Pech-Pacheco et al. 2000) measures fine detail; divided by that of
    the levels themselves it does not grow with contrast, and what rounding adds is taken off. The
    centre of the crop, three quarters of its side, counts: corners are background, or black. 0 for
    a crop of one grey.
    """
    side = crops.shape[1]
    edge = side // 8
    grey = crops[:, edge : side - edge, edge : side - edge].astype(np.float32) @ LUMA
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    fine = (around - 4 * grey[:, 1:-1, 1:-1]).astype(np.float64).var(axis=(1, 2))
    spread = grey.astype(np.float64).var(axis=(1, 2))
    share = np.maximum(fine - ROUNDING, 0) / np.maximum(spread, 1.0)
    return np.clip(share / SHARP, 0, 1)


def frontality(landmarks: Float[np.ndarray, "N 5 2"]) -> Float64[np.ndarray, "N"]:
    """1 seen from the front, 0 in profile, by where the nose lies; not a number without landmarks.

    In axes along the line of the eyes and across it, so that a tilted head is as good as another.
    Turned: how far the nose is off the middle line from eyes to mouth, as a part of half the
    distance of the eyes. Nodding: how far its height between eyes and mouth is off the template's
    0.5, as a part of 0.5. The two are multiplied. 0 where the eyes are one point.
    """
    middle, mouth = landmarks[:, :2].mean(axis=1), landmarks[:, 3:].mean(axis=1)
    line = landmarks[:, 1] - landmarks[:, 0]
    length = np.linalg.norm(line, axis=1)
    along = line / np.maximum(length, 1e-9)[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    nose, mouth = landmarks[:, 2] - middle, mouth - middle
    height = (mouth * across).sum(axis=1)
    depth = (nose * across).sum(axis=1) / np.where(np.abs(height) < 1e-9, np.nan, height)
    on_line = (mouth * along).sum(axis=1) * depth
    turned = np.abs((nose * along).sum(axis=1) - on_line) / np.maximum(length / 2, 1e-9)
    nodding = np.abs(depth - 0.5) / 0.5
    found = np.clip(1 - turned, 0, 1) * np.clip(1 - nodding, 0, 1)
    return np.where(np.isnan(landmarks).any(axis=(1, 2)), np.nan, np.nan_to_num(found, nan=0.0))


def recognisability(norms: Float[np.ndarray, "N"], usual: float) -> Float64[np.ndarray, "N"]:
    """Norms of raw embeddings as a part of the embedder's usual one, 1 at the most.

    Networks trained with a margin on directions give short vectors to what they cannot tell
    (Meng et al. 2021; Kim et al. 2022, fig. 3); on which scale is each network's own.
    """
    return np.clip(norms.astype(np.float64) / usual, 0, 1)
