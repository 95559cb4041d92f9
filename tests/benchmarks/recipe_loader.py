"""A torch DataLoader and a loop, in one process, as timm's inference.py has it.

    python -m tests.benchmarks.recipe_loader --data photographs/files
        --layout files --weights resnet18.pth --out runs/loader

After huggingface/pytorch-image-models, inference.py with --device cpu --channels-last and as many
--workers as CPUs: PIL decodes and transforms in the workers, the process itself infers in fp32 with
all threads, and what was found is written at the end. Batches of 32 instead of 256. For Parquet and
tars a dataset reads one shard after another, which timm leaves to other packages.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from tests.benchmarks.figures import note_batch
from tests.benchmarks.plain import load_plain, published_transform
from tests.benchmarks.task import Task, run_task

Sample = tuple[str, Tensor]


class Files(Dataset[Sample]):
    """Loose files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = sorted(folder.rglob("*.jpg"))
        self.transform = published_transform()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[index]
        image = Image.open(path).convert("RGB")
        return str(path.relative_to(self.folder)), self.transform(image)


class Shards(IterableDataset[Sample]):
    """Parquet shards or tars, divided among the loader's workers."""

    def __init__(self, folder: Path, layout: str) -> None:
        self.read = _read_parquet if layout == "parquet" else _read_tar
        self.shards = sorted(folder.iterdir())
        self.transform = published_transform()

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        mine = self.shards[worker.id :: worker.num_workers] if worker else self.shards
        for shard in mine:
            for name, data in self.read(shard):
                yield name, self.transform(Image.open(io.BytesIO(data)).convert("RGB"))


def run(task: Task) -> None:
    """Label everything."""
    dataset = Files(task.data) if task.layout == "files" else Shards(task.data, task.layout)
    model, classes = load_plain(task.weights)
    model = model.to(memory_format=torch.channels_last)
    loader = DataLoader(dataset, batch_size=task.batch_size, num_workers=task.cpus)
    names: list[str] = []
    labels: list[str] = []
    with torch.inference_mode():
        for batch_names, images in loader:
            outputs = model(images.contiguous(memory_format=torch.channels_last))
            names += batch_names
            labels += [classes[index] for index in outputs.argmax(dim=1)]
            note_batch(task.out, len(batch_names))
    task.labels.mkdir(exist_ok=True)
    pq.write_table(pa.table({"id": names, "label": labels}), task.labels / "labels.parquet")


def _read_parquet(shard: Path) -> Iterator[tuple[str, bytes]]:
    for batch in pq.ParquetFile(shard).iter_batches(batch_size=32, columns=["path", "bytes"]):
        for row in batch.to_pylist():
            yield row["path"], row["bytes"]


def _read_tar(shard: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(shard, "r|") as tar:
        for member in tar:
            if member.name.endswith(".jpg") and (file := tar.extractfile(member)):
                yield member.name, file.read()


if __name__ == "__main__":
    run_task(__doc__, ("documented",), run)
