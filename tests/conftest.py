"""Test-wide settings: offline, no cache outside the temporary folder, only what can run here."""

from __future__ import annotations

import importlib.util
import os
import tempfile

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models lose more to waking a second thread than they gain by it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each test says itself how wide lines are, whether pipes are coloured, and causes of errors shown.
for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE", "CTX_DEBUG"):
    os.environ.pop(_name, None)
# lm_eval writes --cache_requests into its own package folder otherwise.
_REQUESTS = tempfile.TemporaryDirectory(prefix="lm-eval-requests-")
os.environ.setdefault("LM_HARNESS_CACHE_PATH", _REQUESTS.name)

# How long an example takes says how busy the machine is, nothing about what is tested.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine lacks the data or the package for (tests/QUARANTINES.md)."""
    here = {
        "realdata": bool(os.environ.get("CTX_REAL_DATA")),
        "deepspeed": importlib.util.find_spec("deepspeed") is not None,
        "vllm": importlib.util.find_spec("vllm") is not None,
    }
    missing = [marker for marker, found in here.items() if not found]
    away = [item for item in items if any(map(item.get_closest_marker, missing))]
    items[:] = [item for item in items if item not in away]
    config.hook.pytest_deselected(items=away)
