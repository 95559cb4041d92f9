"""Daft with a torchvision network: as its documentation has it, as its benchmark has it, and ours.

    .venv/daft/bin/python -m tests.benchmarks.recipe_daft --data photographs/parquet
        --layout parquet --weights resnet18.pth --out runs/daft

documented  docs.daft.ai "Working with Images" (modalities/images): its end-to-end pipeline of
            download, decode_image, resize(224, 224), image_to_tensor, normalize_image, and a
            daft.cls with a batch method that holds the network in fp32. The picture is squashed to
            a square, as on the page: some labels differ for that reason alone.
benchmark   Daft's published benchmark (Eventual-Inc/Daft, benchmarking/ai/image_classification):
            torchvision's transform on each row by `apply`, as in Ray's recipe, and the same class.
ours        bytes to a daft.cls that calls vision_ops' Decode and Classifier, a process per CPU:
            Daft as the engine and everything else as in Argus; --weights is a compiled network.

Not theirs: batches of 32; write_parquet at the end is the benchmark's. Runs in `.venv/daft`, which
`make bench` sets up, because Daft wants an older pyarrow than Argus.
"""

import os
from typing import Any

import daft  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from daft import DataType, col  # pyright: ignore[reportMissingImports]
from daft.functions import (  # pyright: ignore[reportMissingImports]
    decode_image,
    decode_image_file,
)
from torchvision import transforms

from tests.benchmarks.figures import note_batch
from tests.benchmarks.plain import load_plain, published_transform
from tests.benchmarks.task import Task, run_task
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import make_decoder
from vision_ops.operators.classify import Classifier, ClassifierConfig

BATCH_SIZE = 32
IMAGE = DataType.tensor(DataType.float32(), shape=(3, 224, 224))

transform = transforms.Compose([transforms.ToTensor(), published_transform()])


@daft.func(return_dtype=DataType.tensor(DataType.float32()))
def normalize_image(image: np.ndarray) -> np.ndarray:
    """The documentation's normalisation: (H, W, C) of 0..255 to (C, H, W) by ImageNet's mean."""
    mean = np.array([0.485, 0.456, 0.406], dtype=np.float32)
    std = np.array([0.229, 0.224, 0.225], dtype=np.float32)
    return ((image.astype(np.float32) / 255.0 - mean) / std).transpose(2, 0, 1)


@daft.func(return_dtype=DataType.binary())
def read_member(file: Any) -> bytes:
    """The bytes of a tar's member, which read_webdataset leaves where they are."""
    with file.open() as stream:
        return stream.read()


@daft.cls()
class ClassifyImages:
    """Label float pictures with the network in fp32."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model, self.classes = load_plain(task.weights)

    @daft.method.batch(return_dtype=DataType.string(), batch_size=BATCH_SIZE)
    def __call__(self, images: Any) -> list[str]:
        batch = torch.from_numpy(np.array(images.to_pylist()))
        with torch.inference_mode():
            outputs = self.model(batch)
        note_batch(self.task.out, len(batch))
        return [self.classes[index] for index in outputs.argmax(dim=1)]


class ClassifyBytes:
    """Label files' bytes by vision_ops."""

    def __init__(self, task: Task) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"  # a process per CPU
        self.task = task
        chosen: dict[str, Any] = {"weights": task.weights, "precision": task.precision}
        self.operator = Classifier(ClassifierConfig(**chosen))
        self.decode = make_decoder(DecodeConfig(), self.operator.card.preprocess)

    @daft.method.batch(return_dtype=DataType.string())
    def __call__(self, data: Any) -> list[str]:
        rows = data.to_pylist()
        pixels = np.empty((len(rows), *self.decode.shape), np.uint8)
        for row, out in zip(rows, pixels, strict=True):
            if refusal := self.decode(row, out):
                raise ValueError(refusal)
        labels = self.operator({"pixels": pixels})["label"]
        note_batch(self.task.out, len(rows))
        return labels.tolist()


def read(task: Task) -> Any:
    """A data frame of `id` and `data`: a column of bytes, of a tar's members as files."""
    if task.layout == "files":
        paths = daft.from_glob_path(f"{task.data}/**/*.jpg")
        return paths.select(col("path").alias("id"), col("path").download().alias("data"))
    if task.layout == "parquet":
        rows = daft.read_parquet(f"{task.data}/*.parquet")
        return rows.select(col("path").alias("id"), col("bytes").alias("data"))
    # several tars at once read each other into a standstill: all threads wait (Daft 0.7.26, 2 CPUs)
    daft.set_execution_config(scantask_max_parallel=1)
    samples = daft.read_webdataset(f"{task.data}/*.tar")
    return samples.select((col("__key__") + ".jpg").alias("id"), col("jpg").alias("data"))


def run(task: Task) -> None:
    """Label everything."""
    df = read(task)
    if task.variant == "ours":
        data = read_member(col("data")) if task.layout == "tars" else col("data")
        df = df.with_column("data", data).into_batches(BATCH_SIZE)
        wrapped = daft.cls(ClassifyBytes, max_concurrency=task.cpus, use_process=True)
        df = df.with_column("label", wrapped(task)(col("data")))
    else:
        decode = decode_image_file if task.layout == "tars" else decode_image
        df = df.with_column("image", decode(col("data"), mode="RGB"))
        df = df.with_column("normalized", prepared(task.variant))
        df = df.with_column("label", ClassifyImages(task)(col("normalized")))
    df.select("id", "label").write_parquet(str(task.labels))


def prepared(variant: str) -> Any:
    """The decoded picture as the network wants it, by the documentation or by the benchmark."""
    if variant == "documented":
        return normalize_image(col("image").resize(224, 224).image_to_tensor())
    return col("image").apply(lambda image: transform(image).numpy(), return_dtype=IMAGE)


if __name__ == "__main__":
    run_task(__doc__, ("documented", "benchmark", "ours"), run)
