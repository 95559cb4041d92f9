"""Ray Data's documented batch inference with a torchvision network.

    python -m tests.benchmarks.recipe_ray --data photographs/parquet
        --layout parquet --weights resnet18.pth --out runs/ray

After docs.ray.io "Image Classification Batch Inference with PyTorch"
(data/examples/pytorch_resnet_batch_prediction) and "Working with Images", section "Performing
inference on images" (data/working-with-images). Theirs: read_images(mode="RGB"), a `map` of
ToTensor and weights.transforms() on each row, a class that loads the network in fp32 for
`map_batches` with ActorPoolStrategy, write_parquet, and `ray.init` as it comes. For Parquet, bytes
are decoded row by row with PIL as in "Working with Images"; for tars read_webdataset decodes.

Not theirs: the row does not carry the original picture to the end, which the page does to show it
(Ray's nightly benchmark, release/nightly_tests/multimodal_inference_benchmarks, drops it too);
batches of 32 instead of a GPU's 720; one CPU is left for reading, else Ray Data waits for ever.
"""

import io
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image
from torchvision import transforms

from tests.benchmarks.figures import note_batch
from tests.benchmarks.plain import load_plain, published_transform
from tests.benchmarks.task import Task, run_task

Row = dict[str, Any]

transform = transforms.Compose([transforms.ToTensor(), published_transform()])


def decode_bytes(row: Row) -> Row:
    """A row of a Parquet shard with its picture decoded."""
    image = Image.open(io.BytesIO(row["bytes"])).convert("RGB")
    return {"path": row["path"], "image": np.asarray(image)}


def name_sample(row: Row) -> Row:
    """A sample of a tar under the names that the other layouts have."""
    return {"path": f"{row['__key__']}.jpg", "image": row["jpg"]}


def transform_image(row: Row) -> Row:
    """The picture as the network wants it: 602 kB of float32."""
    return {"id": row["path"], "norm_image": transform(row["image"]).numpy()}


class ImageClassifier:
    """Label a batch, in an actor."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model, self.classes = load_plain(task.weights)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        inputs = torch.from_numpy(batch["norm_image"])
        with torch.inference_mode():
            outputs = self.model(inputs)
        labels = [self.classes[index] for index in outputs.argmax(dim=1)]
        note_batch(self.task.out, len(labels))
        return {"id": batch["id"], "label": labels}


def read(task: Task) -> "ray.data.Dataset":
    """Rows of `path` and `image`."""
    if task.layout == "files":
        return ray.data.read_images(str(task.data), include_paths=True, mode="RGB")
    if task.layout == "parquet":
        return ray.data.read_parquet(str(task.data), columns=["bytes", "path"]).map(decode_bytes)
    return ray.data.read_webdataset(str(task.data)).map(name_sample)


def run(task: Task) -> None:
    """Label everything."""
    predictions = (
        read(task)
        .map(transform_image)
        .map_batches(
            ImageClassifier,
            fn_constructor_args=(task,),
            compute=ray.data.ActorPoolStrategy(size=max(1, task.cpus - 1)),
            batch_size=task.batch_size,
        )
    )
    predictions.write_parquet(str(task.labels))


if __name__ == "__main__":
    run_task(__doc__, ("documented",), run)
