"""A file of conversations -> the tokenised dataset the trainer reads, counted on the way.

Rows are streamed from the file into an Arrow cache and mapped there, so memory does not grow with
the file; the cache is found again by content (the file's hash, tokenizer, settings), so a continued
run does not tokenise twice.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctx_tasks.errors import UserError
from training import files
from training.data.messages import read_messages
from training.tuning import labels

if TYPE_CHECKING:
    from datasets import Dataset


def tokenised(
    path: Path | str,
    tokenizer: Any,
    *,
    indicator: str | None = None,
    assistant_only: bool = False,
    processes: int | None = None,
) -> Dataset:
    """One row a conversation: `input_ids`, `labels` and the counts `tokens`, `in_loss`, `marked`.

    Args:
        path: `.jsonl`, `.json`, `.parquet` or a folder of those, with a `messages` column.
        tokenizer: with chat template, and with the indicator as a token if there is one.
        indicator: the token that ends the selected user turns.
        assistant_only: whether the loss leaves out all but the assistant's turns.
        processes: how many tokenise; None or 1 is this one.

    Raises:
        UserError: no conversation, another format, or an indicator that ends no turn.
    """
    conversations = _conversations(Path(path))
    indicator_id = tokenizer.convert_tokens_to_ids(indicator) if indicator else None
    dataset = conversations.map(
        functools.partial(
            _example,
            tokenizer=tokenizer,
            indicator=indicator,
            indicator_id=indicator_id,
            assistant_only=assistant_only,
        ),
        with_indices=True,
        remove_columns=conversations.column_names,
        num_proc=processes,
        desc="Tokenising conversations",
    )
    if indicator and not sum(dataset["marked"]):
        raise UserError(
            f"indicator={indicator!r} ends no user turn of {path}: give a file in which `ctx-train "
            "select` selected some (with a lower --beta, or --top 0.1), or set indicator=null."
        )
    return dataset


def summary(dataset: Dataset, limit: int | None) -> dict[str, int]:
    """What `tokenised` gave, in numbers; `cut` conversations are longer than `limit` tokens."""
    lengths = dataset["tokens"]
    return {
        "conversations": len(dataset),
        "tokens": sum(lengths),
        "tokens_in_loss": sum(dataset["in_loss"]),
        "turns_with_indicator": sum(dataset["marked"]),
        "cut": sum(length > limit for length in lengths) if limit else 0,
    }


def _conversations(path: Path) -> Dataset:
    from datasets import Dataset, Features, Value
    from datasets.exceptions import DatasetGenerationError

    text = Value("string")
    # The hashes are there for the cache alone: a changed file must not find its old rows.
    hashes = [entry["sha256"] for entry in files.describe(path)]
    try:
        return Dataset.from_generator(
            _rows,
            features=Features({"messages": [{"role": text, "content": text}]}),
            gen_kwargs={"path": str(path), "hashes": hashes},
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def _rows(path: str, hashes: list[str]) -> Iterator[dict[str, Any]]:
    read = False
    for messages in read_messages(path):
        read = True
        yield {"messages": [{"role": m["role"], "content": m["content"]} for m in messages]}
    if not read:
        raise UserError(f"data.path={path} holds no conversation; see `ctx-train prepare`.")


def _example(
    row: dict[str, Any], index: int, tokenizer: Any, indicator_id: int | None, **keywords: Any
) -> dict[str, Any]:
    try:
        example = labels.example(tokenizer, row["messages"], **keywords)
    except UserError as error:
        raise UserError(f"Row {index + 1} of the data: {error}") from error
    ids, targets = example["input_ids"], example["labels"]
    return {
        **example,
        "tokens": len(ids),
        "in_loss": len(targets) - targets.count(labels.IGNORED),
        "marked": sum(token == indicator_id for token in ids),
    }
