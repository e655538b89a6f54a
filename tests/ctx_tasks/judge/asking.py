"""Asking a judge on loopback about answers of which it rates number n with n + 1."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ctx_tasks.judge.endpoint import Options
from ctx_tasks.judge.run import Judged, judge
from tests.judge_server import Answer, Server, prompt, say

KEY = "sk-loopback-0123456789abcdef"


def ask(server: Server, *paths: Path, agree: Any = lambda cost: None, **settings: Any) -> Judged:
    settings = {"retries": 2, "timeout": 20.0, **settings}
    return judge(paths, Options("judge-model", server.url, **settings), agree)


def number(body: dict[str, Any]) -> int:
    """Which answer a request is about."""
    found = re.search(r"answer (\d+)\.", prompt(body))
    assert found
    return int(found[1])


def by_number(_: int, body: dict[str, Any]) -> Answer:
    """Answer n is rated n + 1."""
    return say(f"It is so-so.\n\nRating: [[{number(body) + 1}]]")
