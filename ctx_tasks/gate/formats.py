"""A gate's decision for a terminal, as Markdown, JUnit XML and JSON.

Names come from files: they are escaped in each format, and what XML forbids is left out.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from ctx_tasks.gate.decision import Decision, TaskVerdict, Verdict
from ctx_tasks.gate.series import level
from ctx_tasks.leaderboard.formats import escape, finite
from ctx_tasks.tables import Head, Labelled, Table, Value, interval, number

FORMAT = "lm-eval-ctx gate 1"

_ILLEGAL_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLES = {
    Verdict.PASS: "green",
    Verdict.REGRESSION: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.ERROR: "bold red",
}
Named = Sequence[tuple[str, Decision]]


def table(decision: Decision) -> Table:
    """A line a task: scores, loss with its one-sided 95 % bounds, margin, verdict."""
    heads = [Head(text) for text in ("n / clusters", "before", "after", "loss, 95 %", "margin")]
    rows = []
    for task in decision.tasks:
        n, before, after, _, bounds, margin = map(Value, _numbers(task))
        verdict = Value(word(task.verdict), style=_STYLES[task.verdict])
        rows.append(Labelled(task.task, [n, before, after, bounds, margin, verdict]))
    return Table(Head("task"), [*heads, Head("verdict", words=True)], rows)


def sentences(decision: Decision) -> list[str]:
    """Why each task got its verdict, and the notes."""
    said = [f"{task.task}: {word(task.verdict)}: {task.reason}." for task in decision.tasks]
    said += [
        f"{task.task}: the gain of {-task.loss.mean:.3f} is suspiciously large; are its questions "
        "in the training data?"
        for task in decision.tasks
        if task.suspicious and task.loss is not None
    ]
    return said + decision.notes


def scope(place: int | None) -> str:
    """What the gate's 5 % refers to, in one sentence; `place` in a series."""
    if place is None:
        return (
            "The 5 % of false alarms are those of one gate: held against one baseline again and "
            "again, harmless candidates fail more often in all (--sequential)."
        )
    return (
        f"Candidate {place} of this baseline's series: a regression is p < {level(place):.2g}, and "
        "the whole series raises a false alarm in at most 5 %."
    )


def markdown(named: Named, place: int | None = None) -> str:
    """For a comment on a pull request."""
    lines: list[str] = []
    for name, decision in named:
        lines += [f"### Context gate: {word(decision.verdict)}", "", escape(name), ""]
        lines += [
            "| task | n / clusters | before | after | loss | 95 % bounds | margin | verdict |"
        ]
        lines += ["|---|---:|---:|---:|---:|---:|---:|---|"]
        for task in decision.tasks:
            cells = [escape(task.task), *_numbers(task), word(task.verdict)]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", *(f"- {escape(said)}" for said in sentences(decision)), ""]
    return "\n".join([*lines, scope(place), ""])


def junit(named: Named, seconds: float) -> str:
    """A test suite a run, a test case a task; inconclusive counts as an error, not as a failure.

    Args:
        seconds: what the gate took, split evenly: its tasks are decided together.
    """
    root = ElementTree.Element("testsuites", time=f"{seconds:.3f}")
    each = seconds / max(sum(len(decision.tasks) for _, decision in named), 1)
    for name, decision in named:
        suite = ElementTree.SubElement(root, "testsuite", name=_legal(name))
        counts = [task.verdict for task in decision.tasks]
        errors = counts.count(Verdict.ERROR) + counts.count(Verdict.INCONCLUSIVE)
        suite.set("tests", str(len(counts)))
        suite.set("failures", str(counts.count(Verdict.REGRESSION)))
        suite.set("errors", str(errors))
        suite.set("time", f"{each * len(counts):.3f}")
        for task in decision.tasks:
            case = ElementTree.SubElement(
                suite, "testcase", name=_legal(task.task), classname=_legal(f"ctx-eval.gate.{name}")
            )
            case.set("time", f"{each:.3f}")
            if task.verdict is not Verdict.PASS:
                kind = "failure" if task.verdict is Verdict.REGRESSION else "error"
                message = _legal(task.reason)
                ElementTree.SubElement(case, kind, type=word(task.verdict), message=message)
            ElementTree.SubElement(case, "system-out").text = _legal(" ".join(_numbers(task)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def as_json(named: Named, baseline: str, place: int | None = None) -> str:
    """Everything, numbers unrounded, what cannot be known as null; `baseline` is its name."""
    runs = [
        {
            "name": name,
            "verdict": word(decision.verdict),
            "exit_code": int(decision.verdict),
            "tasks": [_plain(task) for task in decision.tasks],
            "notes": decision.notes,
        }
        for name, decision in named
    ]
    content = {"format": FORMAT, "baseline": baseline, "level": level(place), "runs": runs}
    return json.dumps(finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def word(verdict: Verdict) -> str:
    """ "pass", "regression", "inconclusive" or "error"."""
    return verdict.name.lower()


def _plain(task: TaskVerdict) -> dict[str, Any]:
    return {**dataclasses.asdict(task), "verdict": word(task.verdict)}


def _numbers(task: TaskVerdict) -> list[str]:
    if task.loss is None or task.before is None or task.after is None or task.margin is None:
        return ["-"] * 6
    loss = task.loss
    scores = [number(task.before), number(task.after), number(loss.mean, signed=True)]
    return [
        f"{loss.n} / {loss.clusters}",
        *scores,
        interval(loss.low, loss.high),
        f"{task.margin:.3g}",
    ]


def _legal(text: str) -> str:
    return _ILLEGAL_IN_XML.sub("", text)
