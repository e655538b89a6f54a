"""Steered log-likelihoods with the logits of the continuations alone, against those of all tokens.

Run: `PYTHONPATH=. python tests/benchmarks/last_logits.py [--model smollm2-135m-instruct]`

Prompts of 200 to 900 tokens, two answers each, batches of 8. In turns; processor time of one
thread, the least of the rounds counts. The log-likelihoods may differ by 1e-4.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from lm_eval.api.instance import Instance

from ctx_models import last_logits
from ctx_models.lm import CtxLM

TARGET = 0.95
WORDS = ("mill", "keeper", "bridge", "stone", "river", "night", "seven")


def requests(model: CtxLM, prompts: int) -> list[Instance]:
    """Chats about random words, with two answers each."""
    draw = random.Random("last logits")
    found = []
    for number in range(prompts):
        text = " ".join(draw.choices(WORDS, k=180 + 680 * number // prompts))
        prompt = model.apply_chat_template([{"role": "user", "content": text}])
        found += [Instance("loglikelihood", {}, (prompt, end), 0) for end in (" yes", " no, never")]
    return found


def timed(model: CtxLM, asked: list[Instance], only: Callable[..., Any]) -> tuple[float, list[Any]]:
    """Processor seconds of all requests, and their log-likelihoods."""
    last_logits.only = only
    start = time.process_time()
    found = model.loglikelihood(asked, disable_tqdm=True)
    return time.process_time() - start, found


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = CtxLM(args.model, alpha=0.9, device="cpu", dtype="float32", batch_size=8)
    asked = requests(model, args.prompts)
    ways = {"last": last_logits.only, "all": lambda *_: nullcontext()}
    best = dict.fromkeys(ways, float("inf"))
    scores = {}
    for _ in range(args.rounds):
        for name, only in ways.items():
            seconds, scores[name] = timed(model, asked, only)
            best[name] = min(best[name], seconds)
    apart = max(abs(a - b) for (a, _), (b, _) in zip(*scores.values(), strict=True))
    ratio = best["last"] / best["all"]
    print({name: round(seconds, 1) for name, seconds in best.items()})
    print(f"{ratio:.2f} x (target {TARGET}), log-likelihoods apart by {apart:.1e}")
    if ratio > TARGET or apart > 1e-4:
        raise SystemExit("target missed")


if __name__ == "__main__":
    main()
