"""Why `hrm_text` is judged with smaller weights than the other families: rounding, nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.ctx_models import families


@pytest.fixture
def float64_throughout(monkeypatch) -> Iterator[None]:
    """Norms, rotary angles, biases and the logits that `generate` keeps are float32 elsewhere."""
    usual = torch.get_default_dtype()
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(usual)


@pytest.mark.slow
def test_float64_has_the_judge_s_logits_where_float32_has_not(float64_throughout, monkeypatch):
    monkeypatch.delitem(families._ALSO, "hrm_text")
    error, effect, _ = families.measured(families.build("hrm_text"))
    assert effect > 5
    assert error < 1e-9
