"""A judge model rates answers: requests, strict reading of `[[n]]`, retries, one verdict each.

Any endpoint that speaks OpenAI's chat completions, through the `openai` client: it waits and tries
again after rate limits (as long as `Retry-After` says), server errors, timeouts and broken
connections. Temperature 0. The key is read from the environment where the client is made and is
nowhere else: replies and error texts are searched for it before they are kept or shown.

A reply without exactly one rating is asked for again and then counts as missing, never as a score.
Divergence from FastChat, which takes the first of several ratings, or a single-bracketed number.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

import msgspec
from tqdm import tqdm

from ctx_tasks.errors import UserError
from ctx_tasks.judge.cost import Meter
from ctx_tasks.judge.replies import KeptReply, VerdictFile

KEY = "OPENAI_API_KEY"
URL = "OPENAI_BASE_URL"
DEFAULT_URL = "https://api.openai.com/v1"
LOWEST, HIGHEST = 1.0, 10.0
# How often an answer is put to the judge before its rating is missing.
ATTEMPTS = 3
_RATING = re.compile(r"\[\[\s*(-?\d+(?:\.\d+)?)\s*\]\]")
# Answers that every further request would get, too.
_HOPELESS = (401, 403, 404)


@dataclass(frozen=True)
class Options:
    """How to ask; `judge_NAME` in a run's --metadata, `--NAME` of `ctx-eval judge`.

    Attributes:
        base_url: None for OPENAI_BASE_URL, or OpenAI's own.
        repeats: verdicts an answer; their median counts.
        max_tokens: longest reply.
        concurrency: requests at a time.
        timeout: seconds to wait for a reply.
        retries: attempts after a rate limit, server error or broken connection.
        price_in, price_out: dollars per million tokens.
        max_cost: dollars; needs both prices.
        yes: do not ask before the first request.

    Raises:
        UserError: any value out of range.
    """

    model: str
    base_url: str | None = None
    repeats: int = 1
    max_tokens: int = 2048
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 6
    price_in: float | None = None
    price_out: float | None = None
    max_cost: float | None = None
    yes: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise UserError(f"The judge's model is a name such as gpt-4, but got {self.model!r}.")
        if not isinstance(self.yes, bool):
            raise UserError(f"The judge's yes is true or false, but got {self.yes!r}.")
        for name in ("repeats", "max_tokens", "concurrency"):
            _whole(name, getattr(self, name), least=1)
        _whole("retries", self.retries, least=0)
        for name in ("timeout", "price_in", "price_out", "max_cost"):
            _positive(name, getattr(self, name))
        if self.max_cost is not None and (self.price_in is None or self.price_out is None):
            raise UserError(
                "The judge's max_cost needs price_in and price_out, dollars per million tokens, "
                "from the provider's price list."
            )
        _check_url(self.url)

    @property
    def url(self) -> str:
        """The endpoint, such as http://localhost:8000/v1."""
        return str(self.base_url or os.environ.get(URL) or DEFAULT_URL).rstrip("/")

    def identity(self) -> dict[str, Any]:
        """What a verdict depends on beside the messages."""
        return {
            "model": self.model,
            "base_url": self.url,
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }


def options(given: dict[str, Any]) -> Options:
    """`Options` of `judge_*` settings without that prefix.

    Raises:
        UserError: an unknown name, or any value out of range.
    """
    known = [field.name for field in fields(Options)]
    unknown = sorted(given.keys() - set(known))
    if unknown:
        # The value is not shown: it may be a key.
        raise UserError(
            f"judge_{unknown[0]} is not known; there are judge_{', judge_'.join(known)}, and the "
            f"key is read from the environment variable {KEY}."
        )
    return Options(**given)


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
    and two different numbers do not.
    """
    found = {float(number) for number in _RATING.findall(text)}
    if len(found) != 1:
        return None
    [rating] = found
    return rating if LOWEST <= rating <= HIGHEST else None


class Stopped(UserError):
    """No further request makes sense: a wrong key, an unknown model, money spent."""


@dataclass(frozen=True)
class Reply:
    """What came back. `problem` says why there is no text; `final`: another try is no use."""

    text: str = ""
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    problem: str = ""
    final: bool = False


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Body(msgspec.Struct):
    choices: list[_Choice]
    model: str = ""
    usage: _Usage | None = None


class Endpoint:
    """The judge behind its client. Safe to use from several threads.

    Raises:
        UserError: no `openai` package, or OpenAI's own endpoint without a key.
    """

    def __init__(self, settings: Options) -> None:
        try:
            import openai
        except ImportError as error:
            raise UserError(
                "Judging needs the openai package: pip install 'lm-eval-ctx[judge]'."
            ) from error
        self._openai, self._settings = openai, settings
        self._key = require_key(settings)
        self._client = openai.OpenAI(
            # Local servers want none, but the client insists.
            api_key=self._key or "none",
            base_url=settings.url,
            max_retries=settings.retries,
            timeout=settings.timeout,
        )
        self.concurrency = settings.concurrency
        self._answered = False

    def send(self, messages: list[dict[str, str]]) -> Reply:
        """One reply, after the client's own retries.

        Raises:
            Stopped: the endpoint refuses or cannot be reached, and would the next time.
        """
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=self._settings.model,
                messages=messages,  # type: ignore[arg-type]
                temperature=0,
                max_tokens=self._settings.max_tokens,
            )
        except self._openai.APIError as error:
            failure = error
        else:
            self._answered = True
            return self._read(raw.http_response.content)
        # Outside the handler: an error chained to ours could show what the server echoed.
        return self._failed(failure)

    def _failed(self, error: Any) -> Reply:
        if isinstance(error, self._openai.APIStatusError):
            return self._refused(error)
        if isinstance(error, self._openai.APITimeoutError):
            return Reply(problem=f"no reply within {self._settings.timeout:g} s", final=True)
        return self._unreachable(error)

    def _refused(self, error: Any) -> Reply:
        said = f"HTTP {error.status_code}: {self.safe(error.response.text)}"
        if error.status_code in _HOPELESS or error.code == "insufficient_quota":
            raise Stopped(
                f"The judge at {self._settings.url} refuses model {self._settings.model} ({said}); "
                f"check {KEY}, the model's name and the account."
            )
        return Reply(problem=said, final=True)

    def _unreachable(self, error: Exception) -> Reply:
        said = self.safe(f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}")
        if not self._answered:
            raise Stopped(
                f"The judge at {self._settings.url} cannot be reached ({said}); start it, or give "
                "its base URL."
            )
        return Reply(problem=said, final=True)

    def _read(self, content: bytes) -> Reply:
        try:
            body = msgspec.json.decode(content, type=_Body)
            text = body.choices[0].message.content or ""
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError):
            shown = self.safe(content[:200].decode("utf-8", "replace"))
            return Reply(problem=f"no chat completion: {shown or 'an empty body'}")
        usage = body.usage or _Usage()
        tokens = usage.prompt_tokens, usage.completion_tokens
        return Reply(self._without_key(text), self._without_key(body.model), *tokens)

    def safe(self, text: str) -> str:
        """`text` for a message: on one line, short, printable, without the key."""
        line = " ".join(self._without_key(text).split())
        shown = "".join(character if character.isprintable() else "?" for character in line)
        return shown if len(shown) <= 160 else f"{shown[:159]}…"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def require_key(settings: Options) -> str:
    """The key of the environment; empty where there is none and the endpoint may not want one.

    Raises:
        UserError: OpenAI's own endpoint without a key.
    """
    key = os.environ.get(KEY, "").strip()
    if not key and settings.url == DEFAULT_URL:
        raise UserError(
            f"{DEFAULT_URL} needs a key: set the environment variable {KEY}, or give another base "
            "URL."
        )
    return key


@dataclass(frozen=True)
class Outcome:
    """Ratings by key, and of those that are missing the reason."""

    ratings: dict[str, float]
    problems: dict[str, str]


def rate(asks: Sequence[Ask], endpoint: Endpoint, file: VerdictFile, meter: Meter) -> Outcome:
    """Get the verdicts that `file` does not have yet, and add them to it as they come.

    Raises:
        Stopped: see `Endpoint.send`, and when `meter` is spent; what came is in the file.
    """
    todo = list({ask.key: ask for ask in asks if ask.key not in file.ratings}.values())
    problems: dict[str, str] = {}
    stop = threading.Event()

    def work(one: Ask) -> str:
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
                if future.result():
                    problems[futures[future].key] = future.result()
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
) -> str:
    """Ask until a rating comes and keep every reply; why none came, empty where one did."""
    problem = "stopped"
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
            meter.add(reply.tokens_in, reply.tokens_out)
            file.keep(_kept(one, reply, rating))
            if rating is not None:
                return ""
            problem = f"no single [[n]] in {endpoint.safe(reply.text) or 'an empty reply'!r}"
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


def _whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(
            f"The judge's {name} is a whole number of at least {least}, but got {value!r}."
        )


def _positive(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < float("inf")):
        raise UserError(f"The judge's {name} is a number above 0, but got {value!r}.")


def _check_url(url: str) -> None:
    """Only scheme, host, port and path: what is recorded and shown must hold no secret."""
    try:
        parts = urlsplit(url)
        secret = parts.username or parts.password or parts.query or parts.fragment
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine, secret = False, "?"
    if secret or not fine:
        # The URL is not shown: it may hold a key.
        raise UserError(
            "The judge's base URL is http(s)://HOST[:PORT]/PATH and nothing else, such as "
            f"http://localhost:8000/v1; a key goes into the environment variable {KEY}."
        )
