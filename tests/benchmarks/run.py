"""Whole runs: `ctx-eval run` against plain `lm_eval --model hf`, same model, same documents.

Run: `PYTHONPATH=. python tests/benchmarks/run.py [--model FOLDER] [--max-length 2000]`

The needle test and 100 questions, in processes of their own, in turns: hf, hf-ctx at alpha 1,
hf-ctx at alpha 0.9.
What is compared is the processor time of one thread, start and all, which other programs on the
machine disturb least; the least of the rounds counts. The answers at alpha 1 must be hf's.

The floor is the model's matrix products alone, at the rate that this machine reaches on the
largest of them: nothing that still runs every prompt through the model in float32 can be below.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from ctx_tasks.catalogue import task_folder
from tests import real_models

# Ratios of processor time: alpha 1 to hf, and alpha 0.9 to alpha 1.
PLAIN, STEERED = 0.8, 1.05
TASKS = ("nih_recall", "prose_squad_contains", "prose_quac_contains")
QUESTIONS = 50


def command(kind: str, args: argparse.Namespace, output: Path) -> list[str]:
    """The command line of one side."""
    model, alpha = ("hf", "") if kind == "hf" else ("hf-ctx", f",alpha={kind}")
    start = ["lm_eval", "run"] if kind == "hf" else ["ctx_models", "run"]
    grid = {"max_length": args.max_length, "lengths": args.lengths, "depths": args.depths}
    settings = json.dumps({**grid, "questions": QUESTIONS})
    return [
        *(sys.executable, "-m", *start, "--model", model, "--tasks", ",".join(TASKS)),
        *("--model_args", f"pretrained={args.model},dtype={args.dtype}{alpha}"),
        *("--include_path", str(task_folder()), "--metadata", settings),
        *("--apply_chat_template", "--batch_size", str(args.batch_size), "--device", "cpu"),
        *("--log_samples", "--output_path", str(output)),
    ]


def timed(arguments: list[str]) -> float:
    """Processor seconds of a command, on one thread."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def samples(output: Path) -> dict[tuple[str, int], Any]:
    """The newest answers, by task and document."""
    found = {}
    for task in TASKS:
        path = max(output.rglob(f"samples_{task}_2*.jsonl"))
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found |= {(task, row["doc_id"]): row for row in rows}
    return found


def floor(model: str, prompts: list[str], answers: list[str]) -> float:
    """Seconds of the matrix products of these prompts and answers at the rate measured here."""
    config = AutoConfig.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    hidden, inner, layers = (
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
    )
    width = hidden // config.num_attention_heads
    projections = hidden * (2 * hidden + 2 * config.num_key_value_heads * width + 3 * inner)
    work = 0.0
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens, more = len(tokenizer(prompt).input_ids), len(tokenizer(answer).input_ids)
        work += 2 * layers * projections * (tokens + more)
        work += 2 * layers * hidden * tokens**2  # q k^T and weights times v, the causal half
        work += 2 * config.vocab_size * hidden * (1 + more)
    left, right = torch.randn(2048, hidden), torch.randn(hidden, inner)
    torch.set_num_threads(1)
    rate = 0.0
    for _ in range(20):
        start = time.process_time()
        for _ in range(10):
            left @ right
        rate = max(rate, 10 * 2 * left.shape[0] * right.numel() / (time.process_time() - start))
    print(f"{work / 1e12:.2f} TFLOP of matrix products at {rate / 1e9:.0f} GFLOP/s")
    return work / rate


def main() -> None:
    """Measure, compare, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--max-length", type=int, default=2000)
    parser.add_argument("--lengths", type=int, default=6)
    parser.add_argument("--depths", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    args.model = args.model or str(real_models.checkpoint(real_models.SMOLLM2))
    best: dict[str, float] = {}
    found: dict[str, dict[tuple[str, int], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for kind in ("hf", "1.0", "0.9"):
                spent = timed(command(kind, args, Path(folder) / kind))
                best[kind] = min(spent, best.get(kind, spent))
                found[kind] = samples(Path(folder) / kind)
                print(f"{kind:>4} {spent:8.1f} s", flush=True)
    rows = found["hf"].values()
    prompts = [row["arguments"]["gen_args_0"]["arg_0"] for row in rows]
    least = floor(args.model, prompts, [row["resps"][0][0] for row in rows])
    same = sum(found["1.0"][doc]["resps"] == row["resps"] for doc, row in found["hf"].items())
    print(f"{len(rows)} documents; {same} answers at alpha 1 are hf's")
    print(f"floor {least:8.1f} s; alpha 1 is {best['1.0'] / least:.2f} times that")
    for name, ratio, target in (
        ("alpha 1 / hf", best["1.0"] / best["hf"], PLAIN),
        ("alpha 0.9 / alpha 1", best["0.9"] / best["1.0"], STEERED),
    ):
        print(
            f"{name:<20} {ratio:.3f}  target <= {target}  {'ok' if ratio <= target else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
