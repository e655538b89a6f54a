"""The example workflow runs as it stands: its shell steps, with the bundled model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "context-gate.yml"


@pytest.mark.slow
def test_the_gate_of_the_example_passes_an_unchanged_model(tmp_path):
    """Without the installations, which this environment already has."""
    content = yaml.safe_load(WORKFLOW.read_text())
    environment = {**os.environ, **content["env"]}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["METADATA"] = '{"lengths": 2, "depths": 2, "questions": 10, "max_length": 400}'
    steps = {step.get("name"): step.get("run", "") for step in content["jobs"]["gate"]["steps"]}
    for name in ("Baseline of the target branch", "This pull request", "Gate"):
        lines = [
            line
            for line in steps[name].splitlines()
            if "pip install" not in line and "venv " not in line
        ]
        script = "set -e\n" + "\n".join(lines)
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment)
        assert done.returncode == 0, name
    assert "Context gate: pass" in (tmp_path / "gate.md").read_text()
    assert (tmp_path / "gate.xml").exists()
