"""What tests of several jobs stand on."""

from pathlib import Path

import pytest

from jobs.make_samples import Config, main


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that make_samples makes, the broken files too: made once, written to by no test."""
    out = tmp_path_factory.mktemp("samples")
    main(Config(out=str(out), with_broken=True))
    return out
