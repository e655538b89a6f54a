"""The gate on GitHub: the steps of the example workflow and of its action, run as they stand.

What GitHub would do stands here: inputs become variables, and its API is a server on loopback.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import ctx_eval
from tests.ctx_tasks.gate.test_gate import write
from tests.ctx_tasks.result_files import hits

GITHUB = Path(__file__).parents[1] / ".github"
WORKFLOW = GITHUB / "workflows" / "context-gate.yml"
ACTION = GITHUB / "actions" / "context-gate"


def content(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def bash(script: str, folder: Path, environment: dict[str, str]) -> int:
    """Run a step as GitHub runs `shell: bash`; its exit code."""
    call = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(call, cwd=folder, env=environment).returncode


def environment(folder: Path, **more: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": os.pathsep.join([str(GITHUB.parent), os.environ.get("PYTHONPATH", "")]),
        "GITHUB_ACTION_PATH": str(ACTION),
        "GITHUB_OUTPUT": str(folder / "output"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary"),
        **more,
    }


def action(folder: Path, **inputs: str) -> int:
    """Run the action's gate, comment and verdict; the exit code of the last."""
    defined = content(ACTION / "action.yml")
    steps = {step["name"]: step for step in defined["runs"]["steps"]}
    given = {name: one.get("default", "") for name, one in defined["inputs"].items()} | inputs
    for name in ("Gate", "Verdict"):
        values = {
            key: given.get(value.removeprefix("${{ inputs.").removesuffix(" }}"), "")
            for key, value in steps[name]["env"].items()
        }
        if name == "Verdict":
            values["VERDICT"] = (folder / "output").read_text().strip().rpartition("=")[2]
        code = bash(steps[name]["run"], folder, environment(folder, **values))
    return code


@pytest.fixture
def baseline(tmp_path) -> str:
    file = tmp_path / "baseline.json"
    assert ctx_eval("gate", "--save", file, write(tmp_path / "main", hits(300))).code == 0
    return str(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "inconclusive", "code", "said"),
    [
        (300, "fail", 0, "pass"),
        (200, "pass", 1, "regression"),
        (296, "fail", 1, "inconclusive"),
        (296, "pass", 0, "inconclusive"),
    ],
)
def test_the_action_passes_or_fails_as_it_is_told(
    tmp_path, baseline, count, inconclusive, code, said
):
    results = str(write(tmp_path / "$(touch owned) new", hits(count)))
    found = action(
        tmp_path, baseline=baseline, results=results, margin="0.01", inconclusive=inconclusive
    )
    assert found == code
    assert f"### Context gate: {said}" in (tmp_path / "summary").read_text()
    assert (tmp_path / "context-gate.xml").exists()
    assert json.loads((tmp_path / "context-gate.json").read_text())["level"] == 0.05
    assert not (tmp_path / "owned").exists()


@pytest.mark.slow
def test_what_cannot_be_judged_fails_with_its_sentence(tmp_path, baseline):
    assert action(tmp_path, baseline=baseline, results=str(tmp_path / "nothing")) == 1
    assert "nothing does not exist" in (tmp_path / "summary").read_text()


class GitHub(BaseHTTPRequestHandler):
    """Comments of a pull request, as GitHub's API keeps them; two pages of others' before ours."""

    comments: list[dict[str, Any]]

    def do_GET(self) -> None:
        page = int(self.path.rpartition("page=")[2])
        self._reply(self.comments[100 * (page - 1) : 100 * page])

    def do_POST(self) -> None:
        self.comments.append({"id": 1000 + len(self.comments), **self._sent()})
        self._reply({})

    def do_PATCH(self) -> None:
        number = int(self.path.rpartition("/")[2])
        next(one for one in self.comments if one["id"] == number).update(self._sent())
        self._reply({})

    def _sent(self) -> dict[str, Any]:
        assert self.headers["Authorization"] == "Bearer secret"
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _reply(self, found: Any) -> None:
        text = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    GitHub.comments = [{"id": number, "body": "a comment"} for number in range(150)]
    with HTTPServer(("127.0.0.1", 0), GitHub) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield one
        one.shutdown()


def comment(folder: Path, text: str, port: int) -> int:
    (folder / "context-gate.md").write_text(text)
    steps = {step["name"]: step for step in content(ACTION / "action.yml")["runs"]["steps"]}
    api = {"GITHUB_API_URL": f"http://127.0.0.1:{port}", "GITHUB_REPOSITORY": "org/repository"}
    return bash(
        steps["Comment"]["run"], folder, environment(folder, **api, NUMBER="7", TOKEN="secret")
    )


def test_the_second_verdict_changes_the_comment_of_the_first(tmp_path, server):
    for text in ("### Context gate: regression", "### Context gate: pass"):
        assert comment(tmp_path, text, server.server_port) == 0
    assert len(GitHub.comments) == 151
    assert GitHub.comments[-1]["body"].endswith("### Context gate: pass")


def test_a_comment_that_cannot_be_written_fails_nothing(tmp_path):
    assert comment(tmp_path, "### Context gate: pass", 9) == 0


@pytest.mark.slow
def test_the_gate_of_the_example_passes_an_unchanged_model(tmp_path):
    """Without the installations, which this environment already has."""
    job = content(WORKFLOW)
    given = job["env"] | {
        "METADATA": '{"lengths": 2, "depths": 2, "questions": 10, "max_length": 400}'
    }
    steps = {step.get("name"): step for step in job["jobs"]["gate"]["steps"]}
    for name in ("Baseline of the target branch", "This pull request", "Baseline"):
        script = "\n".join(
            line
            for line in steps[name]["run"].splitlines()
            if "pip install" not in line and "venv " not in line
        )
        assert bash(script, tmp_path, environment(tmp_path, **given)) == 0, name
    assert Path(steps["Gate"]["uses"]).relative_to("after") == ACTION.relative_to(GITHUB.parent)
    assert action(tmp_path, **steps["Gate"]["with"]) == 0
    assert "Context gate: pass" in (tmp_path / "summary").read_text()
