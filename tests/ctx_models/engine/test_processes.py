"""`vllm-ctx` where its engine is not one process: the steering reaches every one of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ctx_models.lm import CtxLM
from tests.commands import ROOT, words
from tests.ctx_models.engine import asking, processes
from tests.ctx_models.engine.asking import HF, generations, put

pytestmark = pytest.mark.vllm


def run(kind: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = words("tests.ctx_models.engine.processes", kind, folder / "said.json")
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def said(kind: str, folder: Path) -> Any:
    done = run(kind, folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "said.json").read_text())


@pytest.mark.parametrize("kind", ["tensors", "replicas"])
def test_two_processes_say_what_hf_ctx_says(kind, tmp_path):
    hf = CtxLM("nano-chat", **HF)
    texts = asking.questions()[:: 50 // processes.COUNT]
    expected = [generations(put(hf, **arm), texts) for arm in processes.ARMS]
    assert said(kind, tmp_path) == expected
    assert expected[0] != expected[1]


def test_alpha_1_is_vllm_with_nothing_patched(tmp_path):
    found = said("plain", tmp_path)
    assert found["ours"] == found["theirs"]
    assert any(found["ours"])
    assert not found["patched"]


def test_an_engine_without_the_plugin_is_refused(tmp_path):
    done = run("unplugged", tmp_path)
    assert done.returncode != 0
    assert "Steering does not reach the keys of engine 0" in done.stderr
