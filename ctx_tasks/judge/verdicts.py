"""One verdict for each answer: strict reading of `[[n]]`, tries, and why one is missing.

A reply without exactly one rating is asked for again and then counts as missing, never as a score.
Divergence from FastChat, which takes the first of several ratings, or a single-bracketed number.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from tqdm import tqdm

from ctx_tasks.judge.cost import Meter
from ctx_tasks.judge.endpoint import Endpoint, Options, Problem, Reply, Stopped
from ctx_tasks.judge.replies import KeptReply, VerdictFile

LOWEST, HIGHEST = 1.0, 10.0
# How often an answer is put to the judge before its rating is missing.
ATTEMPTS = 3
_RATING = re.compile(r"\[\[\s*(-?\d+(?:\.\d+)?)\s*\]\]")


@dataclass(frozen=True)
class Ask:
    """One verdict to get: the messages, and which question, turn and repeat they are."""

    key: str
    question: str
    turn: int
    repeat: int
    messages: list[dict[str, str]]


def ask(
    settings: Options, messages: list[dict[str, str]], question: str, turn: int, repeat: int
) -> Ask:
    """An `Ask` whose key covers all that its verdict depends on."""
    told = json.dumps([settings.identity(), messages, repeat], sort_keys=True)
    key = hashlib.sha256(told.encode()).hexdigest()
    return Ask(key, question, turn, repeat, messages)


def parse_rating(text: str) -> float | None:
    """The rating in a reply: a number from 1 to 10 in double brackets; None unless just one is.

    `[[7]]`, `[[7.5]]` and `[[10.0]]` count, and the same number twice; `[[7/10]]`, `[7]`, `[[0]]`
    and two different numbers do not. Nothing in a thought does: what stands before `</think>`,
    which some templates open in the prompt, or behind a `<think>` that was cut off.
    """
    verdict = text.rpartition("</think>")[2].partition("<think>")[0]
    found = {float(number) for number in _RATING.findall(verdict)}
    if len(found) != 1:
        return None
    [rating] = found
    return rating if LOWEST <= rating <= HIGHEST else None


@dataclass(frozen=True)
class Outcome:
    """Ratings by key, and of those that are missing the reason."""

    ratings: dict[str, float]
    problems: dict[str, Problem]


def reasons(problems: Iterable[Problem]) -> str:
    """For people: how often each kind of trouble, the most frequent first, with one example."""
    found = list(problems)
    examples = {problem.kind: problem.said for problem in reversed(found)}
    told = []
    for kind, count in Counter(problem.kind for problem in found).most_common():
        example = f", such as {examples[kind]}" if examples[kind] else ""
        told.append(f"{count} × {kind}{example}")
    return "; ".join(told)


def rate(asks: Sequence[Ask], endpoint: Endpoint, file: VerdictFile, meter: Meter) -> Outcome:
    """Get the verdicts that `file` does not have yet, and add them to it as they come.

    Raises:
        Stopped: see `Endpoint.send`, and when `meter` is spent; what came is in the file.
    """
    todo = list({ask.key: ask for ask in asks if ask.key not in file.ratings}.values())
    problems: dict[str, Problem] = {}
    stop = threading.Event()

    def work(one: Ask) -> Problem | None:
        try:
            return _verdict(one, endpoint, file, meter, stop)
        except BaseException:
            stop.set()
            raise

    bar = tqdm(total=len(todo), desc="Judging", unit=" verdicts", disable=not todo)
    with bar, ThreadPoolExecutor(endpoint.concurrency) as pool:
        futures = {pool.submit(work, one): one for one in todo}
        try:
            for future in as_completed(futures):
                problem = future.result()
                if problem:
                    problems[futures[future].key] = problem
                    bar.set_postfix(missing=len(problems))
                bar.update()
        except BaseException:
            # Requests in flight are waited for: what they cost is in the file.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    ratings = {one.key: file.ratings[one.key] for one in asks if one.key in file.ratings}
    return Outcome(ratings, problems)


def _verdict(
    one: Ask, endpoint: Endpoint, file: VerdictFile, meter: Meter, stop: threading.Event
) -> Problem | None:
    """Ask until a rating comes and keep every reply; why none came, None where one did."""
    problem: Problem | None = Problem("stopped")
    for _ in range(ATTEMPTS):
        if stop.is_set():
            break
        if meter.spent_all:
            raise Stopped(meter.sentence())
        reply = endpoint.send(one.messages)
        problem = reply.problem
        if reply.final:
            break
        if not problem:
            rating = parse_rating(reply.text)
            meter.add(reply.tokens_in, reply.tokens_out, counted=reply.counted)
            file.keep(_kept(one, reply, rating))
            if rating is not None:
                return None
            problem = Problem("no single [[n]]", repr(endpoint.safe(reply.text)))
    return problem


def _kept(one: Ask, reply: Reply, rating: float | None) -> KeptReply:
    return KeptReply(
        key=one.key,
        question=one.question,
        turn=one.turn + 1,
        repeat=one.repeat + 1,
        rating=rating,
        reply=reply.text,
        model=reply.model,
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
    )
