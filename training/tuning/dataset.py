"""A file of conversations -> the tokenised dataset the trainer reads, counted on the way.

Rows are streamed from the file into an Arrow cache and mapped there, so memory does not grow with
the file; the cache is found again by content (the file's hash, tokenizer, settings), so a continued
run does not tokenise twice.
"""

from __future__ import annotations

import functools
import itertools
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
    limit: int | None = None,
    keep_end: bool = False,
) -> Dataset:
    """One row a conversation: `input_ids` and `labels`, as they are trained on, and their counts.

    The counts are `tokens`, `in_loss` and `marked` (turns with the indicator), and under `whole_…`
    those of the conversation before it was cut to `limit`.

    Args:
        path: `.jsonl`, `.json`, `.parquet` or a folder of those, with a `messages` column.
        tokenizer: with chat template, and with the indicator as a token if there is one.
        indicator: the token that ends the selected user turns.
        assistant_only: whether the loss leaves out all but the assistant's turns.
        processes: how many tokenise; None or 1 is this one.
        limit: the longest conversation in tokens; of a longer one the rest is cut off.
        keep_end: cut off the beginning instead.

    Raises:
        UserError: no conversation, another format, no token in the loss, or an indicator that ends
            no turn within the limit.
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
            kept=slice(None)
            if limit is None
            else slice(-limit, None)
            if keep_end
            else slice(limit),
        ),
        with_indices=True,
        remove_columns=conversations.column_names,
        num_proc=processes,
        desc="Tokenising conversations",
    )
    _require_loss(dataset, path, limit)
    if indicator:
        _require_marked(dataset, path, indicator, limit)
    return dataset


def _kept(limit: int | None, keep_end: bool) -> slice:
    if limit is None:
        return slice(None)
    return slice(-limit, None) if keep_end else slice(limit)


def summary(dataset: Dataset) -> dict[str, Any]:
    """What of `tokenised` is trained on, in numbers, and under `read` what the data holds.

    `cut` conversations are longer than the limit; those without a token in the loss are left out.
    """
    return {**_counts(dataset, ""), "cut": _cut(dataset), "read": _counts(dataset, "whole_")}


def trained(dataset: Dataset) -> Dataset:
    """The ids and labels alone, of the conversations that have a token in the loss."""
    return dataset.filter(bool, input_columns="in_loss").select_columns(["input_ids", "labels"])


def _counts(dataset: Dataset, prefix: str) -> dict[str, int]:
    within = [count > 0 or bool(prefix) for count in dataset["in_loss"]]
    sums = {
        name: sum(itertools.compress(dataset[f"{prefix}{name}"], within))
        for name in ("tokens", "in_loss", "marked")
    }
    return {
        "conversations": sum(within),
        "tokens": sums["tokens"],
        "tokens_in_loss": sums["in_loss"],
        "turns_with_indicator": sums["marked"],
    }


def _cut(dataset: Dataset) -> int:
    pairs = zip(dataset["tokens"], dataset["whole_tokens"], strict=True)
    return sum(kept < whole for kept, whole in pairs)


def _require_loss(dataset: Dataset, path: Path | str, limit: int | None) -> None:
    if not any(dataset["in_loss"]):
        raise UserError(
            f"No token of {path} is in the loss within {limit} tokens: raise training.max_length, "
            "or set training.assistant_only_loss=false."
        )


def _require_marked(dataset: Dataset, path: Path | str, indicator: str, limit: int | None) -> None:
    if not sum(dataset["whole_marked"]):
        raise UserError(
            f"indicator={indicator!r} ends no user turn of {path}: give a file in which `ctx-train "
            "select` selected some (with a lower --beta, or --top 0.1), or set indicator=null."
        )
    if not sum(dataset["marked"]):
        raise UserError(
            f"indicator={indicator!r} ends no user turn of {path} within the first {limit} tokens: "
            "raise training.max_length, or split the conversations with `ctx-train prepare`."
        )


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
    row: dict[str, Any],
    index: int,
    tokenizer: Any,
    indicator_id: int | None,
    kept: slice,
    **keywords: Any,
) -> dict[str, Any]:
    try:
        whole = labels.example(tokenizer, row["messages"], **keywords)
    except UserError as error:
        raise UserError(f"Row {index + 1} of the data: {error}") from error
    example = {name: values[kept] for name, values in whole.items()}
    before = {f"whole_{k}": v for k, v in _measured(whole, indicator_id).items()}
    return {**example, **_measured(example, indicator_id), **before}


def _measured(example: dict[str, list[int]], indicator_id: int | None) -> dict[str, int]:
    ids, targets = example["input_ids"], example["labels"]
    return {
        "tokens": len(ids),
        "in_loss": len(targets) - targets.count(labels.IGNORED),
        "marked": sum(token == indicator_id for token in ids),
    }
