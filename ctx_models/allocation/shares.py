"""Where attention goes: shares of each segment at the last prompt token before the answer.

Figures 3 and 4 of arXiv 2411.02688: over the needle test's prompts with the response prefix, with
and without the chat template. Shares are those of one head, the most representative one: of all
layers and heads the one with the largest user share, averaged over prompts and both conditions, so
that the change from raw to chat is that of a single head (the first version's text). The later
version takes layer 15, and of it the head with the largest user share without the template:
`--layer 15 --head-by raw`. Only the last query row is asked for
(`segment_mass(last_tokens=1)`); no tokens x tokens matrix is built. `allocation_run` measures whole
models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ctx_models.attention import segment_mass
from ctx_models.lm import CtxLM
from ctx_models.spans import Rendered, Segment, Segmented, Span, raw, with_response
from ctx_tasks.errors import UserError
from ctx_tasks.needle import prompt
from ctx_tasks.statistics import cluster_error, cluster_numbers

CONDITIONS = ("raw", "chat")
CHANGE = "chat - raw"
ABSOLUTE, RELATIVE = "absolute", "of user, response and BOS"
# In the order of the figure; the response is the prefix begun for the model.
SEGMENTS = {
    "user": Segment.USER,
    "response prefix": Segment.ASSISTANT,
    "template": Segment.TEMPLATE,
    "BOS and special": Segment.SPECIAL,
    "system": Segment.SYSTEM,
}
# A row of the needle test (`ctx_tasks.needle.task.build`), and what was measured of each.
NeedleRow = Mapping[str, Any]
Rows = Sequence[np.ndarray]
_RENORMALISED = ("user", "response prefix", "BOS and special")


@dataclass(frozen=True)
class Allocation:
    """Attention shares of one model.

    Attributes:
        name: of the model and its arm.
        shares: condition -> float64 [prompts, layers, heads, len(Segment)]; rows sum to 1, less
            what an attention sink takes.
        clusters: numbers [prompts]: cells with one needle where there are several.
        data: what the prompts were made from.
        layer: the one whose heads are looked at; None for all.
        head_by: the condition whose user share chooses the head; None for the mean of both.
    """

    name: str
    shares: dict[str, np.ndarray]
    clusters: np.ndarray
    data: dict[str, Any]
    layer: int | None = None
    head_by: str | None = None

    @property
    def head(self) -> tuple[int, int]:
        """Layer and head with the largest mean user share over prompts and conditions."""
        chosen = [self.head_by] if self.head_by else list(self.shares)
        means = np.mean([self.shares[one].mean(axis=0) for one in chosen], axis=0)
        users = means[..., Segment.USER]
        if self.layer is not None:
            return self.layer, int(users[self.layer].argmax())
        layer, head = np.unravel_index(users.argmax(), users.shape)
        return int(layer), int(head)


@dataclass(frozen=True)
class Line:
    """One number of the figure: a mean over `n` prompts and its standard error."""

    name: str
    condition: str
    segment: str
    share: str
    mean: float
    error: float
    n: int


@dataclass(frozen=True)
class Rank:
    """A head's attention on the needle: a mean over `n` prompts and its standard error."""

    layer: int
    head: int
    mean: float
    error: float
    n: int


def prompt_shares(lm: CtxLM, row: NeedleRow) -> np.ndarray:
    """Shares of one prompt in both conditions, steered and marked as `lm` is.

    Returns:
        float32 [conditions, layers, heads, len(Segment)], at the last prompt token.

    Raises:
        UserError: a prompt longer than the window, or a model without softmax attention.
    """
    chats = [condition == "chat" for condition in CONDITIONS]
    return np.stack([_last_row(lm, lm._tokens(_prompt(lm, row, chat=chat))) for chat in chats])


def needle_shares(lm: CtxLM, row: NeedleRow) -> np.ndarray:
    """Attention on the needle's tokens at the last prompt token, with the chat template.

    Returns:
        float32 [layers, heads]. Raises as `prompt_shares`.
    """
    marked = _only(_prompt(lm, row, chat=True), row["needle"])
    return _last_row(lm, lm._tokens(marked))[..., Segment.USER]


def allocation_of(
    name: str, rows: Sequence[NeedleRow], data: dict[str, Any], found: Rows
) -> Allocation:
    """The shares of a model from `prompt_shares` of each row."""
    shares = np.stack(found).astype(np.float64)
    by_condition = {condition: shares[:, i] for i, condition in enumerate(CONDITIONS)}
    return Allocation(name, by_condition, _clusters(rows), data)


def needle_ranking(rows: Sequence[NeedleRow], found: Rows) -> list[Rank]:
    """Retrieval heads, strongest first, from `needle_shares` of each row."""
    shares, clusters = np.stack(found).astype(np.float64), _clusters(rows)
    ranked = [
        Rank(layer, head, *_mean(shares[:, layer, head], clusters))
        for layer, head in np.ndindex(shares.shape[1:])
    ]
    return sorted(ranked, key=lambda rank: -rank.mean)


def heads_json(ranking: Sequence[Rank], count: int) -> str:
    """The `count` strongest heads in the JSON that `hf-ctx heads=` reads.

    Raises:
        UserError: a count that is not there.
    """
    if not 1 <= count <= len(ranking):
        raise UserError(
            f"--by-head {count} is out of range: this model has {len(ranking)} heads; give 1 to "
            f"{len(ranking)}."
        )
    heads: dict[int, list[int]] = {}
    for rank in ranking[:count]:
        heads.setdefault(rank.layer, []).append(rank.head)
    return json.dumps({str(layer): sorted(heads[layer]) for layer in sorted(heads)}) + "\n"


def lines(allocation: Allocation) -> list[Line]:
    """The figure's numbers: absolute and renormalised shares, and the change from raw to chat."""
    layer, head = allocation.head
    absolute = {c: found[:, layer, head] for c, found in allocation.shares.items()}
    kept = [SEGMENTS[name] for name in _RENORMALISED]
    relative = {c: f / f[:, kept].sum(axis=1, keepdims=True) for c, f in absolute.items()}
    found = []
    for share, values, names in (
        (ABSOLUTE, absolute, tuple(SEGMENTS)),
        (RELATIVE, relative, _RENORMALISED),
    ):
        columns = {**values, CHANGE: values["chat"] - values["raw"]}
        for condition, rows in columns.items():
            found += [
                _line(allocation, condition, name, share, rows[:, SEGMENTS[name]]) for name in names
            ]
    return found


def _line(
    allocation: Allocation, condition: str, segment: str, share: str, values: np.ndarray
) -> Line:
    return Line(allocation.name, condition, segment, share, *_mean(values, allocation.clusters))


def _mean(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float, int]:
    """Mean over prompts, its standard error, and their number."""
    return float(values.mean()), cluster_error(values, clusters), len(values)


def _clusters(rows: Sequence[NeedleRow]) -> np.ndarray:
    """Cells with one needle are a cluster where there are several needles; else each is its own."""
    several = len({row["needle_id"] for row in rows}) > 1
    names = [str(row["needle_id"] if several else number) for number, row in enumerate(rows)]
    return cluster_numbers(names)


def _prompt(lm: CtxLM, row: NeedleRow, *, chat: bool) -> Rendered:
    """The prompt up to the last token before the answer, as the harness builds it."""
    question = prompt(row)
    prefix = row["response_prefix"]
    if not chat:
        return with_response(raw(question, lm.arm.indicator), f" {prefix}")
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": prefix}]
    return lm._render(messages, add_generation_prompt=False)


def _only(rendered: Rendered, text: str) -> Rendered:
    """`rendered` with the last place of `text` as its only content."""
    start = rendered.text.rindex(text)
    return replace(
        rendered, spans=(Span(start, start + len(text), Segment.USER, 0),), indicators=()
    )


@torch.no_grad()
def _last_row(lm: CtxLM, tokens: Segmented) -> np.ndarray:
    """Attention of the last token on each segment: float32 [layers, heads, len(Segment)]."""
    ids = torch.tensor([tokens.input_ids], device=lm.device)
    if ids.shape[1] > lm.max_length:
        raise UserError(
            f"A prompt has {ids.shape[1]} tokens but the model's window is {lm.max_length}; give a "
            "smaller --max-length."
        )
    segments = torch.tensor([tokens.segments], device=lm.device)
    layers = list(range(lm.model.config.get_text_config().num_hidden_layers))
    steered = lm._steered(segments == Segment.USER) if lm.steering.active else nullcontext()
    with steered:
        mass = segment_mass(lm.model, ids, segments, layers=layers, last_tokens=1)
    found: np.ndarray = mass[0, :, :, -1].cpu().numpy()
    return found


def per_layer(allocation: Allocation) -> Iterator[dict[str, Any]]:
    """Absolute shares of every layer, the mean of its heads: a row a condition and segment."""
    for condition, found in allocation.shares.items():
        for layer in range(found.shape[1]):
            yield from _shares(allocation, condition, found[:, layer].mean(axis=1), layer=layer)


def per_head(allocation: Allocation) -> Iterator[dict[str, Any]]:
    """Absolute shares of every head: a row a condition and segment."""
    for condition, found in allocation.shares.items():
        for layer, head in np.ndindex(found.shape[1:3]):
            yield from _shares(allocation, condition, found[:, layer, head], layer=layer, head=head)


def _shares(
    allocation: Allocation, condition: str, values: np.ndarray, **place: int
) -> Iterator[dict[str, Any]]:
    """Rows of [prompts, segments]."""
    for segment, number in SEGMENTS.items():
        mean, error, n = _mean(values[:, number], allocation.clusters)
        where = {"name": allocation.name, "condition": condition, **place, "segment": segment}
        yield {**where, "mean": mean, "error": error, "n": n}
