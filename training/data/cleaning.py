"""Messages -> clean messages, as the paper prepared its data. Pure functions.

Source: section 5.1.2 of arXiv 2411.02688, which follows Vicuna (`fastchat.data.clean_sharegpt`,
`fastchat.data.split_long_conversation`), removes refusals from ShareGPT and WizardLM, and removes
responses without a user instruction before them everywhere.

A step takes the messages of one conversation and returns fewer or rewritten ones; none left means
that the conversation is dropped. The steps keep Vicuna's order and its rules, with these
differences:

- HTML: `html_to_markdown` is fschat's own function, but it is called only on a conversation that
  looks like an HTML export (`is_html_export`). Vicuna calls it on everything, which on the
  published ShareGPT_V3 file (cleaned already) escapes Markdown a second time, joins paragraphs and
  deletes tags inside code. fschat's driver `clean_html_all` is not used: it holds the file in
  memory and keeps no account of what it drops.
- Responses at the start: all are removed, and a system message before them stays; Vicuna removes
  the first message only, whatever its role.
- Refusals: the response goes together with the instruction it answers.
- Splitting: fschat's `split_one_sample` loses the last round of a conversation when that round
  overflows, and makes an empty piece when the first one does; `split_rounds` keeps every round.

Not handled: languages (no filter).
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

from ctx_tasks.errors import UserError
from training.data.formats import Messages

Step = Callable[[Messages], Messages]
Patterns = tuple[re.Pattern[str], ...]

REFUSALS = Path(__file__).parents[1] / "refusals.txt"
REFUSAL_WINDOW = 300
MIN_CHARACTERS = 16
# Vicuna's allowance for the template around a message.
MESSAGE_OVERHEAD = 6

_EXPORT_TAG = re.compile(r"\s*<(div|p|span|ol|ul|pre|h[1-6]|table|blockquote)\b[^>]*>", re.I)
_COPY_MARK = re.compile(r"Copy code|Copy\d+ chars / \d+ words")


def drop_orphan_responses(messages: Messages) -> Messages:
    """Without the responses that come before the first instruction; a system message stays."""
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    first = users[0] if users else len(messages)
    return [m for i, m in enumerate(messages) if i >= first or m["role"] == "system"]


def drop_unanswered(messages: Messages) -> Messages:
    """Without the instructions after the last response."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "user":
        end -= 1
    return messages[:end]


def require_alternation(messages: Messages) -> Messages:
    """`messages` if they are [system,] user, assistant, user, assistant, ...; else none of them."""
    start = 1 if messages and messages[0]["role"] == "system" else 0
    expected = ("user", "assistant")
    turns = messages[start:]
    alternate = all(m["role"] == expected[i % 2] for i, m in enumerate(turns))
    return messages if alternate and len(turns) % 2 == 0 else []


def drop_blocked(messages: Messages) -> Messages:
    """None of them if one contains a word Vicuna blocks (`openai`, `chatgpt`)."""
    from fastchat.data.clean_sharegpt import contain_blocked_words

    return [] if any(contain_blocked_words(m["content"]) for m in messages) else messages


def is_html_export(messages: Messages) -> bool:
    """Whether the conversation was saved from a browser as HTML.

    So it is if at least half of the responses begin with an HTML block tag, or one shows the text
    of the site's copy buttons. HTML that a conversation merely talks about does not count.
    """
    responses = [m["content"] for m in messages if m["role"] == "assistant"]
    tagged = sum(_EXPORT_TAG.match(text) is not None for text in responses)
    copied = any(_COPY_MARK.search(text) for text in responses)
    return copied or (tagged > 0 and 2 * tagged >= len(responses))


def clean_html(messages: Messages) -> Messages:
    """Vicuna's `html_to_markdown` on every message of an HTML export, the rest as it is.

    None of them if the markup cannot be parsed (Vicuna's error code 4).
    """
    if not is_html_export(messages):
        return messages
    from bs4.builder import ParserRejectedMarkup
    from fastchat.data.clean_sharegpt import html_to_markdown

    try:
        return [{**m, "content": html_to_markdown(m["content"])} for m in messages]
    except (ParserRejectedMarkup, AssertionError, RecursionError):
        return []


def cut_at_empty(messages: Messages) -> Messages:
    """The whole rounds before the first empty turn, as Vicuna does.

    Empty is also a turn that begins with an unprintable character. An empty system message is
    removed alone.
    """
    kept = [m for m in messages if m["role"] != "system" or m["content"].strip()]
    empty = (i for i, m in enumerate(kept) if _is_empty(m["content"]))
    end = next(empty, len(kept))
    return kept if end == len(kept) else drop_unanswered(kept[:end])


def _is_empty(content: str) -> bool:
    text = content.strip()
    return not text or not text[0].isprintable()


def drop_short(messages: Messages) -> Messages:
    """None of them if all together have fewer than 16 characters, Vicuna's limit."""
    return messages if sum(len(m["content"]) for m in messages) >= MIN_CHARACTERS else []


def load_patterns(path: str | Path = REFUSALS) -> Patterns:
    """The regular expressions of a pattern file, one a line (`refusals.txt` says how they match).

    Raises UserError naming the line that is not a regular expression, or a file without any.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no pattern file {path}: copy {REFUSALS.name} and edit it.")
    lines = path.read_text(encoding="utf-8").splitlines()
    patterns = tuple(
        _pattern(line, path, number)
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#")
    )
    if not patterns:
        raise UserError(f"{path} holds no pattern: add one, or pass --no-refusals.")
    return patterns


def _pattern(line: str, path: Path, number: int) -> re.Pattern[str]:
    try:
        return re.compile(line, re.IGNORECASE)
    except re.error as error:
        raise UserError(
            f"Line {number} of {path} is not a regular expression ({error}): mend or remove it."
        ) from error


def is_refusal(response: str, patterns: Patterns) -> bool:
    """Whether one of `patterns` is found in the first 300 characters of `response`."""
    opening = response.lstrip()[:REFUSAL_WINDOW].replace("’", "'")
    return any(pattern.search(opening) for pattern in patterns)


def drop_refusals(messages: Messages, patterns: Patterns) -> Messages:
    """Without the responses that refuse and the instructions they answer."""
    kept: Messages = []
    for message in messages:
        if message["role"] == "assistant" and is_refusal(message["content"], patterns):
            if kept and kept[-1]["role"] == "user":
                kept.pop()
        else:
            kept.append(message)
    return kept


# Why a step changed or dropped a conversation, in the words of the report.
REASONS = {
    "orphans": "response without an instruction",
    "unanswered": "instruction without a response",
    "alternation": "roles do not alternate",
    "blocked_words": "blocked words",
    "clean_html": "HTML",
    "empty": "empty turn",
    "short": "too short",
    "refusals": "refusal",
    "dedup": "duplicate",
    "split": "split",
}
_VICUNA_ONLY = ("blocked_words", "clean_html", "short", "split")


@dataclass(frozen=True)
class Switches:
    """Which steps run. None: as the paper did for the format of the row.

    That is all of them for ShareGPT; for instruction pairs all but Vicuna's own (blocked words,
    HTML, shortness, splitting); for `messages` (UltraChat-200k) refusals stay as well.
    """

    orphans: bool | None = None
    unanswered: bool | None = None
    alternation: bool | None = None
    blocked_words: bool | None = None
    clean_html: bool | None = None
    empty: bool | None = None
    short: bool | None = None
    refusals: bool | None = None
    dedup: bool | None = None
    split: bool | None = None

    def resolve(self, source_format: str) -> dict[str, bool]:
        """Every step's name -> whether it runs on rows of `source_format`."""
        return {field.name: self._runs(field.name, source_format) for field in fields(self)}

    def _runs(self, name: str, source_format: str) -> bool:
        wanted: bool | None = getattr(self, name)
        if wanted is not None:
            return wanted
        if name in _VICUNA_ONLY:
            return source_format == "sharegpt"
        return name != "refusals" or source_format != "messages"


def cleaning_steps(switches: Switches, patterns: Patterns, source_format: str) -> dict[str, Step]:
    """The steps on one conversation that run for `source_format`, by name, in Vicuna's order."""
    steps: dict[str, Step] = {
        "orphans": drop_orphan_responses,
        "unanswered": drop_unanswered,
        "alternation": require_alternation,
        "blocked_words": drop_blocked,
        "clean_html": clean_html,
        "empty": cut_at_empty,
        "short": drop_short,
        "refusals": functools.partial(drop_refusals, patterns=patterns),
    }
    runs = switches.resolve(source_format)
    return {name: step for name, step in steps.items() if runs[name]}


@dataclass(frozen=True)
class Cleaned:
    """What the steps made of a conversation.

    `changes` counts the messages each step removed or rewrote; `dropped_by` is the step after which
    nothing was left (`no messages` if nothing was there to begin with).
    """

    messages: Messages
    changes: dict[str, int]
    dropped_by: str | None = None


def clean(messages: Messages, steps: dict[str, Step]) -> Cleaned:
    """Run `steps` in order until nothing but a system message is left."""
    changes: dict[str, int] = {}
    if not _has_turns(messages):
        return Cleaned([], changes, "no messages")
    for name, step in steps.items():
        after = step(messages)
        if not _has_turns(after):
            return Cleaned([], changes, name)
        if after != messages:
            changes[name] = _difference(messages, after)
        messages = after
    return Cleaned(messages, changes)


def _has_turns(messages: Messages) -> bool:
    return any(message["role"] != "system" for message in messages)


def _difference(before: Messages, after: Messages) -> int:
    if len(before) != len(after):
        return len(before) - len(after)
    return sum(old != new for old, new in zip(before, after, strict=True))


def opening_digest(messages: Messages) -> bytes:
    """16 bytes that are equal for conversations with the same first instruction and response.

    Vicuna's notion of a duplicate: the same chat shared again, shorter or longer.
    """
    digest = hashlib.blake2b(digest_size=16)
    for message in [m for m in messages if m["role"] != "system"][:2]:
        text = message["content"].encode("utf-8")
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.digest()


def split_rounds(
    messages: Messages, lengths: Sequence[int], max_length: int
) -> list[tuple[int, Messages]]:
    """Cut a conversation into pieces of whole rounds of at most `max_length` tokens.

    `lengths` are the tokens of each message, what the template adds included. A piece is as long as
    fits, each begins with the system message where there is one, and a single round that is longer
    than `max_length` is a piece of its own. Returns (index of the first message, messages) of each
    piece; all messages are in exactly one.
    """
    head = messages[:1] if messages[0]["role"] == "system" else []
    overhead = lengths[0] if head else 0
    pieces: list[tuple[int, Messages]] = []
    used = max_length
    for start, end in _rounds(messages, len(head)):
        size = sum(lengths[start:end])
        if used + size > max_length or not pieces:
            pieces.append((start, list(head)))
            used = overhead
        pieces[-1][1].extend(messages[start:end])
        used += size
    return pieces


def _rounds(messages: Messages, start: int) -> Iterator[tuple[int, int]]:
    """(first, past the last) message index of every round; a round begins with an instruction."""
    number = 0
    keys = []
    for message in messages[start:]:
        number += message["role"] == "user"
        keys.append(number)
    for _, group in groupby(range(len(keys)), key=keys.__getitem__):
        indices = list(group)
        yield start + indices[0], start + indices[-1] + 1
