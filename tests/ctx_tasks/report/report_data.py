"""Result folders for tests of the report: a chat template, four tasks, steered arms, any text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.ctx_tasks.result_files import sample, write_run

TEMPLATE = "<|system|>\n</s>\n<|user|>\n{}</s>\n<|assistant|>\n"
# What a model, a data set or a file name may say to a browser.
HOSTILE = (
    "</script><script>window.pwned = 1</script><!-- <script> --> ]]>"
    '<img src=x onerror="window.pwned = 1"><svg onload=window.pwned=1>'
    "<a href=\"javascript:window.pwned=1\">x</a> ' onmouseover='window.pwned=1'"
    " {{ 7 * 7 }} {% raw %} &lt; &#60; \u2028 \u2029 \x00 ${window.pwned=1}"
)
ARMS: dict[str, dict[str, Any]] = {
    "raw": {},
    "chat": {"chat": True},
    "alpha 0.9": {"chat": True, "alpha": 0.9},
    "alpha 0.5": {"chat": True, "alpha": 0.5},
}
BEGUN = ("raw", "chat", "alpha 0.5")
TASKS = ("nih_recall", "squad_contains", "quac_contains", "drop_contains")


def score(task: str, arm: str, number: int) -> float:
    """The needle is lost under the template, and won back by alpha 0.5 on even documents."""
    if arm == "raw" or task == "drop_contains":
        return float(number % 5 != 0)
    return float(arm == "alpha 0.5" and number % 2 == 0)


def line(
    task: str, arm: str, number: int, *, size: int = 100, text: str = "", **changes: Any
) -> dict[str, Any]:
    """A sample line with a prompt in the arm's template; `text` stands in document and answer."""
    context = f"{number} {text} " + f"Passage {number} of words. " * (size // 20)
    question = f"What is in passage {number}? {text}"
    doc: dict[str, Any] = {"context": context, "question": question, "needle": "of words"}
    if task == "nih_recall":
        doc |= {"length": 200 + 100 * (number % 4), "depth": 25 * (number // 4)}
    found = sample(score(task, arm, number), number, **doc)
    user = f"{context}\n\nQuestion: {question}"
    prompt = user if arm == "raw" else TEMPLATE.format(user)
    found["arguments"]["gen_args_0"]["arg_0"] = prompt
    found |= {"recall": found["score"], "target": f"words {text}"}
    found["filtered_resps"] = [f"{arm} says {number} {text}"]
    return {**found, **changes}


def write(
    folder: Path,
    *,
    checkpoints: Sequence[str] = ("model-a", "model-b"),
    tasks: Sequence[str] = TASKS,
    count: int = 12,
    text: str = "",
    size: int = 100,
    begun: bool = False,
) -> Path:
    """All arms of each checkpoint below `folder`; `begun`: also those in `BEGUN`, with a prefix."""
    arms = [(name, settings, False) for name, settings in ARMS.items()]
    arms += [(name, ARMS[name], True) for name in BEGUN if begun]
    for place, checkpoint in enumerate(checkpoints):
        for arm, settings, prefix in arms:
            lines = {
                (f"{task}_prefix" if prefix else task): [
                    line(task, arm, number, text=f"{text}{place or ''}", size=size)
                    for number in range(count)
                ]
                for task in (TASKS if prefix else tasks)
            }
            write_run(
                folder / f"{place}-{arm}{'-prefix' if prefix else ''}",
                lines,
                model=checkpoint,
                chat=bool(settings.get("chat")),
                config={"ctx": {"alpha": settings.get("alpha", 1.0)}},
                task_config={"gen_prefix": "The answer is"} if prefix else {},
            )
    return folder
