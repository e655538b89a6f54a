"""A real run, small, for tests of what is exported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import ctx_eval


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory) -> Path:
    """Two tasks of the bundled model, steered."""
    folder = tmp_path_factory.mktemp("run") / "out"
    done = ctx_eval(
        *("run", "--model", "hf-ctx", "--model_args", "alpha=0.5", "--apply_chat_template"),
        *("--tasks", "nano_nih_recall,nano_squad_contains", "--device", "cpu"),
        *("--metadata", '{"lengths": 2, "depths": 2, "max_length": 300, "questions": 6}'),
        *("--log_samples", "--output_path", folder),
    )
    assert done.code == 0, done.err
    return folder
