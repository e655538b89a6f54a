"""Fixtures for tests of attention."""

import pytest

from ctx_models.attention import paths


@pytest.fixture(params=["mask row", "channels"])
def prefill_path(request, monkeypatch):
    """Prefills on a CPU by torch's CPU kernel, and as on any other device."""
    if request.param == "channels":
        monkeypatch.setattr(paths, "_cpu_kernel_adds_row", lambda: False)
    return request.param
