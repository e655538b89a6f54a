"""Needle in a haystack: a grid of document lengths and needle depths.

Source: arXiv 2411.02688, section 3.1 and appendix A.2; the test is Kamradt's. 20 lengths, uniform
from 200 tokens to the maximum, times 20 depths, uniform from 0 to 100 %. A document is the haystack
with the needle in it; it has the cell's length in tokens of the evaluated model (the document
alone, without special tokens, to within 2; `documents.py` says how).
Divergences: the released code shortens the document by a further 200 tokens (so 200 and 400 give
the same one) and generates 100 tokens; here the lengths are exact and 50 tokens are generated,
unless `answer_tokens` or a version of the paper (`ctx_tasks.paper`) says otherwise.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ctx_tasks import paper as versions
from ctx_tasks.errors import UserError
from ctx_tasks.loaded import behind
from ctx_tasks.metrics import keyword_recall, unanswered
from ctx_tasks.needle.documents import (
    SENTENCE_END,
    Document,
    count_tokens,
    running_text,
    write_documents,
)
from ctx_tasks.needle.inputs import (
    Haystack,
    Needle,
    load_haystack,
    load_needles,
    load_tokenizer,
    model_window,
    special_strings,
)
from ctx_tasks.needle.wordings import PAPER, Wording, load_wordings, prompt

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# Kept free for the chat template, [IND] and BOS, even without a template: so that the arms of one
# model (raw, chat, prefix) get the same documents and can be compared pair by pair.
TEMPLATE_TOKENS = 128


def grid(
    min_length: int, max_length: int, lengths: int = 20, depths: int = 20
) -> list[tuple[int, int]]:
    """Cells `(tokens, percent)`, lengths outside, depths inside, both rising.

    Uniformly spaced with both ends, rounded. A single length is `max_length`, a single depth 50 %.
    `grid(200, 400, 2, 3) == [(200, 0), (200, 50), (200, 100), (400, 0), (400, 50), (400, 100)]`.

    Raises:
        UserError: naming every value that is no whole number, out of range, or would repeat a cell.
    """
    _raise_all(_grid_faults(min_length, max_length, lengths, depths))
    tokens = [max_length] if lengths == 1 else _spaced(min_length, max_length, lengths)
    percents = [50] if depths == 1 else _spaced(0, 100, depths)
    return [(length, percent) for length in tokens for percent in percents]


def nih(
    *,
    max_length: Any = None,
    min_length: Any = 200,
    lengths: Any = 20,
    depths: Any = 20,
    haystack: Any = "builtin",
    needles: Any = "paper",
    seed: Any = 42,
    answer_tokens: Any = None,
    prompts: Any = None,
    paper: Any = None,
    pretrained: Any = None,
    tokenizer: Any = None,
    max_model_len: Any = None,
    revision: Any = None,
    trust_remote_code: Any = None,
    subfolder: Any = None,
    gguf_file: Any = None,
    data_used: dict[str, Any] | None = None,
    **others: Any,
) -> dict[str, Dataset]:
    """The needle test as the harness wants it: `{"test": Dataset}`, one row a cell of the grid.

    The harness calls this with the model arguments and `--metadata` merged into one dictionary.
    `task_configs/nih/README.md` describes the keys.

    Args:
        max_length: tokens of the longest document; None for all that the window leaves. A value
            above that but within the window is lowered to it, with a warning.
        min_length, lengths, depths: see `grid`.
        haystack, needles: see `load_haystack`, `load_needles`.
        seed: see `build`.
        answer_tokens: new tokens, for which the window must leave room; see `answer_tokens`.
        prompts: see `load_wordings`; with several, every document is there in each.
        paper: a version of the paper that decides where these two are not given.
        pretrained, tokenizer, revision, trust_remote_code, subfolder, gguf_file: model arguments;
            without them, those of the model of ours that is loaded (`ctx_tasks.loaded`).
        max_model_len: vLLM's model argument, a smaller window.
        data_used: filled with what the documents were made from; the task's YAML puts an empty one
            into its metadata, which the harness hands on and writes into the results.
        others: anything else the harness hands on; `model` says that the model is behind an API.

    Raises:
        UserError: all faults of the settings together; then what the model cannot do.
    """
    from datasets import Dataset

    source = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "subfolder": subfolder or None,
        "gguf_file": gguf_file,
    }
    known = None if tokenizer or "model" in others else behind(pretrained)
    if known is not None:
        pretrained, tokenizer, source = known.pretrained, known.tokenizer, known.source
    asked = {"answer_tokens": answer_tokens, "prompts": prompts, "paper": paper}
    hay, sets, loaded, wordings, tokens, _ = _checked(
        lambda: load_haystack(haystack),
        lambda: load_needles(needles),
        lambda: load_tokenizer(pretrained, tokenizer, **source),
        lambda: load_wordings(versions.setting("prompts", asked)),
        lambda: generated_tokens(asked),
        lambda: _raise_all(_setting_faults(min_length, max_length, lengths, depths, seed)),
    )
    window = max_model_len or model_window(pretrained, loaded, **source)
    room = needed_room(loaded, sets, wordings, tokens)
    longest = longest_document(window, room, max_length)
    cells = grid(min_length, longest, lengths, depths)
    rows = _worded(build(loaded, hay, sets, cells, seed), wordings)
    if data_used is not None:
        name = tokenizer or pretrained
        name = str(name) if isinstance(name, str | Path) else loaded.name_or_path
        data_used.update(source=hay.source, sha256=hay.sha256, rows=len(rows), tokenizer=name)
        data_used.update(window=window, min_length=min_length, max_length=longest)
        data_used.update(lengths=lengths, depths=depths, seed=seed, needles=[s.id for s in sets])
        if wordings != PAPER:
            data_used.update(prompts={one.id: one.prompt for one in wordings})
    return {"test": Dataset.from_list(rows)}


def generated_tokens(metadata: Mapping[str, Any]) -> int:
    """New tokens of an answer: `answer_tokens` of the metadata, or its version of the paper, or 50.

    Raises:
        UserError: no whole number of at least 1.
    """
    tokens = versions.setting("answer_tokens", metadata)
    if not _is_whole(tokens) or tokens < 1:
        raise UserError(
            f"answer_tokens must be a whole number of at least 1, but got {tokens!r}; the paper "
            f"has 50, its later version 100."
        )
    return int(tokens)


def scores(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """`recall` (share of keywords in the output, 0.0 to 1.0), `recall_error`, `score` (= recall),
    and `empty` with its part `dangling`, never 1 where a keyword was found. With several wordings
    also `prompt_spread`, a pair that `wordings.prompt_spread` makes one number of.

    Over the generated text only: a response prefix is part of the prompt and counts for nothing.
    """
    recall = keyword_recall(results[0], doc["keywords"])
    found: dict[str, Any] = {"recall": recall, "recall_error": 1.0 - recall, "score": recall}
    found |= unanswered(results[0], answered=recall > 0)
    return {**found, "prompt_spread": (doc["prompt_id"], recall)} if "prompt_id" in doc else found


def longest_document(window: int | None, room: int, asked: int | None) -> int:
    """Tokens of the longest document that leaves `room` in `window`, or `asked` if that is less.

    Raises:
        UserError: `asked` is more than the window, the window leaves nothing, or neither is known.
    """
    if window is None:
        if asked is None:
            raise UserError(
                "The model's window is not known, because its arguments name no `pretrained` with "
                "a readable config; pass the tokens of the longest document, "
                "--metadata '{\"max_length\": TOKENS}'."
            )
        logger.warning(
            "The model's window is not known: with prompt, chat template and answer the longest "
            "document of %d tokens takes up to %d, which the server's window must hold.",
            *(asked, asked + room),
        )
        return asked
    if asked is not None and asked > window:
        raise UserError(
            f"max_length {asked} is longer than the model's window of {window} tokens; use at most "
            f"{window - room}, which leaves {room} for prompt, chat template and answer."
        )
    if window <= room:
        raise UserError(
            f"The model's window of {window} tokens leaves no document beside the {room} for "
            f"prompt, chat template and answer; use a model with a longer window."
        )
    if asked is not None and asked > window - room:
        # The harness hands on the model argument max_length, the window, under the same name.
        logger.warning(
            "max_length %d is within the window of %d tokens, but leaves less than the %d for "
            "prompt, chat template and answer; the longest document gets %d tokens.",
            *(asked, window, room, window - room),
        )
    return min(window - room, asked or window)


def needed_room(
    tokenizer: Any, needles: Sequence[Needle], wordings: Sequence[Wording], tokens: int
) -> int:
    """Tokens of the window that are not the document: prompt, prefix, chat template, answer."""
    rows = (
        {"context": "", "question": one.question, "prompt": wording.prompt}
        for one in needles
        for wording in wordings
    )
    prefixes = (one.response_prefix for one in needles for _ in wordings)
    prompts = [f"{prompt(row)} {prefix}" for row, prefix in zip(rows, prefixes, strict=True)]
    return max(count_tokens(tokenizer, prompts)) + _template_room(tokenizer) + tokens


def build(
    tokenizer: Any,
    haystack: Haystack,
    needles: Sequence[Needle],
    cells: Sequence[tuple[int, int]],
    seed: int = 42,
) -> list[dict[str, Any]]:
    """One row for each cell, in order.

    Args:
        tokenizer: a fast transformers tokenizer.
        cells: `(tokens, percent)`, see `grid`.
        seed: decides with which of the haystack's texts every document begins (the others follow in
            their order, then the first again), and how several needles are dealt, see `deal`.

    Returns:
        Rows with context, question, response_prefix, keywords, needle, needle_id, length (the
        cell's), n_tokens (measured), depth (the cell's percent), placed (percent of the filler's
        tokens before the needle), haystack, haystack_sha256. Nothing in a row depends on names or
        paths of the model, so equal documents have equal hashes.

    Raises:
        UserError: a length that is too short for its needle; a haystack without sentence ends, with
            the needle, or with strings that the tokenizer reads as control tokens.
    """
    text = _rotated(haystack, seed)
    _refuse_unsuitable(tokenizer, text, haystack.name, needles)
    longest = max(length for length, _ in cells)
    filler = running_text(tokenizer, text, longest)
    available = filler.tokens_before(len(text))
    if available < longest:
        logger.warning(
            "The haystack %s has %d tokens; longer documents repeat it from its beginning.",
            *(haystack.name, available),
        )
    documents = write_documents(tokenizer, filler, cells, deal(cells, needles, seed))
    return [_row(document, haystack) for document in documents]


def deal(
    cells: Sequence[tuple[int, int]], needles: Sequence[Needle], seed: int = 42
) -> list[Needle]:
    """A needle for each cell, so that each is as frequent as any other (to within one) at every
    length and at every depth: number (r + c) modulo the number of needles, where r and c are the
    cell's length and depth as positions in two shuffles drawn with `seed`.
    """
    draw = random.Random(f"needles {seed}")
    rows, columns = (_shuffled(sorted({cell[axis] for cell in cells}), draw) for axis in (0, 1))
    return [needles[(rows[length] + columns[depth]) % len(needles)] for length, depth in cells]


def _row(document: Document, haystack: Haystack) -> dict[str, Any]:
    needle = document.needle
    return {
        "context": document.text,
        "question": needle.question,
        "response_prefix": needle.response_prefix,
        "keywords": list(needle.keywords),
        "needle": needle.needle,
        "needle_id": needle.id,
        "length": document.length,
        "n_tokens": document.n_tokens,
        "depth": document.depth,
        "placed": document.placed,
        "haystack": haystack.name,
        "haystack_sha256": haystack.sha256,
    }


def _worded(rows: list[dict[str, Any]], wordings: Sequence[Wording]) -> list[dict[str, Any]]:
    """Each row in every wording, one after the other; unchanged where the paper's is the only one.

    Rows of one document are one cluster (`passage_id`), or all of one needle where there are
    several: their scores are not independent.
    """
    if wordings == PAPER:
        return rows
    several = len({row["needle_id"] for row in rows}) > 1
    return [
        {
            **row,
            "prompt": one.prompt,
            "prompt_id": one.id,
            "passage_id": row["needle_id"] if several else f"{row['length']}-{row['depth']}",
        }
        for row in rows
        for one in wordings
    ]


def _rotated(haystack: Haystack, seed: int) -> str:
    """The texts in order, beginning with one drawn by `seed`, each followed by a blank line."""
    texts = haystack.texts
    first = random.Random(f"haystack {seed}").randrange(len(texts))
    return "".join(f"{text}\n\n" for text in texts[first:] + texts[:first])


def _refuse_unsuitable(tokenizer: Any, text: str, name: str, needles: Sequence[Needle]) -> None:
    if not SENTENCE_END.search(text):
        raise UserError(
            f"The haystack {name} has no sentence end (one of . ! ? and white space), where a "
            f"needle could go; use a text with sentences."
        )
    for one in needles:
        if one.needle in text:
            raise UserError(
                f"The haystack {name} already holds the needle {one.id}; use another haystack."
            )
    for special in special_strings(tokenizer):
        if special in text or any(special in one.needle for one in needles):
            raise UserError(
                f"The haystack {name} or a needle holds {special!r}, which the model's tokenizer "
                f"reads as a control token; remove it from the text."
            )


def _template_room(tokenizer: Any) -> int:
    if not getattr(tokenizer, "chat_template", None):
        return TEMPLATE_TOKENS
    try:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
        )
    except TemplateError:  # a template that wants more than a user turn
        return TEMPLATE_TOKENS
    return max(TEMPLATE_TOKENS, *count_tokens(tokenizer, [rendered]))


def _spaced(first: int, last: int, count: int) -> list[int]:
    return [int(first + (last - first) * step / (count - 1) + 0.5) for step in range(count)]


def _shuffled(values: list[int], draw: random.Random) -> dict[int, int]:
    """Each value's position in a shuffle."""
    draw.shuffle(values)
    return {value: position for position, value in enumerate(values)}


def _grid_faults(min_length: Any, max_length: Any, lengths: Any, depths: Any) -> list[str]:
    names = ("min_length", "max_length", "lengths", "depths")
    values = zip(names, (min_length, max_length, lengths, depths), strict=True)
    faults = [
        f"{name} must be a whole number of at least 1, but got {value!r}"
        for name, value in values
        if not _is_whole(value) or value < 1
    ]
    if faults:
        return faults
    if min_length > max_length:
        return [f"min_length {min_length} is more than the longest document, {max_length} tokens"]
    if lengths > max_length - min_length + 1:
        faults.append(
            f"lengths {lengths} is more than there are from {min_length} to {max_length} tokens"
        )
    if depths > 101:
        faults.append(f"depths {depths} is more than the 101 whole percents")
    return faults


def _setting_faults(
    min_length: Any, max_length: Any, lengths: Any, depths: Any, seed: Any
) -> list[str]:
    """`_grid_faults` before the maximum is known, and the seed's."""
    # Without a maximum, only the other values can be judged.
    most = max_length if max_length is not None else 10**9
    faults = _grid_faults(min_length, most, lengths, depths)
    if not _is_whole(seed):
        faults.append(f"seed must be a whole number, but got {seed!r}")
    return faults


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _raise_all(faults: list[str]) -> None:
    if faults:
        raise UserError(f"{'; '.join(faults)}; correct these settings of the needle test.")


def _checked(*steps: Callable[[], Any]) -> list[Any]:
    """The results of all steps, or one `UserError` with the faults of all."""
    results: list[Any] = []
    faults: list[str] = []
    for step in steps:
        try:
            results.append(step())
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError(" ".join(faults))
    return results
