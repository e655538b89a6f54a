"""Conversations of random words."""

from __future__ import annotations

import random

WORDS = ["lighthouse", "keeper", "weather", "book", "evening", "lamp", "harbour", "signal"]


def turn(role, content):
    return {"role": role, "content": content}


def conversation(seed: int, rounds: int, words: int = 12) -> list[dict[str, str]]:
    draw = random.Random(f"conversation {seed}")
    text = lambda: " ".join(draw.choices(WORDS, k=draw.randint(1, words)))  # noqa: E731
    return [turn(role, text()) for _ in range(rounds) for role in ("user", "assistant")]


CONVERSATIONS = {
    "one turn": conversation(1, 1),
    "several turns": conversation(2, 4),
    "system": [turn("system", "Answer like a lighthouse keeper."), *conversation(3, 2)],
    "repeated text": [turn(role, "the lamp") for role in ("user", "assistant") * 3],
}
