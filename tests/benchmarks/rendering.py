"""What it costs to find the content of a long conversation, beside transformers' own rendering.

    python -m tests.benchmarks.rendering

20 to 1280 turns whose answers begin with a thought that the template cuts, as Qwen3's does: every
text is looked into. Interleaved, medians of three. Exits with 1 where 1280 turns take more than
1.5 times as long a turn as 160 do, or more than 30 times transformers' rendering.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from ctx_models.spans import render
from tests.ctx_models import chats

TURNS = (20, 40, 80, 160, 320, 640, 1280)
ROUNDS = 3
GROWTH, RATIO = 1.5, 30.0


def talk(turns: int) -> list[dict[str, str]]:
    """`turns` questions with thoughtful answers, and a last question."""
    messages = []
    for turn in range(turns):
        messages += [{"role": "user", "content": f"question {turn}"}]
        answer = f"<think>\nwhy {turn}\n</think>\n\nanswer {turn}"
        messages += [{"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": "and now?"}]


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(turns: int) -> tuple[float, float]:
    """Seconds of transformers' rendering, and of ours."""
    tokenizer, messages = chats.with_template("byte_level", "thinking"), talk(turns)
    rounds = [
        (
            seconds(lambda: tokenizer.apply_chat_template(messages, tokenize=False)),
            seconds(lambda: render(tokenizer, messages)),
        )
        for _ in range(ROUNDS)
    ]
    theirs, ours = zip(*rounds, strict=True)
    return statistics.median(theirs), statistics.median(ours)


def main() -> int:
    """Print a line for each length; return the exit status."""
    measure(TURNS[0])  # compiles the template
    a_turn = {}
    for turns in TURNS:
        theirs, ours = measure(turns)
        a_turn[turns] = ours / turns
        print(f"{turns:5} turns: hf {theirs:7.4f} s, ours {ours:7.4f} s, {ours / theirs:5.1f} x")
    growth = a_turn[1280] / a_turn[160]
    print(f"a turn of 1280 takes {growth:.2f} x as long as a turn of 160 (at most {GROWTH})")
    return int(growth > GROWTH or ours / theirs > RATIO)


if __name__ == "__main__":
    sys.exit(main())
