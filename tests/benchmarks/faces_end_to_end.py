"""Photographs to embeddings of their faces: Argus beside a plain script, on the same cores.

    python -m tests.benchmarks.faces_end_to_end --photos photos --detector retinaface.safetensors \
        --embedder mobilefacenet.safetensors [--copies 10] [--rounds 3]

The plain script is what one writes: torch in fp32 on all cores, one photograph at a time by Pillow,
one face at a time by OpenCV, the embedder on a crop and its mirror image. It is given what Argus
does around the detector's networks and runs these as they were published, in torch. Both read the
photographs `copies` times, in turns, each round in fresh processes; imports and loading do not
count for the script, everything does for Argus. Both reduce photographs alike (`--decode.mode
exact`), so that embeddings can be compared.
Prints median rates, the ratio, and how near the embeddings are.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import tyro
from PIL import Image, ImageOps

from jobs.runtime.run import Run
from jobs.runtime.storage import Storage

PLAIN = "plain"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    photos: Path
    """folder of photographs"""
    detector: str
    """checkpoint of what finds faces"""
    embedder: str
    """checkpoint of what embeds them"""
    longest_px: int = 1024
    """both reduce larger photographs to it first"""
    copies: int = 10
    """times that each photograph is read"""
    rounds: int = 3
    """times that each contender runs"""
    only: str = ""
    """`plain`: the script itself, in this process; what it prints is JSON"""


def main(config: Config) -> None:
    """Measure in turns and print a row each."""
    if config.only == PLAIN:
        json.dump(run_plain(config), sys.stdout)
        return
    rates: dict[str, list[float]] = {"plain script": [], "Argus": [], "Argus, start left out": []}
    near = ""
    with tempfile.TemporaryDirectory() as folder:
        photos = copied(config, Path(folder) / "photos")
        for number in range(config.rounds):
            plain = json.loads(called("tests.benchmarks.faces_end_to_end", config, only=PLAIN))
            rates["plain script"].append(plain["photos"] / plain["seconds"])
            out = Path(folder) / str(number)
            start = time.perf_counter()
            argus(config, photos, out)
            wall = time.perf_counter() - start
            run = Run.load(str(out), Storage())
            count = run.manifest["counts"]["read"]
            rates["Argus"].append(count / wall)
            rates["Argus, start left out"].append(count / run.manifest["seconds"]["wall"])
            near = nearness(run, plain["faces"])
    row = "{:>24}  {:>9}  {:>6}\n"
    sys.stdout.write(row.format("", "photos/s", "ratio"))
    base = median(rates["plain script"])
    for name, found in rates.items():
        sys.stdout.write(row.format(name, f"{median(found):.2f}", f"{median(found) / base:.2f}"))
    sys.stdout.write(f"\n{near}\n")


def copied(config: Config, folder: Path) -> Path:
    """The photographs by links, `copies` times."""
    for copy in range(config.copies):
        for path in files_of(config.photos):
            link = folder / str(copy) / path.relative_to(config.photos)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
    return folder


def files_of(folder: Path) -> list[Path]:
    """JPEGs and PNGs below a folder."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))


def called(module: str, config: Config, only: str) -> bytes:
    """What the module prints, in a process of its own."""
    asked = replace(config, only=only)
    words = [
        *("--photos", str(asked.photos), "--detector", asked.detector),
        *("--embedder", asked.embedder, "--copies", str(asked.copies), "--only", only),
        *("--longest-px", str(asked.longest_px)),
    ]
    return subprocess.run(
        [sys.executable, "-m", module, *words], check=True, stdout=subprocess.PIPE
    ).stdout


def argus(config: Config, photos: Path, out: Path) -> None:
    """The job, as one calls it."""
    words = [
        *("--data.uri", str(photos), "--op.detector", config.detector),
        *("--op.weights", config.embedder, "--out", str(out)),
        *("--op.longest-px", str(config.longest_px), "--decode.mode", "exact"),
        "--accept-licence",
    ]
    subprocess.run(
        [sys.executable, "-m", "jobs.embed_faces", *words], check=True, stderr=subprocess.DEVNULL
    )


def run_plain(config: Config) -> dict[str, object]:
    """Photographs one at a time; seconds, and each photograph's embeddings."""
    import cv2
    import torch

    from vision_ops.canvas import Canvas
    from vision_ops.checkpoint import load_checkpoint
    from vision_ops.faces import FacePreprocess, mtcnn, retinaface
    from vision_ops.faces.align import similarity
    from vision_ops.faces.detect import DetectorConfig, make_detector
    from vision_ops.faces.passes import Normalised
    from vision_ops.normalize import normalize

    detect = make_detector(DetectorConfig(), config.detector)
    published, _ = load_checkpoint(config.detector, "cpu")
    if isinstance(detect, mtcnn.MtcnnDetector):
        pnet, detect.rnet, detect.onet = published.children()
        detect.pnet = Normalised(pnet, mtcnn.SCALING)
    elif isinstance(detect, retinaface.RetinaFaceDetector):
        detect.network = Normalised(published, retinaface.SCALING)
    network, card = load_checkpoint(config.embedder, "cpu")
    face = card.preprocess
    assert isinstance(face, FacePreprocess)
    faces: dict[str, list[list[float]]] = {}
    paths, start = files_of(config.photos), time.perf_counter()
    for path in paths * config.copies:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        canvas = Canvas(longest_px=config.longest_px)
        height, width = canvas.size_of(image.height, image.width)
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        found, embeddings = detect([pixels])[0], []
        for matrix in similarity(found.landmarks, face.height_px, face.template).numpy():
            crop = cv2.warpAffine(pixels, matrix, (face.width_px, face.height_px))
            with torch.inference_mode():
                added = network(normalize(crop[None], face, "cpu"))
                if face.flip_sum:
                    added = added + network(normalize(crop[None, :, ::-1].copy(), face, "cpu"))
            embeddings.append((added / added.norm())[0].tolist())
        faces[str(path.relative_to(config.photos))] = embeddings
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "photos": len(paths) * config.copies, "faces": faces}


def nearness(run: Run, faces: dict[str, list[list[float]]]) -> str:
    """How near the embeddings of both are, where they found as many faces."""
    cosines, differ = [], 0
    for batch in run.results(("id", "status", "faces")):
        for row in batch.to_pylist():
            wanted = faces[row["id"].partition("/")[2]]
            if row["status"] == "failed" or len(row["faces"]) != len(wanted):
                differ += 1
                continue
            pairs = zip(row["faces"], wanted, strict=True)
            cosines += [float(np.dot(face["embedding"], other)) for face, other in pairs]
    return (
        f"{len(cosines):,} faces, cosine at least {min(cosines, default=1.0):.6f}; "
        f"{differ} photographs with another number of faces"
    )


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m tests.benchmarks.faces_end_to_end", description=__doc__))
