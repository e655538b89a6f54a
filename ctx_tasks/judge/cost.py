"""What judging costs: an estimate before the first request, and a meter while it runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

# A token of English text has about four bytes; a verdict with its explanation about 300 tokens.
BYTES_A_TOKEN = 4
REPLY_TOKENS = 300


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens, in and out."""

    read: float
    written: float

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Dollars."""
        return (tokens_in * self.read + tokens_out * self.written) / 1e6


@dataclass(frozen=True)
class Estimate:
    """Requests and tokens that are still to be paid; `cost` in dollars, None without prices."""

    requests: int
    tokens_in: int
    tokens_out: int
    cost: float | None

    def sentence(self) -> str:
        """For people: "80 requests, about 68,000 tokens in and 24,000 out, about $2.76"."""
        tokens = f"about {self.tokens_in:,} tokens in and {self.tokens_out:,} out"
        money = "no prices given" if self.cost is None else f"about ${self.cost:.2f}"
        requests = "1 request" if self.requests == 1 else f"{self.requests} requests"
        return f"{requests}, {tokens}, {money}"


def tokens(*texts: str) -> int:
    """About how many tokens texts have, rounded up."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return -(-size // BYTES_A_TOKEN)


def estimate(prompts: Iterable[str], price: Price | None) -> Estimate:
    """The cost of one reply to each prompt, from its length; retries are not in it."""
    sizes = [len(prompt.encode("utf-8", "surrogatepass")) for prompt in prompts]
    tokens_in, tokens_out = sum(sizes) // BYTES_A_TOKEN, REPLY_TOKENS * len(sizes)
    cost = price.cost(tokens_in, tokens_out) if price else None
    return Estimate(len(sizes), tokens_in, tokens_out, cost)


class Meter:
    """Adds up what replies cost; used from several threads.

    By the tokens the endpoint reports, or by our own count, of which `report` tells.
    """

    def __init__(self, price: Price | None = None, limit: float | None = None) -> None:
        self._price, self._limit = price, limit
        self._lock = threading.Lock()
        self.tokens_in = self.tokens_out = self.counted = 0

    def add(self, tokens_in: int, tokens_out: int, *, counted: bool = False) -> None:
        """Take one reply, its tokens reported or `counted`."""
        with self._lock:
            self.tokens_in += tokens_in
            self.tokens_out += tokens_out
            self.counted += counted

    @property
    def cost(self) -> float | None:
        """Dollars so far; None without prices."""
        return self._price.cost(self.tokens_in, self.tokens_out) if self._price else None

    @property
    def spent_all(self) -> bool:
        """Whether the limit is reached."""
        return self._limit is not None and self.cost is not None and self.cost >= self._limit

    def report(self) -> str:
        """For people: "read 61,000 tokens and wrote 20,112, $2.20"."""
        money = "" if self.cost is None else f", ${self.cost:.2f}"
        own = (
            f" (counted here at {BYTES_A_TOKEN} bytes a token for {self.counted} replies, whose "
            "tokens the endpoint did not report)"
        )
        used = f"read {self.tokens_in:,} tokens and wrote {self.tokens_out:,}{money}"
        return used + (own if self.counted else "")

    def sentence(self) -> str:
        """Why judging stopped."""
        return (
            f"The judge has cost ${self.cost:.2f}, which reaches max_cost {self._limit}; its "
            "verdicts are kept, so repeat the command with a higher limit for the rest."
        )
