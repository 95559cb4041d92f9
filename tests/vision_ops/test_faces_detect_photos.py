"""Published detectors of faces on press photos: everybody is found, once, where they are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision_ops.faces.detect import Detector, DetectorConfig, make_detector
from vision_ops.weights.face_detectors import convert_detector

STATES = {
    "mtcnn": [f"mtcnn-{name}.pt" for name in ("pnet", "rnet", "onet")],
    "retinaface": ["retinaface-mobilenet0.25-landmarks.pth"],
    "onnx:ultralight": ["ultralight-rfb-320.onnx"],
}
NUM_FACES = {"kit_with_rose": 2, "obama_and_biden": 3}
"""of the photos that do not show one"""


def photo(shared_data: Path, name: str, longest_px: int = 640) -> np.ndarray:
    (path, *_) = sorted((shared_data / "faces" / "photos").rglob(name))
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((longest_px, longest_px))
    return np.asarray(image)


@pytest.fixture(scope="module", params=STATES)
def detect(request, shared_data, tmp_path_factory) -> Detector:
    suffix = ".onnx" if "onnx" in request.param else ".safetensors"
    path = tmp_path_factory.mktemp("detector") / f"w{suffix}"
    states = [shared_data / "weights" / name for name in STATES[request.param]]
    convert_detector(f"face_detector:{request.param}", states, "MIT", "published", path)
    return make_detector(DetectorConfig(), path)


@pytest.mark.slow
def test_everybody_in_the_press_photos_is_found_once(detect, shared_data):
    folder = shared_data / "faces" / "photos"
    paths = [path for path in sorted(folder.rglob("*.*")) if path.is_file()]
    found = detect([photo(shared_data, path.name) for path in paths])
    assert [len(faces.boxes) for faces in found] == [NUM_FACES.get(p.stem, 1) for p in paths]


def test_landmarks_lie_in_their_places_also_in_the_mirror(detect, shared_data, request):
    picture = photo(shared_data, "kit_with_rose.jpg")
    plain, mirrored = detect([picture, picture[:, ::-1]])
    assert len(plain.boxes) == len(mirrored.boxes) == 2
    width = picture.shape[1]
    order = np.argsort(plain.boxes[:, 0]), np.argsort(-mirrored.boxes[:, 0])
    size = (plain.boxes[:, 3] - plain.boxes[:, 1]).mean()
    back = mirrored.boxes[order[1]][:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]
    np.testing.assert_allclose(back, plain.boxes[order[0]], atol=0.15 * size)
    if "ultralight" in request.node.callspec.id:  # it gives none
        assert np.isnan(plain.landmarks).all()
        return
    for box, (left, right, nose, low_left, low_right) in zip(
        plain.boxes, plain.landmarks, strict=True
    ):
        assert box[0] < left[0] < nose[0] < right[0] < box[2]
        assert low_left[0] < low_right[0]
        assert box[1] < left[1] < nose[1] < low_left[1] < box[3]
    points = mirrored.landmarks[order[1]][:, [1, 0, 2, 4, 3]] * [-1, 1] + [width, 0]
    np.testing.assert_allclose(points, plain.landmarks[order[0]], atol=0.1 * size)


def test_face_that_the_border_cuts_is_found_and_nothing_in_nothing(detect, shared_data):
    picture = photo(shared_data, "obama2.jpg")
    whole, *others = detect(
        [
            picture,
            np.full_like(picture, 127),
            np.zeros((1, 1, 3), np.uint8),
            np.repeat(picture.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2),
        ]
    )
    assert [len(faces.boxes) for faces in others] == [0, 0, 1]
    x0, y0, x1, y1 = whole.boxes[0]
    (cut,) = detect([picture[:, int(x0 + 0.25 * (x1 - x0)) :]])
    assert len(cut.boxes) == 1
    np.testing.assert_allclose(cut.boxes[0, [1, 3]], [y0, y1], atol=0.2 * (y1 - y0))
    (larger,) = detect([np.asarray(Image.fromarray(picture).resize((800, 1200)))])
    ratio = np.array([800 / picture.shape[1], 1200 / picture.shape[0]] * 2)
    np.testing.assert_allclose(larger.boxes[0] / ratio, whole.boxes[0], atol=0.12 * (y1 - y0))


@pytest.mark.slow
def test_forty_faces_of_a_mosaic_are_found(detect, shared_data, request):
    if "onnx" in request.node.callspec.params["detect"]:
        pytest.skip("made for 320 x 240: a face of the mosaic has 20 pixels there")
    picture = photo(shared_data, "obama_and_biden.jpg", 1024)
    (faces,) = detect([picture])
    cells = []
    for x0, y0, x1, y1 in faces.boxes[:2]:
        side = 0.9 * max(x1 - x0, y1 - y0)
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        box = (x - side, y - side, x + side, y + side)
        cells.append(Image.fromarray(picture).crop(box).resize((120, 120)))
    mosaic = Image.new("RGB", (8 * 120, 5 * 120))
    for k in range(40):
        mosaic.paste(cells[k % 2], (k % 8 * 120, k // 8 * 120))
    (found,) = detect([np.asarray(mosaic)])
    assert len(found.boxes) == 40
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2 // 120
    assert len({tuple(cell) for cell in middles.tolist()}) == 40
