"""What the tests of tuning share."""

from __future__ import annotations

import pytest

from tests.training.tuning import inputs as tuning


@pytest.fixture
def setting(tmp_path):
    base = tuning.base(tmp_path / "base", pad=False)
    data = tuning.write_data(tmp_path / "data.jsonl", tuning.conversations(12))
    return tmp_path, base, data
