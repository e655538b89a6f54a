"""The whole `ctx-eval attention` command: `output_attentions=True` against ours.

    python -m tests.benchmarks.attention [--prompts 40] [--tokens 2048] [--rounds 1] [--width 256]

A small random Llama (8 layers, width 256, 8 heads of 32) with nano-chat's tokenizer, float32, on
needle prompts with a document of 2048 tokens, with and without the chat template. Both sides are
the same command in a process of its own, from the imports to the figures; the usual side takes the
last rows from the whole attention matrices of a prompt. With the paper's 400 prompts, start and
figures would weigh less. In a wide model the matrix products, which both sides share, leave less to
win.

Memory is the growth of the peak resident size over the same command on one document of 200 tokens.
The sides take turns, and numbers are medians. Exit status 1 if a target is missed: 5 times faster,
1/20 of the extra memory, shares equal to 1e-5.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from ctx_models import nano
from ctx_models.allocation import run as allocation_run
from ctx_models.allocation.shares import CONDITIONS, _prompt
from ctx_models.cli import main as ctx_eval

SPEED, MEMORY, EQUAL = 5, 1 / 20, 1e-5
SIDES = ("usual", "ours")


def save_model(folder: Path, tokens: int, width: int) -> None:
    """A random model whose weights make attention uneven, with a chat tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(nano.folder("nano-chat"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=8,
        num_attention_heads=8 if width < 2048 else 32,
        num_key_value_heads=4,
        max_position_embeddings=tokens + 512,
        initializer_range=0.04,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def usual_shares(lm: Any, row: Any) -> np.ndarray:
    """What `allocation.prompt_shares` gives, from whole attention matrices."""
    lm.model.set_attn_implementation("eager")
    found = []
    for condition in CONDITIONS:
        tokens = lm._tokens(_prompt(lm, row, chat=condition == "chat"))
        ids = torch.tensor([tokens.input_ids])
        last = [layer[0, :, -1] for layer in lm.model(ids, output_attentions=True).attentions]
        indicator = torch.nn.functional.one_hot(torch.tensor(tokens.segments), 5).float()
        found.append((torch.stack(last) @ indicator).numpy())
    return np.stack(found)


def run(side: str, folder: Path, output: Path, tokens: int, prompts: int) -> tuple[float, float]:
    """Seconds and peak resident MiB of one whole command."""
    command = [sys.executable, "-m", "tests.benchmarks.attention", "--side", side, "attention"]
    command += ["--model_args", f"pretrained={folder}", "--max_length", str(tokens), "--per-head"]
    command += ["--lengths", "1", "--depths", str(prompts), "--device", "cpu", "-o", str(output)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def compare(options: argparse.Namespace) -> int:
    """Run both sides in turn and print medians and ratios."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    extra: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model", options.tokens, options.width)
        for number in range(options.rounds):
            for side in SIDES:
                _, little = run(side, folder / "model", folder / f"{side}{number} little", 200, 1)
                output = folder / f"{side}{number}"
                taken, peak = run(side, folder / "model", output, options.tokens, options.prompts)
                seconds[side].append(taken)
                extra[side].append(peak - little)
        shares = [_shares(folder / f"{side}0" / "heads.csv") for side in SIDES]
    print(
        f"8 layers of width {options.width}, {options.prompts} prompts of {options.tokens} tokens "
        f"and more, {options.rounds} round(s), float32, CPU"
    )
    for side in SIDES:
        spent, grown = statistics.median(seconds[side]), statistics.median(extra[side])
        print(f"{side:6} {spent:8.1f} s {grown:8.0f} MiB")
    speed, share = (
        statistics.median(found["usual"]) / statistics.median(found["ours"])
        for found in (seconds, extra)
    )
    gap = float(np.abs(shares[0] - shares[1]).max())
    results = [
        (f"{speed:.1f} times as fast (target {SPEED})", speed >= SPEED),
        (f"1/{share:.0f} of the extra memory (target 1/{1 / MEMORY:.0f})", share >= 1 / MEMORY),
        (f"largest difference {gap:.1e} (target {EQUAL:.0e})", gap <= EQUAL),
    ]
    for said, good in results:
        print(f"{said}  {'ok' if good else 'MISSED'}")
    return 0 if all(good for _, good in results) else 1


def _shares(path: Path) -> np.ndarray:
    with path.open(encoding="utf-8") as file:
        return np.array([float(row["mean"]) for row in csv.DictReader(file)])


def main() -> int:
    if sys.argv[1:2] == ["--side"]:
        if sys.argv[2] == "usual":
            allocation_run.prompt_shares = usual_shares
        ctx_eval(sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    return compare(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
