"""`ctx-train prepare`: stream a raw chat dataset through the cleaning steps, and account for it.

Every input row is kept, changed or dropped, with the reason; the three counts sum to the input.
Output rows are `{id, source, messages}`, where `source` is the name of the dataset. Memory holds
a few hundred conversations at a time and a 16-byte digest for each that was kept (for duplicates).
Reading, cleaning and counting tokens (nine tenths of the time) are shared by processes; what
depends on the order is done in one, so any number of them gives the same bytes. A run that is
killed leaves nothing under the final name; run again, it starts over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ctx_tasks.errors import UserError
from ctx_tasks.files import require_writable
from ctx_tasks.row_writer import row_writer
from ctx_tasks.rows import Row, hub_file, hub_rows, is_hub_name, read_rows
from training import files
from training.data.cleaning import (
    MESSAGE_OVERHEAD,
    REASONS,
    Cleaned,
    Patterns,
    Step,
    Switches,
    clean,
    cleaning_steps,
    load_patterns,
    opening_digest,
    split_rounds,
)
from training.data.formats import (
    FORMATS,
    MalformedRow,
    Messages,
    detect_format,
    identity,
    to_conversation,
)
from training.data.progress import Progress
from training.data.workers import cores, ordered_map


@dataclasses.dataclass
class Preparation:
    """What became of the input, and Table 1's row for the output.

    `read` = `kept` + `changed` + `dropped`, in conversations. `changed_by` and `dropped_by` count
    conversations by reason (a changed one may have several), `messages_by` the messages a reason
    removed or rewrote. `conversations`, `instructions` and `tokens` (contents only, without the
    template) describe the output; tokens are None where no tokenizer was given. `long_rounds` are
    rounds longer than the maximum length, which no split can mend. `unread` counts rows by the
    filled columns that are not in the messages.
    """

    read: int = 0
    kept: int = 0
    changed: int = 0
    dropped: int = 0
    changed_by: Counter[str] = dataclasses.field(default_factory=Counter)
    messages_by: Counter[str] = dataclasses.field(default_factory=Counter)
    dropped_by: Counter[str] = dataclasses.field(default_factory=Counter)
    conversations: int = 0
    instructions: int = 0
    tokens: int | None = None
    long_rounds: int = 0
    unread: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def average_tokens(self) -> float | None:
        """Tokens per output conversation, None if not measured (or nothing is left)."""
        return None if self.tokens is None else self.tokens / max(self.conversations, 1)

    def counts(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {**vars(self), "average_tokens": self.average_tokens}


@dataclasses.dataclass(frozen=True)
class Fate:
    """What became of one conversation: pieces of (id, messages), none if it was dropped."""

    changes: dict[str, int]
    dropped_by: str | None
    pieces: list[tuple[str, Messages]]

    @property
    def name(self) -> str:
        """`kept`, `changed` or `dropped`."""
        if self.dropped_by is not None:
            return "dropped"
        return "changed" if self.changes else "kept"

    @property
    def reasons(self) -> list[str]:
        """Why, in words: of the dropped the one reason, of the changed all."""
        names = list(self.changes) if self.dropped_by is None else [self.dropped_by]
        return [REASONS.get(name, name) for name in names]


@dataclasses.dataclass(frozen=True)
class Read:
    """A row that was read, cleaned and measured: what can be done without the other rows."""

    id: str
    format: str
    cleaned: Cleaned
    tokens: list[int]
    unread: tuple[str, ...] = ()


class Reader:
    """Rows with their numbers -> `Read`. `tokens` are none without a tokenizer."""

    def __init__(self, switches: Switches, patterns: Patterns, tokenizer: Any = None) -> None:
        self._steps: dict[str, dict[str, Step]] = {
            name: cleaning_steps(switches, patterns, name) for name in FORMATS
        }
        self._tokenizer = tokenizer

    def __call__(self, numbered: tuple[int, Row]) -> Read:
        index, row = numbered
        try:
            conversation = to_conversation(row, index)
        except MalformedRow as reason:
            return Read(identity(row, index), "", Cleaned([], {}, f"unreadable: {reason}"), [])
        cleaned = clean(conversation.messages, self._steps[conversation.format])
        tokens = []
        if self._tokenizer is not None and cleaned.messages:
            tokens = token_counts(self._tokenizer, [m["content"] for m in cleaned.messages])
        return Read(conversation.id, conversation.format, cleaned, tokens, conversation.unread)


class Preparer:
    """What must be remembered between conversations: digests and counts.

    `tokenizer` counted the tokens and is needed to split; special-token strings in the text are
    counted as text. `max_length` is in tokens.
    """

    def __init__(self, switches: Switches, tokenizer: Any = None, max_length: int = 2048) -> None:
        self._switches = switches
        self._max_length = max_length
        self._seen: set[bytes] = set()
        self._overhead = 0
        self._measures = tokenizer is not None
        self.account = Preparation()
        if tokenizer is not None:
            self.account.tokens = 0
            self._overhead = MESSAGE_OVERHEAD + len(tokenizer("")["input_ids"])

    def run(self, read: Read) -> Fate:
        """The fate of the next row, entered in the account."""
        fate = self._fate(read)
        self.account.unread.update(read.unread)
        self._enter(fate)
        return fate

    def _fate(self, read: Read) -> Fate:
        cleaned = read.cleaned
        if cleaned.dropped_by is not None:
            return Fate({}, cleaned.dropped_by, [])
        runs = self._switches.resolve(read.format)
        if runs["dedup"] and self._is_duplicate(cleaned.messages):
            return Fate({}, "dedup", [])
        pieces = self._pieces(read, runs["split"])
        changes = dict(cleaned.changes)
        if len(pieces) > 1:
            changes["split"] = len(pieces)
        return Fate(changes, None, pieces)

    def _is_duplicate(self, messages: Messages) -> bool:
        digest = opening_digest(messages)
        duplicate = digest in self._seen
        self._seen.add(digest)
        return duplicate

    def _pieces(self, read: Read, split: bool) -> list[tuple[str, Messages]]:
        name, messages, tokens = read.id, read.cleaned.messages, read.tokens
        if not self._measures:
            return [(name, messages)]
        cut = [(0, messages)]
        if split:
            lengths = [count + self._overhead for count in tokens]
            cut = split_rounds(messages, lengths, self._max_length)
            self.account.long_rounds += _long_rounds(cut, messages, lengths, self._max_length)
        # A system message is in every piece.
        repeated = tokens[0] * (len(cut) - 1) if messages[0]["role"] == "system" else 0
        self.account.tokens = (self.account.tokens or 0) + sum(tokens) + repeated
        if len(cut) == 1:
            return [(name, messages)]
        return [(f"{name}_{start}", piece) for start, piece in cut]

    def _enter(self, fate: Fate) -> None:
        account = self.account
        account.read += 1
        setattr(account, fate.name, getattr(account, fate.name) + 1)
        if fate.dropped_by is not None:
            account.dropped_by.update(fate.reasons)
        for name, count in fate.changes.items():
            account.changed_by[REASONS[name]] += 1
            account.messages_by[REASONS[name]] += count
        account.conversations += len(fate.pieces)
        account.instructions += sum(
            message["role"] == "user" for _, messages in fate.pieces for message in messages
        )


def _long_rounds(
    cut: list[tuple[int, Messages]], messages: Messages, lengths: Sequence[int], max_length: int
) -> int:
    """How many pieces are longer than `max_length`: each is a single round."""
    head = lengths[0] if messages[0]["role"] == "system" else 0
    starts = [start for start, _ in cut] + [len(messages)]
    sizes = (head + sum(lengths[a:b]) for a, b in itertools.pairwise(starts))
    return sum(size > max_length for size in sizes)


def token_counts(tokenizer: Any, texts: list[str]) -> list[int]:
    """Tokens of each text, without BOS or EOS; special-token strings in a text are plain text."""
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )
    return [len(ids) for ids in encoded["input_ids"]]


def prepare(
    source: str,
    output: str | Path,
    *,
    switches: Switches | None = None,
    refusal_patterns: str | Path | None = None,
    tokenizer: Any = None,
    max_length: int = 2048,
    split: str = "train",
    data_file: str | None = None,
    report: str | Path | None = None,
    processes: int | None = None,
) -> Preparation:
    """Clean the dataset `source` into `output` (`.jsonl` or `.parquet`) and return the account.

    `source`: local file or folder, or a hub name (with its `split`, or one `data_file` of it).
    `report`: a `.jsonl` that gets one line for each input row: index, id, fate, reasons, outputs.
    `processes`: how many read and count; default: as many as there are cores.
    Leaves `OUTPUT.meta.json`. Raises UserError for data without known columns, for `split=True` in
    `switches` without a tokenizer, for an output that is its own input, and where no conversation
    is left (the report is written all the same).
    """
    switches = switches or Switches()
    if switches.split and tokenizer is None:
        raise UserError("--split needs a tokenizer: pass --tokenizer NAME, or --no-split.")
    if max_length < 1:
        raise UserError(f"--max-length {max_length} is below 1: give the window in tokens.")
    if processes is not None and processes < 1:
        raise UserError(f"--processes {processes} is below 1: give a number of processes.")
    patterns = load_patterns(*([] if refusal_patterns is None else [refusal_patterns]))
    local = source
    if is_hub_name(source) and data_file is not None:
        local = str(hub_file(source, data_file))
    for written in (output, report):
        if written is not None:
            files.refuse_overwrite(written, local)
            require_writable(written)
    preparer = Preparer(switches, tokenizer, max_length)
    # Without a tokenizer handing rows over takes longer than the work on them.
    count = 1 if tokenizer is None else processes or cores()
    with Progress(local) as progress:
        rows = _checked(_rows(local, split, progress), source)
        read = ordered_map(Reader(switches, patterns, tokenizer), enumerate(rows), count)
        _stream(progress.of(read), preparer, Path(output), report, Path(source).name)
    files.write_meta(
        output,
        command="ctx-train prepare",
        inputs=[local],
        settings={
            "source": source,
            "split": split,
            "data_file": data_file,
            "switches": dataclasses.asdict(switches),
            "refusal_patterns": [pattern.pattern for pattern in patterns],
            "tokenizer": getattr(tokenizer, "name_or_path", None),
            "max_length": max_length,
        },
        counts=preparer.account.counts(),
    )
    return preparer.account


def _rows(source: str, split: str, progress: Progress) -> Iterator[Row]:
    if is_hub_name(source):
        return hub_rows(source, split=split)
    return read_rows(source, progress.bytes_read)


def _checked(rows: Iterator[Row], source: str) -> Iterator[Row]:
    """`rows`, after a look at the first: wrong columns are an error before anything is written."""
    first = next(rows, None)
    if first is None:
        raise UserError(f"{source} holds no rows: give a dataset with conversations.")
    if detect_format(first) is None:
        raise UserError(
            f"{source} has the columns {', '.join(map(str, first))}, but a dataset needs "
            "messages, conversations, prompt with replies, or instruction (or input) and output "
            "(or response): rename yours."
        )
    yield first
    yield from rows


def _stream(
    rows: Iterable[Read],
    preparer: Preparer,
    output: Path,
    report: str | Path | None,
    source_name: str,
) -> None:
    with row_writer(output) as writer:
        with contextlib.ExitStack() as stack:
            log = None if report is None else stack.enter_context(row_writer(report))
            for index, read in enumerate(rows):
                fate = preparer.run(read)
                for name, messages in fate.pieces:
                    writer.write({"id": name, "source": source_name, "messages": messages})
                if log is not None:
                    log.write(_report_row(index, read.id, fate))
        _require_output(preparer.account)


def _require_output(account: Preparation) -> None:
    if account.conversations == 0:
        reasons = (f"{count} {reason}" for reason, count in account.dropped_by.most_common())
        raise UserError(
            f"None of the {account.read} conversations is left ({', '.join(reasons)}), and nothing "
            "was written: mend the rows, or switch a step off."
        )


def _report_row(index: int, identity: str, fate: Fate) -> Row:
    outputs = [name for name, _ in fate.pieces]
    return {
        "index": index,
        "id": identity,
        "fate": fate.name,
        "reasons": fate.reasons,
        "outputs": outputs,
    }


def summary(account: Preparation) -> str:
    """The account in lines for the terminal, Table 1's row last."""
    lines = [
        f"{account.read} conversations read: {account.kept} kept, {account.changed} changed, "
        f"{account.dropped} dropped."
    ]
    lines += [
        f"  changed  {count:>8}  {reason} ({account.messages_by[reason]} messages)"
        if reason != REASONS["split"]
        else f"  changed  {count:>8}  split (into {account.messages_by[reason]} pieces)"
        for reason, count in account.changed_by.most_common()
    ]
    lines += [
        f"  dropped  {count:>8}  {reason}" for reason, count in account.dropped_by.most_common()
    ]
    if account.long_rounds:
        lines.append(
            f"  {account.long_rounds} rounds are longer than the maximum length on their own."
        )
    if account.unread:
        columns = ", ".join(f"{name} ({count})" for name, count in account.unread.most_common())
        lines.append(f"  Columns that were not read, and in how many rows: {columns}.")
    return "\n".join([*lines, _table_row(account)])


def _table_row(account: Preparation) -> str:
    average = account.average_tokens
    tokens = "not measured (no --tokenizer)" if average is None else f"{average:.2f}"
    return (
        f"Table 1: {account.conversations} conversations, {account.instructions} instructions, "
        f"average tokens {tokens}."
    )
