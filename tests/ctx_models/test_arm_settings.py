"""What `read_arm` says of settings that do not go together."""

from __future__ import annotations

import json
import logging

import pytest

from ctx_models.arm import read_arm
from ctx_tasks.arm import Arm


@pytest.mark.parametrize(("schedule", "warned"), [("compound", True), ("constant", False)])
def test_compound_with_heads_is_no_paper_mode_and_says_so(tmp_path, caplog, schedule, warned):
    heads = tmp_path / "heads.json"
    heads.write_text(json.dumps({"0": [1]}))
    with caplog.at_level(logging.WARNING):
        read_arm(Arm(alpha=0.9, schedule=schedule, heads=str(heads)))
    assert ("paper mode with heads is constant" in caplog.text) == warned
