"""The judge's endpoint: settings, one request, and what its answers and its troubles mean.

Any endpoint that speaks OpenAI's chat completions, through the `openai` client: it waits and tries
again after rate limits (as long as `Retry-After` says), server errors, timeouts and broken
connections. Temperature 0. The key is read from the environment where the client is made and is
nowhere else: replies and error texts are searched for it before they are kept or shown.

The client's own timeout begins anew with every byte, so that a reply that drips would never end;
here it is one for the whole reply. A reply that says no `usage` is counted from its length.
"""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from ctx_tasks.errors import UserError
from ctx_tasks.judge.cost import tokens

KEY = "OPENAI_API_KEY"
URL = "OPENAI_BASE_URL"
DEFAULT_URL = "https://api.openai.com/v1"
LOWEST, HIGHEST = 1.0, 10.0
# Answers that every further request would get, too: 402 is "payment required".
_HOPELESS = (401, 402, 403, 404)


@dataclass(frozen=True)
class Options:
    """How to ask; `judge_NAME` in a run's --metadata, `--NAME` of `ctx-eval judge`.

    Attributes:
        base_url: None for OPENAI_BASE_URL, or OpenAI's own.
        repeats: verdicts an answer; their median counts.
        max_tokens: longest reply.
        concurrency: requests at a time.
        timeout: seconds in which the whole of a reply must come.
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


class Stopped(UserError):
    """No further request makes sense: a wrong key, an unknown model, money spent."""


class Problem(NamedTuple):
    """Why there is no text, or no rating in it: what kind of trouble, and what was said."""

    kind: str
    said: str = ""


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        counted: whether the tokens are our own count, because the endpoint reported none.
        problem: why there is no text.
        final: another try is no use.
    """

    text: str = ""
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    counted: bool = False
    problem: Problem | None = None
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
    """The judge behind its client, open between `with` and its end; for several threads.

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
        self._client = openai.AsyncOpenAI(
            # Local servers want none, but the client insists.
            api_key=self._key or "none",
            base_url=settings.url,
            max_retries=settings.retries,
            timeout=None,
            http_client=_bounded(openai, settings.timeout),
        )
        self.concurrency = settings.concurrency
        self._answered = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def send(self, messages: list[dict[str, str]]) -> Reply:
        """One reply, after the client's own retries.

        Raises:
            Stopped: the endpoint refuses or cannot be reached, and would the next time.
        """
        coming = asyncio.run_coroutine_threadsafe(self._create(messages), self._loop)
        try:
            content = coming.result()
        except self._openai.APIError as error:
            failure = error
        else:
            self._answered = True
            return self._read(content, messages)
        # Outside the handler: an error chained to ours could show what the server echoed.
        return self._failed(failure)

    async def _create(self, messages: list[dict[str, str]]) -> bytes:
        raw = await self._client.chat.completions.with_raw_response.create(
            model=self._settings.model,
            messages=messages,  # type: ignore[arg-type]
            temperature=0,
            max_tokens=self._settings.max_tokens,
        )
        return bytes(raw.http_response.content)

    def _failed(self, error: Any) -> Reply:
        if isinstance(error, self._openai.APIStatusError):
            return self._refused(error)
        if isinstance(error, self._openai.APITimeoutError):
            problem = Problem(f"no whole reply within {self._settings.timeout:g} s")
            return Reply(problem=problem, final=True)
        return self._unreachable(error)

    def _refused(self, error: Any) -> Reply:
        problem = Problem(f"HTTP {error.status_code}", self.safe(error.response.text))
        if error.status_code in _HOPELESS or error.code == "insufficient_quota":
            raise Stopped(
                f"The judge at {self._settings.url} refuses model {self._settings.model} "
                f"({': '.join(problem)}); check {KEY}, the model's name and the account."
            )
        return Reply(problem=problem, final=True)

    def _unreachable(self, error: Exception) -> Reply:
        cause = error.__cause__ or error
        problem = Problem(type(cause).__name__, self.safe(str(cause)))
        if not self._answered:
            raise Stopped(
                f"The judge at {self._settings.url} cannot be reached ({': '.join(problem)}); "
                "start it, or give its base URL."
            )
        return Reply(problem=problem, final=True)

    def _read(self, content: bytes, messages: list[dict[str, str]]) -> Reply:
        try:
            body = msgspec.json.decode(content, type=_Body)
            text = body.choices[0].message.content or ""
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError):
            shown = self.safe(content[:200].decode("utf-8", "replace"))
            return Reply(problem=Problem("no chat completion", shown or "an empty body"))
        model = self._without_key(body.model)
        if body.usage and body.usage.prompt_tokens:
            used = body.usage.prompt_tokens, body.usage.completion_tokens
            return Reply(self._without_key(text), model, *used)
        counted = tokens(*(message["content"] for message in messages)), tokens(text)
        return Reply(self._without_key(text), model, *counted, counted=True)

    def safe(self, text: str) -> str:
        """`text` for a message: on one line, short, printable, without the key."""
        line = " ".join(self._without_key(text).split())
        shown = "".join(character if character.isprintable() else "?" for character in line)
        return shown if len(shown) <= 160 else f"{shown[:159]}…"

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _bounded(openai: Any, seconds: float) -> Any:
    """The client's own HTTP client, with one timeout for all of a reply."""
    base: Any = openai.DefaultAsyncHttpxClient
    # httpx, and from openai 3 on httpx2: the errors that the client tries again are its own.
    httpx = import_module(base.__base__.__module__.partition(".")[0])

    class Bounded(base):  # type: ignore[misc]
        async def send(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return await asyncio.wait_for(super().send(*args, **kwargs), seconds)
            except asyncio.TimeoutError as error:
                raise httpx.ReadTimeout(f"no whole reply within {seconds:g} s") from error

    return Bounded(timeout=None)


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
