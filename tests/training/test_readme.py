"""The README's section "Tune a model", typed as it stands by someone with a jsonl of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from ctx_tasks.rows import read_rows
from tests.training.tuning import inputs as tuning

ROOT = Path(__file__).parents[2]


def commands() -> str:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Tune a model")[1]
    found = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.slow
def test_the_commands_for_tuning_run_as_they_stand(tmp_path: Path) -> None:
    tuning.write_data(tmp_path / "chats.jsonl", tuning.conversations(24, indicator=None))
    script = commands().replace("ctx-train ", "python -m training.cli ")
    script = script.replace("ctx-eval ", "python -m ctx_models.cli ")
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "24 conversations read" in done.stdout
    assert "nano_context_awareness" in done.stdout
    marked = list(read_rows(tmp_path / "data" / "marked.jsonl"))
    assert sum(json.dumps(row).count(" [IND]") for row in marked) > 0
    for written in ("layers.png", "data/marked.jsonl.lengths.png", "runs/ind/model.safetensors"):
        assert (tmp_path / written).is_file()
