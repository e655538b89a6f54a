"""Every causal family of the installed transformers is steered right, or refused by name."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import transformers

import ctx_models
from tests.ctx_models.families import STEPS, Verdict, causal_families, judge

LIST = Path(ctx_models.__file__).with_name("FAMILIES.md")
SECONDS = 90  # for one family, on a loaded machine; one to three are usual


def judged_alone(family: str) -> Verdict:
    """The verdict of a process of its own: what hangs or crashes is wrong, and harms no other."""
    ours, theirs = multiprocessing.Pipe()
    # A fork has torch and transformers loaded already.
    process = multiprocessing.get_context("fork").Process(target=_send, args=(theirs, family))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(SECONDS) else Verdict(family, "wrong", "it hangs")
    except EOFError:
        return Verdict(family, "wrong", "its process crashed")
    finally:
        process.kill()
        process.join()


def _send(connection: Connection, family: str) -> None:
    transformers.logging.set_verbosity_error()
    connection.send(judge(family))


def page(verdicts: Sequence[Verdict]) -> str:
    """FAMILIES.md."""
    counts = Counter(verdict.kind for verdict in verdicts)
    rows = [f"| {v.family} | {v.kind} | {v.reason.replace('|', '/')} |" for v in verdicts]
    return "\n".join(
        [
            "# Which model families can be steered",
            "",
            f"Written by `pytest -m slow tests/ctx_models/test_families.py` with transformers "
            f"{transformers.__version__}, from a tiny random model of every causal language model "
            "in its registry.",
            "",
            f"*right* ({counts['right']}): a padded batch past its window and chunk, prefilled and "
            f"{STEPS} tokens generated with its cache, has the logits of a naive float64 "
            "computation.",
            f"*refused* ({counts['refused']}): `alpha` below 1 and `ctx-eval attention` end in the "
            "sentence beside it.",
            f"*not built* ({counts['not built']}): the test's small settings give no such model, "
            "so nothing is known; at run time hf-ctx checks every model that it steers.",
            "",
            "| family | verdict | why |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


@pytest.mark.slow
def test_every_family_is_right_or_refused_by_name() -> None:
    verdicts = [judged_alone(family) for family in causal_families()]
    assert len(verdicts) > 100
    LIST.write_text(page(verdicts), encoding="utf-8")
    assert [verdict for verdict in verdicts if verdict.kind == "wrong"] == []
    for verdict in verdicts:
        if verdict.kind == "refused":
            named = verdict.family.replace("_", "").replace("-", "")
            assert named[:4] in verdict.reason.replace("_", "").replace("-", "").lower(), verdict
