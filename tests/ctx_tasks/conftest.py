"""Fixtures for tests of tasks."""

from __future__ import annotations

import gc
from weakref import WeakKeyDictionary

import pytest

from ctx_tasks import loaded


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model that another test loaded is found, though it may still be waiting to be freed."""
    gc.collect()
    monkeypatch.setattr(loaded, "_MODELS", WeakKeyDictionary())
