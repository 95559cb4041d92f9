"""Faces by YuNet (Wu, Peng and Yu 2023) through OpenCV's FaceDetectorYN.

The only module that imports cv2, of the extra `faces`.
"""

from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import torch

from vision_ops.faces import Faces
from vision_ops.faces.choose import Found, choose, in_picture
from vision_ops.faces.detect import DetectorConfig
from vision_ops.faces.passes import Picture, View, octaves
from vision_ops.precision import num_threads

try:
    import cv2
except ModuleNotFoundError as missing:
    raise ValueError("YuNet needs OpenCV: pip install -e '.[faces]'") from missing

FACES_PX = (12, 256)
"""that it finds well: it learnt from 10 to 300 pixels"""
MOST = 5000
"""answers for one view, before suppression"""
KEEP_ALL = 1.0
"""OpenCV's own suppression compares boxes cut to whole pixels, and sees one size only"""


class YuNetDetector:
    """A `Detector`. OpenCV takes one picture at a time, filled up with black to a multiple of 32.

    Each of its callers has a network, which keeps the size of its picture.
    """

    def __init__(self, config: DetectorConfig, path: str | Path, callers: int = 1) -> None:
        self.config = config
        cv2.setNumThreads(max(1, num_threads() // callers))
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns of itself
        # those that nobody is using
        self.networks: SimpleQueue[cv2.FaceDetectorYN] = SimpleQueue()
        try:
            for _ in range(callers):
                network = cv2.FaceDetectorYN.create(
                    str(path), "", (32, 32), config.min_confidence, KEEP_ALL, MOST
                )
                network.detect(np.zeros((32, 32, 3), np.uint8))
                self.networks.put(network)
        except cv2.error as wrong:
            cause = str(wrong).strip().splitlines()[-1]
            raise ValueError(f"{path}: OpenCV does not run it as YuNet ({cause[:200]})") from wrong

    def __call__(self, images: Sequence[Picture]) -> list[Faces]:
        """The faces of each picture."""
        found: list[list[Found]] = [[] for _ in images]
        for seen in octaves(images, self.config.min_face_px, FACES_PX):
            found[seen.image].append(self._find(seen))
        return [choose(each, self.config) for each in found]

    def _find(self, seen: View) -> Found:
        height, width = seen.pixels.shape[:2]
        network = self.networks.get()
        try:
            network.setInputSize((width, height))
            _, rows = network.detect(np.ascontiguousarray(seen.pixels[:, :, ::-1]))
        finally:
            self.networks.put(network)
        faces = torch.zeros(0, 15) if rows is None else torch.from_numpy(rows)
        corner, size = faces[:, :2], faces[:, 2:4]
        boxes = torch.cat([corner, corner + size], dim=1)
        # its left and right are the person's, in the order in which ours are those of the picture
        return in_picture(seen, boxes, faces[:, 4:14].reshape(-1, 5, 2), faces[:, 14])
