"""The documents a report shows in full: which, and in how few bytes.

A page cannot hold 30 rows of 10,000 documents. Per checkpoint and column those come first that say
most: where raw and chat differ, then where any two arms differ, then what all arms miss, then the
rest; before all of them those of which a sweep measured where the answers looked. Checkpoints and
columns take turns until the page's budget of bytes is spent, and the page says how many of how many
it shows. Every text is stored once, long ones without their middle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from ctx_tasks.arm import CHAT, RAW
from ctx_tasks.leaderboard.board import Row
from ctx_tasks.leaderboard.curves import Read
from ctx_tasks.looks import Look
from ctx_tasks.looks import read as read_looks
from ctx_tasks.report.looks import Coloured, coloured, darkest
from ctx_tasks.report.prompts import Piece, Prompt, segment, shorten, shortened
from ctx_tasks.result_files import attention_file
from ctx_tasks.results import Samples, TaskResult, read_documents

BUDGET = 1_500_000
# More of one checkpoint and column than this nobody reads; it bounds what is read from disk too.
MOST = 40
_QUESTION = 160
# The bytes of numbers and brackets about a document and about an answer, generously.
_DOCUMENT_BYTES, _ANSWER_BYTES = 60, 60


@dataclass(frozen=True)
class _Answer:
    row: int
    score: float | None
    output: list[Piece]
    prompt: Prompt
    look: Coloured | None = None


@dataclass(frozen=True)
class _Document:
    """A document; `darkest` is the share of a token with the last colour, 0 without looks."""

    question: str
    target: str
    answers: list[_Answer]
    darkest: float


@dataclass
class _Texts:
    """Every text once, by number, and the bytes they take in the page."""

    numbers: dict[str, int] = field(default_factory=dict)
    size: int = 0

    def number(self, text: str) -> int:
        if text not in self.numbers:
            self.size += _cost(text)
            self.numbers[text] = len(self.numbers)
        return self.numbers[text]


@dataclass(frozen=True)
class _Group:
    """A checkpoint and column: the rows that have it, and its documents, the best to show first."""

    checkpoint: str
    column: str
    rows: list[int]
    total: int
    differing: int
    scale: bool
    ranking: list[str]
    looks: dict[int, dict[str, Look]]


def collect(rows: Sequence[Row], columns: Sequence[str], read: Read) -> dict[str, Any]:
    """`{"texts": [...], "groups": [...]}` for the page's script, within `BUDGET` bytes."""
    groups = [
        group
        for checkpoint in dict.fromkeys(row.checkpoint for row in rows)
        for column in columns
        for group in _groups(rows, checkpoint, column, read)
    ]
    documents = [_documents(rows, group) for group in groups]
    texts, size = _Texts(), 0
    shown: list[list[dict[str, Any]]] = [[] for _ in groups]
    for turn in zip_longest(*documents):
        for place, document in enumerate(turn):
            cost = _size(document, texts) if document is not None else 0
            if document is not None and size + cost + texts.size <= BUDGET:
                size += _bare_size(document)
                shown[place].append(_plain(document, texts))
    return {
        "texts": list(texts.numbers),
        "groups": [_group(group, found) for group, found in zip(groups, shown, strict=True)],
    }


# ---- which ---------------------------------------------------------------------------------------


def _groups(rows: Sequence[Row], checkpoint: str, column: str, read: Read) -> list[_Group]:
    """One group; none without samples."""
    found = {
        place: samples
        for place, row in enumerate(rows)
        if row.checkpoint == checkpoint
        for samples in [read(row, column)]
        if samples is not None
    }
    if not found:
        return []
    hashes = list(dict.fromkeys(h for samples in found.values() for h in samples.doc_hashes))
    scores = np.stack([_scores(rows[place], column, found[place], hashes) for place in found])
    spread = np.nan_to_num(np.fmax.reduce(scores) - np.fmin.reduce(scores))
    arms = [rows[place].arm for place in found]
    pairs = ((RAW.begun, CHAT.begun), (RAW, CHAT))
    taxed = next((pair for pair in pairs if set(pair) <= set(arms)), None)
    raw, chat = (scores[arms.index(arm)] for arm in taxed) if taxed else (spread, np.zeros(1))
    tax = np.nan_to_num(np.abs(raw - chat))
    # Ties keep the file's order.
    order = np.lexsort((np.fmax.reduce(scores), -spread, -tax))
    known = scores[~np.isnan(scores)]
    scale = bool(len(known) and known.min() >= 0 and known.max() <= 1)
    differing = int((spread > 0).sum())
    looks = {place: _looks(rows[place].results[column]) for place in found}
    looked = {doc_hash for of_row in looks.values() for doc_hash in of_row}
    ranking = sorted((hashes[place] for place in order), key=lambda h: _bare(h) not in looked)
    places, n = list(found), len(hashes)
    return [_Group(checkpoint, column, places, n, differing, scale, ranking[:MOST], looks)]


def _looks(result: TaskResult) -> dict[str, Look]:
    """Where the answers looked, by the harness's own document hash."""
    assert result.samples_file is not None
    return read_looks(attention_file(result.samples_file, result.task))


def _bare(doc_hash: str) -> str:
    """Without what tells equal documents apart."""
    return doc_hash.partition("#")[0]


def _scores(row: Row, column: str, samples: Samples, hashes: Sequence[str]) -> np.ndarray:
    """Primary scores in the order of `hashes`; NaN where the row has no such document."""
    values = samples.scores[row.results[column].primary]
    by_hash = dict(zip(samples.doc_hashes, values, strict=True))
    return np.array([by_hash.get(doc_hash, np.nan) for doc_hash in hashes])


# ---- what of each --------------------------------------------------------------------------------


def _documents(rows: Sequence[Row], group: _Group) -> list[_Document]:
    """The group's documents in the order of its ranking."""
    wanted = set(group.ranking)
    lines: dict[str, dict[int, dict[str, Any]]] = {doc_hash: {} for doc_hash in group.ranking}
    for place in group.rows:
        for line in read_documents(rows[place].results[group.column], wanted):
            lines[line["doc_hash"]][place] = line
    return [_document(rows, group, found) for found in lines.values() if found]


def _document(rows: Sequence[Row], group: _Group, lines: dict[int, dict[str, Any]]) -> _Document:
    first = next(iter(lines.values()))
    doc = _doc(first)
    raw = next((_prompt(line) for place, line in lines.items() if _is_raw(rows[place])), None)
    target = _text(first.get("target"))
    keep = [text for text in (_text(doc.get("needle")), target) if text]
    looks = {
        place: look
        for place, line in lines.items()
        for look in [group.looks[place].get(_bare(line["doc_hash"]))]
        if look is not None
    }
    top = darkest(list(looks.values()))
    answers = [
        _answer(place, rows[place], line, group, raw, keep, looks.get(place), top)
        for place, line in lines.items()
    ]
    return _Document(_question(doc, first), target[: 4 * _QUESTION], answers, top)


def _is_raw(row: Row) -> bool:
    return not row.arm.chat and not row.arm.prefix and not row.arm.indicator


def _answer(
    place: int,
    row: Row,
    line: Mapping[str, Any],
    group: _Group,
    raw: str | None,
    keep: Sequence[str],
    look: Look | None,
    top: float,
) -> _Answer:
    arm, doc = row.arm, _doc(line)
    prompt = segment(_prompt(line), chat=arm.chat, raw=raw, indicator=arm.indicator, doc=doc)
    shown = shortened(prompt.pieces, keep)
    score = line.get(row.results[group.column].primary)
    known = isinstance(score, (int, float)) and np.isfinite(score)
    return _Answer(
        place,
        round(float(score), 4) if known else None,  # type: ignore[arg-type]
        shorten([("p", _output(line))]),
        Prompt(shorten(prompt.pieces, keep), prompt.found),
        None if look is None else coloured(look, _prompt(line), shown, top),
    )


def _doc(line: Mapping[str, Any]) -> dict[str, Any]:
    doc = line.get("doc")
    return doc if isinstance(doc, dict) else {}


def _prompt(line: Mapping[str, Any]) -> str:
    """What the model saw: the first argument of its first request."""
    try:
        return _text(line["arguments"]["gen_args_0"]["arg_0"])
    except (LookupError, TypeError):
        return ""


def _output(line: Mapping[str, Any]) -> str:
    """The answer; of several (turns, repeats, choices with their log-likelihoods) one a line."""
    found = line.get("filtered_resps")
    parts = [_text(part) for part in found] if isinstance(found, list) else [_text(found)]
    if len(parts) < 2:
        return "".join(parts)
    names = [_choice(line, number) for number in range(len(parts))]
    return "\n".join(f"{name}: {part}" for name, part in zip(names, parts, strict=True))


def _choice(line: Mapping[str, Any], number: int) -> str:
    """The text whose likelihood was asked for; else the answer's number."""
    arguments = line.get("arguments")
    given = arguments.get(f"gen_args_{number}") if isinstance(arguments, dict) else None
    text = given.get("arg_1") if isinstance(given, dict) else None
    return text.strip() if isinstance(text, str) else str(number + 1)


def _question(doc: Mapping[str, Any], line: Mapping[str, Any]) -> str:
    turns = doc.get("turns")
    first = turns[0] if isinstance(turns, list) and turns else ""
    text = " ".join((_text(doc.get("question") or first) or _prompt(line)).split())
    text = text if len(text) <= _QUESTION else f"{text[: _QUESTION - 1]}…"
    # The needle test asks one question everywhere.
    place = [doc.get("length"), doc.get("depth")]
    known = all(isinstance(number, int) for number in place)
    return f"{text} ({place[0]} tokens, depth {place[1]} %)" if known else text


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


# ---- in how few bytes ----------------------------------------------------------------------------


def _plain(document: _Document, texts: _Texts) -> dict[str, Any]:
    found = {
        "question": texts.number(document.question),
        "target": texts.number(document.target),
        "answers": [_plain_answer(answer, texts) for answer in document.answers],
    }
    return {**found, "darkest": document.darkest} if document.darkest else found


def _plain_answer(answer: _Answer, texts: _Texts) -> list[Any]:
    found = [
        answer.row,
        answer.score,
        [[kind, texts.number(text)] for kind, text in answer.output],
        answer.prompt.found,
        [[kind, texts.number(text)] for kind, text in answer.prompt.pieces],
    ]
    return found if answer.look is None else [*found, answer.look.plain()]


def _group(group: _Group, documents: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "checkpoint": group.checkpoint,
        "column": group.column,
        "rows": group.rows,
        "total": group.total,
        "differing": group.differing,
        "scale": group.scale,
        "documents": documents,
    }


def _size(document: _Document, texts: _Texts) -> int:
    """Bytes a document would add."""
    own = {document.question, document.target}
    own |= {text for a in document.answers for _, text in (*a.output, *a.prompt.pieces)}
    return _bare_size(document) + sum(_cost(text) for text in own - texts.numbers.keys())


def _bare_size(document: _Document) -> int:
    pieces = sum(len(a.output) + len(a.prompt.pieces) for a in document.answers)
    looks = sum(a.look.size for a in document.answers if a.look is not None)
    return _DOCUMENT_BYTES + _ANSWER_BYTES * len(document.answers) + 14 * pieces + looks


def _cost(text: str) -> int:
    """Bytes of a text in the page, where `<`, `>`, `&` and others are written as six."""
    return len(escaped(text).encode()) + 1


def escaped(value: Any) -> str:
    """JSON for a script element: no character in it can end the element or start a comment."""
    found = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        found = found.replace(character, f"\\u{ord(character):04x}")
    # Half a surrogate pair has no UTF-8.
    return found.encode("utf-8", "backslashreplace").decode()
