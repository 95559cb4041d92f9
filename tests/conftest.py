"""What every test may stand on: an S3 server on a port, and real data where there is any."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook
from moto.server import ThreadedMotoServer

from jobs.runtime.ray_start import start_ray
from jobs.runtime.resources import Resources
from jobs.runtime.storage import Storage, StorageConfig
from tests import shapes

# no test asserts a time: neither of one example nor of making them
settings.register_profile("argus", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("argus")

TENSOR_CODE = [
    f"vision_ops.{name}"
    for name in (
        "augment",
        "augment_boxes",
        "class_maps",
        "faces.align",
        "faces.embed",
        "faces.quality",
        "faces.choose",
        "faces.mtcnn",
        "faces.onnx_detector",
        "faces.passes",
        "faces.retinaface",
        "faces.yunet",
        "faces.clusters",
        "faces.head_scorer",
        "faces.heads",
        "faces.people",
        "faces.search",
        "learners",
        "losses",
        "models",
        "normalize",
        "operators",
        "precision",
        "style",
    )
]
# shapes and types are checked in what is imported from here on
install_import_hook(TENSOR_CODE, f"{shapes.__name__}.checked")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real pictures and published weights; tests that want it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the data folder beside the checkout")
    return SHARED_DATA


@pytest.fixture(autouse=True, scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing that a test fetches stays in a person's cache."""
    os.environ["ARGUS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """As the workers of Ray have it: bits depend on it, and two for small tensors cost more time.

    A test that is about threads sets its own.
    """
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 server on a port of this machine, and credentials for it in the environment."""
    os.environ.update(
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing-secret",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
    )
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str) -> StorageConfig:
    """Settings for the S3 server."""
    return StorageConfig(endpoint=s3_endpoint)


@pytest.fixture
def bucket(s3: StorageConfig, request: pytest.FixtureRequest) -> str:
    """URI of an empty bucket."""
    name = f"b{abs(hash(request.node.nodeid)):x}"[:40]
    storage = Storage(s3)
    filesystem = storage.fsspec(f"s3://{name}")
    if filesystem.exists(name):
        filesystem.rm(name, recursive=True)
    filesystem.mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def local_ray(s3_endpoint: str) -> Iterator[None]:
    """One local Ray of two CPUs for all tests; its workers have the credentials for S3."""
    start_ray(Resources(num_cpus=2))
    yield
    ray.shutdown()
