"""`batch_size=auto` against every fixed batch size, on questions of many lengths.

Run: `PYTHONPATH=. python tests/benchmarks/batches.py [--model FOLDER] [--questions 64]`

Without --model a random model of SmolLM2-135M's shape, with the bundled tokenizer. The order is
drawn anew each round, and the fastest of the rounds counts.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ctx_models import model_names
from ctx_models.lm import CtxLM

SIZES: tuple[int | str, ...] = (1, 4, 8, 16, 32, 64, "auto")
TARGET = 1.05


def smollm2_shape(folder: Path) -> str:
    """A random model of SmolLM2-135M's shape, with nano-chat's tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_names.resolve("nano-chat"))
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        # No answer ends by itself: all have the same work.
        eos_token_id=49151,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def requests(count: int, tokens: int) -> list[Instance]:
    """Passages of 30 to 300 words."""
    draw = random.Random("batches")
    found = []
    for number in range(count):
        words = " ".join(
            draw.choice(["mill", "keeper", "bridge"]) for _ in range(30 + 270 * number // count)
        )
        settings = {"until": [], "max_gen_toks": tokens, "do_sample": False}
        found.append(Instance("generate_until", {}, (words, settings), number))
    draw.shuffle(found)
    return found


def main() -> None:
    """Measure, and print the ratio to the best fixed size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    best: dict[int | str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = CtxLM(args.model or smollm2_shape(Path(folder)), batch_size=2)
        asked = requests(args.questions, args.tokens)
        for turn in range(args.rounds):
            for size in random.Random(turn).sample(SIZES, len(SIZES)):
                model.batch_size_per_gpu = size
                start = time.perf_counter()
                model.generate_until(asked, disable_tqdm=True)
                spent = time.perf_counter() - start
                best[size] = min(spent, best.get(size, spent))
    fixed = min(best[size] for size in SIZES if size != "auto")
    for size in SIZES:
        print(f"{size!s:>5} {best[size]:8.2f} s ({best[size] / fixed:.3f})")
    ratio = best["auto"] / fixed
    print(f"auto  {ratio:.3f}  target <= {TARGET}  {'ok' if ratio <= TARGET else 'MISSED'}")


if __name__ == "__main__":
    main()
