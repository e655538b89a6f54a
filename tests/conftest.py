"""Test-wide settings: offline, no cache outside the temporary folder, real data where it is."""

from __future__ import annotations

import os
import tempfile

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models lose more to waking a second thread than they gain by it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# lm_eval writes --cache_requests into its own package folder otherwise.
_REQUESTS = tempfile.TemporaryDirectory(prefix="lm-eval-requests-")
os.environ.setdefault("LM_HARNESS_CACHE_PATH", _REQUESTS.name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out `realdata` tests where their folder is not named (tests/QUARANTINES.md)."""
    if os.environ.get("CTX_REAL_DATA"):
        return
    away = [item for item in items if item.get_closest_marker("realdata")]
    items[:] = [item for item in items if item not in away]
    config.hook.pytest_deselected(items=away)
