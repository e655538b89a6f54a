"""Every mistake a user can make on the way to a score, and the sentence that answers it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from ctx_models.registry import register_model
from ctx_tasks.catalogue import task_folder
from ctx_tasks.errors import UserError
from tests import tiny

SQUAD_ROW = {
    "id": "1",
    "title": "",
    "context": "Ada keeps it.",
    "question": "Who?",
    "answers": {"text": ["Ada"], "answer_start": [0]},
}


@dataclass(frozen=True)
class Mistake:
    """What is wrong (model arguments, --metadata, the task) and a pattern of the answer."""

    message: str
    model_args: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    task: str = "squad_contains"
    template: str | None = tiny.CHAT_TEMPLATE


NIH = {"max_length": 300, "lengths": 2, "depths": 2}
MISTAKES = {
    "alpha above 1": Mistake(
        r"alpha=1\.5 is not allowed: choose a number above 0 and at most 1", {"alpha": 1.5}
    ),
    "alpha 0": Mistake(r"alpha=0\.0 is not allowed", {"alpha": 0}),
    "alpha no number": Mistake("alpha='strong' is not a number", {"alpha": "strong"}),
    "schedule unknown": Mistake("choose one of constant, compound", {"schedule": "double"}),
    "layers unreadable": Mistake("layers='a-b' cannot be read", {"layers": "a-b"}),
    "layer out of range": Mistake(
        r"layers=\[7\] is out of range: this model has 3, numbered 0 to 2",
        {"alpha": 0.9, "layers": 7},
    ),
    "heads file missing": Mistake(r"heads=no\.json could not be read", {"heads": "no.json"}),
    "layers and heads": Mistake(
        "layers or heads, not both", {"layers": 1, "heads": "FOLDER/heads.json"}
    ),
    "indicator not a token": Mistake(
        r"indicator='\[IND\]' is not one added token .*ctx-train sft", {"indicator": "[IND]"}
    ),
    "indicator_turns unknown": Mistake("choose last or all", {"indicator_turns": "first"}),
    "argument misspelt": Mistake(r"alpa=0\.9 .* did you mean alpha", {"alpa": 0.9}),
    "bundled model misspelt": Mistake(
        r"did you mean nano-chat-ind\?", {"pretrained": "nano-chat-idn"}
    ),
    "no checkpoint": Mistake("could not be loaded", {"pretrained": "FOLDER/nothing"}),
    "no chat template": Mistake("has no chat template", template=None),
    "no chat template, steered": Mistake("has no chat template", {"alpha": 0.5}, template=None),
    "data file missing": Mistake(
        r"nowhere\.jsonl", metadata={"squad_files": "FOLDER/nowhere.jsonl"}
    ),
    "data file empty": Mistake("empty|no rows|holds no", metadata={"squad_files": "FOLDER/empty"}),
    "column missing": Mistake("question", metadata={"squad_files": "FOLDER/columns.jsonl"}),
    "line broken": Mistake("line 2", metadata={"squad_files": "FOLDER/broken.jsonl"}),
    "context longer than the window": Mistake(
        "5000.*2048|2048.*5000", metadata={"max_length": 5000}, task="nih_recall"
    ),
    "shorter than nothing": Mistake(
        "min_length", metadata={**NIH, "min_length": 400}, task="nih_recall"
    ),
    "haystack missing": Mistake(
        "haystack", metadata={**NIH, "haystack": "FOLDER/none.txt"}, task="nih_recall"
    ),
    "needles missing": Mistake(
        "needles", metadata={**NIH, "needles": "FOLDER/none.yaml"}, task="nih_recall"
    ),
}


@pytest.fixture(scope="module")
def manager_of() -> Any:
    """A task index of our folder alone; the harness's own takes ten seconds each."""
    register_model()
    return lambda metadata: TaskManager(
        include_path=str(task_folder()), include_defaults=False, metadata=metadata
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    row = json.dumps(SQUAD_ROW)
    (tmp_path / "heads.json").write_text('{"0": [1]}')
    (tmp_path / "good.jsonl").write_text(row)
    (tmp_path / "empty").write_text("")
    (tmp_path / "columns.jsonl").write_text(json.dumps({**SQUAD_ROW, "question": None}))
    (tmp_path / "broken.jsonl").write_text(row + "\n{")
    tiny.model().save_pretrained(tmp_path / "model")
    return tmp_path


def evaluate(folder: Path, mistake: Mistake, manager_of: Any) -> None:
    def here(values: dict) -> dict:
        return {
            key: value.replace("FOLDER", str(folder)) if isinstance(value, str) else value
            for key, value in values.items()
        }

    tiny.tokenizer(mistake.template).save_pretrained(folder / "model")
    data = {"squad_files": "FOLDER/good.jsonl"} if mistake.task == "squad_contains" else {}
    model_args = {"pretrained": "FOLDER/model", **mistake.model_args}
    metadata = {**here(model_args), **here({**data, **mistake.metadata})}
    simple_evaluate(
        model="hf-ctx",
        model_args=here(model_args),
        tasks=[mistake.task],
        task_manager=manager_of(metadata),
        device="cpu",
        apply_chat_template=True,
        bootstrap_iters=0,
        limit=2,
    )


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_sentence(name, folder, manager_of):
    mistake = MISTAKES[name]
    with pytest.raises(UserError, match=mistake.message) as caught:
        evaluate(folder, mistake, manager_of)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", ["squad_contains", "nih_recall"])
def test_without_a_mistake_it_runs(task, folder, manager_of):
    metadata = NIH if task == "nih_recall" else {}
    evaluate(folder, Mistake("", {"alpha": 0.9}, metadata, task), manager_of)
