"""A key to send and unrated answers, for tests of the judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ctx_tasks import mt_bench_data as data
from tests.ctx_tasks.judge.asking import KEY


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def answers(tmp_path) -> Path:
    """The results file of a run whose 8 answers are not rated yet."""
    return data.write_answers(tmp_path / "out", data=data.write_all(tmp_path / "data"))
