"""Photographs to pictures by a trained network: Argus beside a plain loop, on the same cores.

    python -m tests.benchmarks.stylize_end_to_end [--weights style.safetensors] [--count 60]

The plain loop is what one writes: torch in fp32 on all cores, one photograph at a time, read,
reduced and written by Pillow. Both read the same made photographs and write JPEGs of one quality,
in turns, each round in fresh processes; imports and loading do not count for the loop, everything
does for Argus. Without weights the network is an untrained one of the usual width: the work is the
same. Prints median rates, the ratio, and how near the pictures are.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import tyro
from PIL import Image, ImageOps

from jobs.runtime.run import Run
from jobs.runtime.storage import Storage
from tests.benchmarks.photographs import write_photographs

QUALITY = 92


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    weights: str = ""
    """checkpoint of train_style; empty: an untrained network"""
    style: str = ""
    """one that it learnt; empty: its first"""
    longest_px: int = 512
    """longer side of the pictures"""
    count: int = 60
    """photographs"""
    rounds: int = 3
    """times that each contender runs"""
    engine: str = "auto"
    """of Argus: inline, ray or auto"""
    plain: str = ""
    """folder of photographs: run the loop alone, in this process; what it prints is JSON"""


def main(config: Config) -> None:
    """Measure in turns and print a row each."""
    if config.plain:
        json.dump({"seconds": run_plain(config)}, sys.stdout)
        return
    rates: dict[str, list[float]] = {"plain loop": [], "Argus": [], "Argus, start left out": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = config.weights or untrained(folder / "network.safetensors")
        photos = write_photographs(folder, "files", config.count)
        words = ["--weights", weights, "--longest-px", str(config.longest_px)]
        words += ["--style", config.style or style_of(weights)]
        for number in range(config.rounds):
            rates["plain loop"].append(config.count / plain_seconds(photos, words))
            wall, run = argus(config, photos, words, folder / str(number))
            rates["Argus"].append(config.count / wall)
            rates["Argus, start left out"].append(config.count / run.manifest["seconds"]["wall"])
        near = nearness(photos, folder / "0" / "images")
    row = "{:>24}  {:>11}  {:>6}\n"
    sys.stdout.write(row.format("", "pictures/s", "ratio"))
    base = median(rates["plain loop"])
    for name, found in rates.items():
        sys.stdout.write(row.format(name, f"{median(found):.2f}", f"{median(found) / base:.2f}"))
    sys.stdout.write(f"\n{near}\n")


def untrained(path: Path) -> str:
    """A network of train_style's width with weights of seed 0."""
    import torch

    from vision_ops.canvas import Canvas
    from vision_ops.card import Card
    from vision_ops.checkpoint import save_checkpoint
    from vision_ops.learners.style import StyleModelConfig
    from vision_ops.models import build

    torch.manual_seed(0)
    network = StyleModelConfig().network
    card = Card(
        network=network,
        classes=("none",),
        preprocess=Canvas(),
        licence="none",
        source="random",
        embedding_size=0,
    )
    save_checkpoint(path, build(network, 1), card)
    return str(path)


def style_of(weights: str) -> str:
    """The first of a checkpoint."""
    from vision_ops.card import read_card

    return read_card(weights).classes[0]


def plain_seconds(photos: Path, words: list[str]) -> float:
    """Of the loop, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.stylize_end_to_end", *words]
    told = subprocess.run(
        [*command, "--plain", str(photos)], check=True, stdout=subprocess.PIPE
    ).stdout
    return json.loads(told)["seconds"]


def argus(config: Config, photos: Path, words: list[str], out: Path) -> tuple[float, Run]:
    """The job, as one calls it: its seconds and its run."""
    asked = [f"--op.{word[2:]}" if word.startswith("--") else word for word in words]
    asked = ["--op.styles" if word == "--op.style" else word for word in asked]
    start = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-m", "jobs.stylize", *asked, "--data.uri", str(photos)),
            *("--quality", str(QUALITY), "--out", str(out), "--resources.engine", config.engine),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start, Run.load(str(out), Storage())


def run_plain(config: Config) -> float:
    """Seconds of the loop; its pictures lie beside the photographs, in plain/."""
    import torch

    from vision_ops.checkpoint import load_checkpoint

    network, card = load_checkpoint(config.weights, "cpu")
    blend = torch.tensor([[float(name == config.style) for name in card.classes]])
    photos = Path(config.plain)
    paths, start = sorted(photos.rglob("*.jpg")), time.perf_counter()
    for path in paths:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        scale = min(1.0, config.longest_px / max(image.size))
        image = image.resize([max(1, round(scale * side)) for side in image.size])
        with torch.inference_mode():
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
            made = (network(pixels, blend)[0] * 255).round().to(torch.uint8).permute(1, 2, 0)
        target = photos.parent / "plain" / path.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made.numpy()).save(target, "JPEG", quality=QUALITY, subsampling=0)
    return time.perf_counter() - start


def nearness(photos: Path, made: Path) -> str:
    """How far the pictures of both are apart."""
    apart = [
        np.abs(
            np.asarray(Image.open(made / path.relative_to(photos)), int)
            - np.asarray(Image.open(photos.parent / "plain" / path.relative_to(photos)), int)
        ).mean()
        for path in sorted(photos.rglob("*.jpg"))
    ]
    return f"pictures differ by {np.mean(apart):.2f} of 255, {max(apart):.2f} at the most"


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
