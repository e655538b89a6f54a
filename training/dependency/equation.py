"""Eq. 2 of arXiv 2411.02688: how much a response depends on what the user wrote.

The context-dependency score of response Y_m is the mean over its tokens y of

    max over heads h of  [ sum over user tokens x of X_1..X_m of Att_h(y, x) ]

on one middle layer of a seed chat model. The row is that of y itself, and causality makes "all user
tokens" X_1..X_m. A turn has a score only if all its tokens fit the model's window. A response
before any user text has the score 0.

Divergences from the released code, which follows neither the equation nor a given template: there
newline tokens, BOS and EOS are left out of the keys, system text counts as user text, EOS and a
newline belong to the response, and a response cut by the window gets a number.

`training.dependency.score` writes it for a dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ctx_models.attention import segment_mass
from ctx_models.spans import Segment, segment
from ctx_tasks.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scores = list["float | None"]


@dataclass(frozen=True)
class Encoded:
    """A conversation as the model reads it, cut after its last scored response.

    `turns` are the positions of each assistant turn's tokens, None for a turn without a score;
    `fates` counts them by `scored`, `empty`, `cut`, `beyond` or `refused` (see `encode`).
    """

    input_ids: list[int]
    segments: list[Segment]
    turns: list[list[int] | None]
    fates: Counter[str]


def encode(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], max_length: int | None = None
) -> Encoded:
    """Tokens, segments and assistant turns of a conversation.

    A turn is `scored` if it has tokens and the last is among the first `max_length`; otherwise
    `empty` (no tokens), `cut` (begins inside, ends outside) or `beyond` (begins outside).

    Raises UserError as `ctx_models.segment` does.
    """
    if not any(message["role"] == "assistant" for message in messages):
        return Encoded([], [], [], Counter())
    segmented = segment(tokenizer, messages)
    found: dict[int, list[int]] = {
        index: [] for index, message in enumerate(messages) if message["role"] == "assistant"
    }
    for position, message in enumerate(segmented.messages):
        if message in found:
            found[message].append(position)
    limit = len(segmented.input_ids) if max_length is None else max_length
    fates = [_fate(positions, limit) for positions in found.values()]
    turns = [p if fate == "scored" else None for p, fate in zip(found.values(), fates, strict=True)]
    end = 1 + max((positions[-1] for positions in turns if positions), default=-1)
    return Encoded(segmented.input_ids[:end], segmented.segments[:end], turns, Counter(fates))


def _fate(positions: Sequence[int], limit: int) -> str:
    if not positions:
        return "empty"
    if positions[-1] < limit:
        return "scored"
    return "cut" if positions[0] < limit else "beyond"


def refused(messages: Sequence[Mapping[str, Any]]) -> Encoded:
    """A conversation that the chat template cannot render: no turn has a score."""
    count = sum(message["role"] == "assistant" for message in messages)
    return Encoded([], [], [None] * count, Counter(refused=count))


def score_conversation(
    model: PreTrainedModel,
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    layer: int,
    max_length: int | None = None,
) -> Scores:
    """The context-dependency score of every assistant turn (eq. 2).

    Args:
        model: the seed model, a causal language model on any device.
        tokenizer: fast, with a chat template.
        messages: `role` and `content`, as `ctx_models.segment` takes them.
        layer: index of the scored layer, from 0; see `default_layer`.
        max_length: only the first tokens of the conversation are read; default: the model's window.

    Returns:
        One number in 0..1 per assistant message, in order; None for a turn that is empty or not
        whole within `max_length`.

    Raises:
        UserError: a layer out of range, or a conversation that `segment` refuses.
    """
    limit = window(model.config) if max_length is None else max_length
    encoded = encode(tokenizer, messages, limit)
    return score_batch(model, [encoded], layers=[layer])[0][0]


def score_batch(
    model: PreTrainedModel, batch: Sequence[Encoded], *, layers: Sequence[int]
) -> list[list[Scores]]:
    """Eq. 2 for a batch: scores[conversation][layer][assistant turn].

    Rows are padded on the right, where causal attention never looks: no attention mask is needed.

    Raises UserError for a tokenizer with more tokens than the model, and as `segment_mass`.
    """
    width = max(len(encoded.input_ids) for encoded in batch)
    if width == 0:
        return [[[None] * len(encoded.turns) for _ in layers] for encoded in batch]
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    segments = torch.full_like(ids, Segment.SPECIAL)
    for row, encoded in enumerate(batch):
        ids[row, : len(encoded.input_ids)] = torch.tensor(encoded.input_ids)
        segments[row, : len(encoded.segments)] = torch.tensor(encoded.segments)
    _require_rows(model, int(ids.max()))
    mass = segment_mass(model, ids.to(model.device), segments.to(model.device), layers=layers)
    strongest = mass[..., Segment.USER].amax(dim=2).cpu().double()  # [batch, layers, tokens]
    return [_turn_means(rows, encoded) for rows, encoded in zip(strongest, batch, strict=True)]


def _require_rows(model: PreTrainedModel, highest: int) -> None:
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    if highest >= rows:
        raise UserError(
            f"The tokenizer made the token id {highest}, but the model has {rows} embedding rows: "
            "give the tokenizer that belongs to the model."
        )


def _turn_means(strongest: torch.Tensor, encoded: Encoded) -> list[Scores]:
    """Means of `strongest` [layers, tokens] over the tokens of each turn."""
    columns = [
        [None] * len(strongest) if turn is None else strongest[:, turn].mean(dim=1).tolist()
        for turn in encoded.turns
    ]
    return [[column[layer] for column in columns] for layer in range(len(strongest))]


def default_layer(depth: int) -> int:
    """The paper's layer 15 of 22, scaled to a model of `depth` layers (counted from 0)."""
    return min(round(15 * depth / 22), depth - 1)


def window(config: Any) -> int | None:
    """The number of tokens a model reads at most, None where its config does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)
