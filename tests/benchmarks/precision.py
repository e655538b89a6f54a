"""How many answers and scores batch size, processes and dtype change, plain and steered.

Run: `PYTHONPATH=. python tests/benchmarks/precision.py run OUT --model FOLDER --squad FILE`, then
`... precision.py table OUT`. SQuAD in the chat template, greedy. Every cell (dtype, alpha, batch
size, processes) answers one share of the questions before any answers the next, and a share that
OUT holds is not run again, so that a table can be made at any time. Several processes are run one
after another, each with the documents that the harness would give it.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate

from ctx_models.arm import read_arm
from ctx_models.lm import CtxLM
from ctx_tasks import harness
from ctx_tasks.arm import Arm

TASK = "squad_contains"
SHARES = 8
# Batch size and processes; one prompt at a time is the same in any number of processes.
RUNS = ((1, 1), (4, 1), (16, 1), (4, 2), (16, 2))
Answers = dict[str, list[Any]]  # document -> text, score


def measure(args: argparse.Namespace) -> None:
    """Run every share of every cell that is not there yet."""
    manager = harness.task_manager([TASK], {"squad_files": args.squad})
    models = {
        dtype: CtxLM(args.model, dtype=dtype, device="cpu", batch_size=2) for dtype in args.dtypes
    }
    for share, dtype, alpha, (size, processes) in product(
        range(SHARES), args.dtypes, args.alphas, RUNS
    ):
        file = args.out / f"{dtype}_{alpha}_{size}_{processes}_{share}.json"
        if not file.exists():
            model = models[dtype]
            model.set_arm(read_arm(Arm.of({"alpha": alpha})))
            model.batch_size_per_gpu = size
            questions = list(range(args.questions))[share::SHARES]
            found: Answers = {}
            for rank in range(processes):
                found |= answers(model, manager, questions[rank::processes], args.tokens)
            file.write_text(json.dumps(found))
            print(file.name, flush=True)


def answers(model: CtxLM, manager: Any, questions: list[int], tokens: int) -> Answers:
    """Text and score of each question."""
    results = simple_evaluate(
        model=model,
        tasks=[TASK],
        task_manager=manager,
        apply_chat_template=True,
        samples={TASK: questions},
        gen_kwargs={"max_gen_toks": tokens},
        bootstrap_iters=0,
    )
    assert results is not None
    return {
        str(row["doc"]["id"]): [row["resps"][0][0], row["contains"]]
        for row in results["samples"][TASK]
    }


def table(out: Path) -> Iterator[str]:
    """A line a cell: how it differs from batches of one, in its own dtype and in float32."""
    cells: defaultdict[tuple[str, ...], Answers] = defaultdict(dict)
    for file in out.glob("*.json"):
        cells[tuple(file.stem.split("_")[:-1])] |= json.loads(file.read_text())
    yield "dtype, alpha, batch, processes: n, score; changed against batches of 1, and in float32"
    for (dtype, alpha, size, processes), found in sorted(cells.items()):
        score = sum(hit for _, hit in found.values()) / len(found)
        against = [cells.get((one, alpha, "1", "1")) for one in (dtype, "float32")]
        changed = "; ".join(_changed(found, one) for one in against if one)
        yield f"{dtype} {alpha} {size} {processes}: {len(found)}, {score:.3f}; {changed}"


def _changed(found: Answers, against: Answers) -> str:
    pairs = [(found[one], against[one]) for one in found if one in against]
    texts = sum(a[0] != b[0] for a, b in pairs)
    up, down = (sum(sign * (a[1] - b[1]) > 0 for a, b in pairs) for sign in (1, -1))
    return f"{texts} texts and {up + down} scores (+{up} -{down}) of {len(pairs)}"


def main() -> None:
    """Run cells, or print what they say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--squad")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--alphas", nargs="+", type=float, default=[1.0, 0.9])
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=16)
    args = parser.parse_args()
    if args.action == "table":
        print("\n".join(table(args.out)))
        return
    args.out.mkdir(exist_ok=True)
    measure(args)


if __name__ == "__main__":
    main()
