"""What tests of several jobs stand on."""

from pathlib import Path

import pytest

from jobs import train_classifier
from jobs.make_samples import Config, main
from tests.jobs.coloured import long_epochs, small, write_photos


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that make_samples makes, the broken files too: made once, written to by no test."""
    out = tmp_path_factory.mktemp("samples")
    main(Config(out=str(out), with_broken=True))
    return out


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pictures of three colours, a folder each; written to by no test."""
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training on them; written to by no test."""
    out = tmp_path_factory.mktemp("trained")
    train_classifier.main(small(photos, out))
    return out


@pytest.fixture(scope="session")
def trained_long(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of two long epochs on them; written to by no test."""
    out = tmp_path_factory.mktemp("long")
    train_classifier.main(long_epochs(photos, out))
    return out
