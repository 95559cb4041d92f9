"""What every test may stand on: the real data beside the checkout, where there is any."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real pictures and published weights; tests that want it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the data folder beside the checkout")
    return SHARED_DATA
