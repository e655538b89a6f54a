"""Eq. 2 on real conversations: the usual way against ours, in speed, memory and result.

    CTX_REAL_DATA=DATA python -m tests.benchmarks.scoring [--layers 22] [--usual 4]

The usual way is the released code's: the whole model with `output_attentions=True`, hence eager
attention, one conversation at a time padded to 2047 tokens. Ours is `training.dependency` with
`ctx-train score`'s default batches. Both score the same layer of the same random TinyLlama-shaped
model (hidden 2048, 32 heads, 4 key heads; fewer than 22 layers by default, because eager attentions
of 22 layers take 12 GB), on the first conversations of the ShareGPT sample cut at 2047 tokens, on a
GPU where there is one.

Each side runs in processes of its own; memory is the growth of the peak resident size (of CUDA's
allocations) over the loaded model. The sides take turns, and the ratio is that of the medians. The
exit status is 1 if a target is missed: 8 times the conversations per second, 1/15 of the memory,
scores equal to 1e-4.

On a CPU the speed target cannot be met in float32. Of these conversations the usual way computes
4.23 TFLOP of matrix products each (2047 tokens, 22 layers and the LM head) in 26.7 of its 64.1 s;
ours has to compute 1.80 TFLOP (1361 tokens on average, 15 layers), which at the same rate takes
11.4 s: if all else were free, 5.6 times the conversations per second. Measured on two shared cores
(`--layers 22 --usual 4 --rounds 1`, `--usual 2` later): 5.7 and 5.2 times, 1/31 and 1/33 of the
memory, largest difference of a score 3.6e-7; with `--dtype bfloat16 --usual 3` 7.4 times and 1/23,
where both sides round and scores differ by up to 6e-3. Ratios above the bound come from the usual
side's 12 GB, whose pages cost a varying time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from ctx_models.spans import Segment
from ctx_tasks.rows import read_rows
from training.data.formats import to_conversation
from training.dependency.equation import Encoded, Scores, default_layer, encode, score_batch
from training.dependency.run import bucketed

LENGTH = 2047
CUDA = torch.cuda.is_available()
BATCH_TOKENS = 16384 if CUDA else 2048
SPEED, MEMORY, EQUAL = 8, 1 / 15, 1e-4


def model(layers: int, dtype: str) -> Any:
    """A random model of TinyLlama's shape, weights large enough for uneven attention."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        initializer_range=0.04,
    )
    built = AutoModelForCausalLM.from_config(config).eval()
    return built.to("cuda" if CUDA else "cpu", getattr(torch, dtype))


def conversations(count: int) -> list[Encoded]:
    data = Path(os.environ["CTX_REAL_DATA"])
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / "tinyllama-1.1b-chat-v1.0")
    rows = list(read_rows(data / "sft" / "sharegpt_sample.json"))[:count]
    return [encode(tokenizer, to_conversation(row, 0).messages, LENGTH) for row in rows]


def ours(model: Any, encoded: list[Encoded], layer: int) -> list[Scores]:
    """Batches as `training.dependency.run` makes them."""
    scores: dict[int, Scores] = {}
    order = bucketed(range(len(encoded)), lambda i: len(encoded[i].input_ids), BATCH_TOKENS)
    for rows in order:
        found = score_batch(model, [encoded[row] for row in rows], layers=[layer])
        scores.update((row, layers[0]) for row, layers in zip(rows, found, strict=True))
    return [scores[row] for row in range(len(encoded))]


@torch.no_grad()
def usual(model: Any, encoded: list[Encoded], layer: int) -> list[Scores]:
    """Full attention matrices of all layers, one padded conversation at a time."""
    model.set_attn_implementation("eager")
    return [_usual(model, conversation, layer) for conversation in encoded]


def _usual(model: Any, encoded: Encoded, layer: int) -> Scores:
    ids, mask = torch.zeros(2, 1, LENGTH, dtype=torch.long)
    ids[0, : len(encoded.input_ids)] = torch.tensor(encoded.input_ids)
    mask[0, : len(encoded.input_ids)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    attentions = model(ids, attention_mask=mask, output_attentions=True).attentions
    user = torch.zeros(LENGTH, dtype=torch.bool)
    user[: len(encoded.segments)] = torch.tensor(encoded.segments) == Segment.USER
    strongest = attentions[layer][0].cpu()[:, :, user].sum(-1).amax(0)
    return [None if turn is None else strongest[turn].mean().item() for turn in encoded.turns]


def measure(side: str, layers: int, count: int, dtype: str) -> dict[str, Any]:
    """Seconds, growth of the peak in MiB, and scores of one side, in this process."""
    built, encoded, layer = model(layers, dtype), conversations(count), default_layer(layers)
    with torch.no_grad():
        built(
            torch.zeros(1, 8, dtype=torch.long, device=built.device)
        )  # thread pools and lazy imports
    before = _reset_peak()
    start = time.perf_counter()
    scores = {"usual": usual, "ours": ours}[side](built, encoded, layer)
    seconds = time.perf_counter() - start
    return {"seconds": seconds / count, "mebibytes": _peak() - before, "scores": scores}


def _reset_peak() -> float:
    """Forget the peak of the memory in use so far; returns the present use in MiB."""
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if CUDA else _status("VmHWM")


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))


def in_process(side: str, layers: int, count: int, dtype: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.scoring", "--side", side]
    command += ["--layers", str(layers), "--conversations", str(count), "--dtype", dtype]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(options: argparse.Namespace) -> bool:
    """Run both sides in turn, print the table, and say whether all targets are met."""
    counts = {"usual": options.usual, "ours": options.conversations}
    runs: dict[str, list[dict[str, Any]]] = {"usual": [], "ours": []}
    for _ in range(options.rounds):
        for side, count in counts.items():
            runs[side].append(in_process(side, options.layers, count, options.dtype))
    seconds, memory = (
        {side: statistics.median(run[key] for run in found) for side, found in runs.items()}
        for key in ("seconds", "mebibytes")
    )
    gap = max(_gap(*pair) for pair in zip(runs["usual"], runs["ours"], strict=True))
    print(
        f"{options.layers} layers, scored layer {default_layer(options.layers)}, "
        f"{options.dtype}, {'GPU' if CUDA else 'CPU'}"
    )
    print(f"{'':8}{'conversations':>14}{'seconds each':>14}{'extra peak MiB':>16}")
    for side, count in counts.items():
        print(f"{side:8}{count:14}{seconds[side]:14.2f}{memory[side]:16.0f}")
    speed, share = seconds["usual"] / seconds["ours"], memory["ours"] / memory["usual"]
    print(f"{speed:.1f} times the conversations per second (target {SPEED})")
    print(f"1/{1 / share:.0f} of the memory (target 1/{1 / MEMORY:.0f})")
    print(f"largest difference of a score {gap:.1e} (target {EQUAL:.0e})")
    return speed >= SPEED and share <= MEMORY and gap <= EQUAL


def _gap(usual: dict[str, Any], ours: dict[str, Any]) -> float:
    """Largest difference of the scores that both have; nulls must be the same."""
    pairs = [
        (a, b)
        for left, right in zip(usual["scores"], ours["scores"], strict=False)
        for a, b in zip(left, right, strict=True)
    ]
    assert all((a is None) == (b is None) for a, b in pairs)
    return max(abs(a - b) for a, b in pairs if a is not None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--conversations", type=int, default=20)
    parser.add_argument("--usual", type=int, default=4, help="conversations of the slow side")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--side", choices=["usual", "ours"], help="measure one side, print JSON")
    options = parser.parse_args()
    if options.side:
        print(
            json.dumps(measure(options.side, options.layers, options.conversations, options.dtype))
        )
        return 0
    return 0 if compare(options) else 1


if __name__ == "__main__":
    sys.exit(main())
