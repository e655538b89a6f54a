"""Attention shares of the last prompt token: `output_attentions=True` against ours.

    python -m tests.benchmarks.attention [--layers 8] [--tokens 2048] [--rounds 3] [--width 256]

A small random Llama (width 256, 8 heads of 32), float32, all layers and heads of one prompt, as
`ctx-eval attention` measures each of its prompts. In a wide model the matrix products, which both
sides share, leave less to win: of TinyLlama's shape (`--width 2048`) it was 1.9 times as fast. The
sides take turns in processes of their own; memory is the growth of the peak resident size over the
loaded model. Exit status 1 if a target is
missed: 5 times faster, 1/20 of the extra memory, shares equal to 1e-5.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from ctx_models import segment_mass
from tests.benchmarks.scoring import _peak, _reset_peak

SPEED, MEMORY, EQUAL = 5, 1 / 20, 1e-5


def model(layers: int, width: int) -> Any:
    """A random model whose weights make attention uneven."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=8 if width < 2048 else 32,
        num_key_value_heads=4,
        initializer_range=0.04,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def ours(built: Any, ids: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """[layers, heads, segments] of the last token."""
    layers = list(range(built.config.num_hidden_layers))
    return segment_mass(built, ids, segments, layers=layers, last_tokens=1)[0, :, :, 0]


@torch.no_grad()
def usual(built: Any, ids: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """The same from whole attention matrices."""
    built.set_attn_implementation("eager")
    last = [layer[0, :, -1] for layer in built(ids, output_attentions=True).attentions]
    indicator = torch.nn.functional.one_hot(segments[0], 5).float()
    return torch.stack(last) @ indicator


def measure(side: str, layers: int, tokens: int, width: int) -> dict[str, Any]:
    """Seconds, growth of the peak in MiB, and shares of one side, in this process."""
    built = model(layers, width)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 32000, (1, tokens), generator=generator)
    segments = torch.randint(0, 5, (1, tokens), generator=generator)
    function = {"ours": ours, "usual": usual}[side]
    function(built, ids[:, :64], segments[:, :64])
    before = _reset_peak()
    start = time.perf_counter()
    shares = function(built, ids, segments)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "mebibytes": _peak() - before, "shares": shares.tolist()}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=["ours", "usual"])
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.layers, options.tokens, options.width)))
        return 0
    return compare(options)


def compare(options: argparse.Namespace) -> int:
    """Run both sides in turn and print medians and ratios."""
    runs: dict[str, list[dict[str, Any]]] = {"usual": [], "ours": []}
    for _ in range(options.rounds):
        for side, found in runs.items():
            command = [sys.executable, "-m", "tests.benchmarks.attention", "--side", side]
            command += ["--layers", str(options.layers), "--tokens", str(options.tokens)]
            command += ["--width", str(options.width)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    print(
        f"{options.layers} layers, {options.tokens} tokens, {options.rounds} rounds, float32, CPU"
    )
    medians = {
        side: [statistics.median(run[key] for run in found) for key in ("seconds", "mebibytes")]
        for side, found in runs.items()
    }
    for side, (seconds, memory) in medians.items():
        print(f"{side:6} {seconds:8.2f} s {memory:8.0f} MiB")
    shares = [torch.tensor(runs[side][0]["shares"]) for side in runs]
    speed, share = (medians["usual"][i] / medians["ours"][i] for i in (0, 1))
    gap = float((shares[0] - shares[1]).abs().max())
    results = [
        (f"{speed:.1f} times as fast (target {SPEED})", speed >= SPEED),
        (f"1/{share:.0f} of the extra memory (target 1/{1 / MEMORY:.0f})", 1 / share <= MEMORY),
        (f"largest difference {gap:.1e} (target {EQUAL:.0e})", gap <= EQUAL),
    ]
    for said, good in results:
        print(f"{said}  {'ok' if good else 'MISSED'}")
    return 0 if all(good for _, good in results) else 1


if __name__ == "__main__":
    sys.exit(main())
