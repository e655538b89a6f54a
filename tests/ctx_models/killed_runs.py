"""Runs of `ctx-eval run` that are killed, and what they and others wrote."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.commands import words


def kill(command: Sequence[object], output: Path, batches: int) -> None:
    """Run `ctx-eval` with these arguments until it has kept so many batches in `output`."""
    deadline = time.monotonic() + 900
    process = subprocess.Popen(
        words("ctx_models.cli", *command), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    while lines(output) <= batches:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def lines(output: Path) -> int:
    """How many lines the journal has, its header among them."""
    return sum(p.read_bytes().count(b"\n") for p in output.glob(".answers/*.jsonl"))


def written(output: Path) -> dict[str, Any]:
    """Results and samples, without what tells when and where they were made."""
    found = {p.name.rpartition("_2")[0]: p.read_bytes() for p in output.rglob("samples_*.jsonl")}
    [results] = output.rglob("results_*.json")
    # The harness writes where in memory a function lay.
    content = json.loads(re.sub(r" at 0x\w+", "", results.read_text()))
    kept = ("results", "groups", "configs", "config", "n-samples", "versions")
    return {**found, **{key: content.get(key) for key in kept}}
