"""An output that cannot be written is told in one sentence, before anything else is looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ctx_models.cli
import training.cli
from ctx_tasks.errors import UserError

CONVERSATION = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]
# The model is not there either: that is found out only behind the first look at the output.
COMMANDS = {
    "attention": (ctx_models.cli, "attention --model_args pretrained=FOLDER/none -o FILE/out"),
    "sweep": (ctx_models.cli, "sweep FOLDER/sweep.yaml -o FILE/out"),
    "prepare": (training.cli, "prepare FOLDER/chats.jsonl -o FILE/out.jsonl"),
    "prepare's report": (
        training.cli,
        "prepare FOLDER/chats.jsonl -o FOLDER/out.jsonl --report FILE/out.jsonl",
    ),
    "score": (training.cli, "score FOLDER/chats.jsonl -o FILE/out.jsonl --model FOLDER/none"),
    "agreement": (training.cli, "agreement FOLDER/chats.jsonl -o FILE/out.csv --model FOLDER/none"),
    "select": (training.cli, "select FOLDER/chats.jsonl -o FILE/out.jsonl --no-figure"),
    "select's figure": (
        training.cli,
        "select FOLDER/chats.jsonl -o FOLDER/out.jsonl --figure FILE/out.png",
    ),
}
SWEEP = """
tasks: [nano_by_heart]
checkpoints:
  - {name: bundled, model: hf-ctx, model_args: {pretrained: nano-chat}}
arms:
  - {chat: true}
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unwritable_output_is_told_first(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    row = {"messages": CONVERSATION, "context_dependency": [0.5]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(row))
    before = sorted(tmp_path.iterdir())
    command: Any
    command, words = COMMANDS[name]
    words = words.replace("FOLDER", str(tmp_path)).replace("FILE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="file/out.* cannot be written") as caught:
        command.app(words.split(), standalone_mode=False)
    assert "a file lies where a folder should be" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
