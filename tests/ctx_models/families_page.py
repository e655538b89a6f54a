"""`ctx_models/FAMILIES.md`: the verdict on every family, written by

python -m tests.ctx_models.families_page

after a change that moves a verdict, or with a newer transformers (minutes). The tests only read it.
No verdict depends on how long it took: a family that hangs hangs the command, and fails the test by
its time limit.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import transformers

import ctx_models
from ctx_tasks.files import write_text
from tests.ctx_models.families import STEPS, Verdict, causal_families, judge

PAGE = Path(ctx_models.__file__).with_name("FAMILIES.md")


def judged_alone(family: str) -> Verdict:
    """The verdict of a process of its own: what crashes is wrong, and harms no other."""
    ours, theirs = multiprocessing.Pipe()
    # A fork has torch and transformers loaded already.
    process = multiprocessing.get_context("fork").Process(target=_send, args=(theirs, family))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return Verdict(family, "wrong", "its process crashed")
    finally:
        process.kill()
        process.join()


def _send(connection: Connection, family: str) -> None:
    transformers.logging.set_verbosity_error()
    connection.send(judge(family))


def row(verdict: Verdict) -> str:
    """A family's line."""
    return f"| {verdict.family} | {verdict.kind} | {verdict.reason.replace('|', '/')} |"


def text(verdicts: Sequence[Verdict]) -> str:
    """The page."""
    return "\n".join([*_head(Counter(v.kind for v in verdicts)), *map(row, verdicts), ""])


def _head(counts: Counter[str]) -> list[str]:
    return [
        "# Which model families can be steered",
        "",
        "Written by `python -m tests.ctx_models.families_page` with transformers "
        f"{transformers.__version__}, from a tiny random model of every causal language model in "
        "its registry.",
        "",
        f"*right* ({counts['right']}): a padded batch past its window and chunk, prefilled and "
        f"{STEPS} tokens generated with its cache, has the logits of a naive float64 computation.",
        f"*refused* ({counts['refused']}): `alpha` below 1 and `ctx-eval attention` end in the "
        "sentence beside it.",
        f"*not built* ({counts['not built']}): the test's small settings give no such model, so "
        "nothing is known; at run time hf-ctx checks every model that it steers.",
        "",
        "| family | verdict | why |",
        "|---|---|---|",
    ]


def write() -> None:
    """Judge every family and write the page, unless one is wrong."""
    verdicts = [judged_alone(family) for family in causal_families()]
    wrong = [row(verdict) for verdict in verdicts if verdict.kind == "wrong"]
    if wrong:
        sys.exit("\n".join(["Nothing is written, as these are steered wrong:", *wrong]))
    write_text(PAGE, text(verdicts))
    print(f"Wrote {PAGE}")


if __name__ == "__main__":
    write()
