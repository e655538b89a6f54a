"""Where the answers of an evaluation looked, for the documents of a report.

Attention at the last prompt token and at the first tokens of the saved answer (teacher-forced), the
mean over those, all layers and heads, steered and marked as the answer was. What layers and heads
do one by one is `shares.py`'s; a reader of one document is shown where all of it went.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from ctx_models.attention import key_mass, require_softmax_attention
from ctx_models.lm import CtxLM
from ctx_models.spans import Segment, Segmented
from ctx_tasks import harness
from ctx_tasks.errors import UserError
from ctx_tasks.looks import Look, Piece, Totals

logger = logging.getLogger(__name__)

# Documents of a task that are measured, one short forward pass each.
DOCUMENTS = 20
ANSWER_TOKENS = 3
# A piece of the user's text is a word; of longer texts several, so that there are no more of them.
PIECES = 200
# Scripts without spaces: a piece ends here though no word does.
_LONGEST_WORD = 8

Sample = Mapping[str, Any]


def require_measurable(lm: CtxLM) -> None:
    """Raise UserError for a model whose answers have no place to look from, before it runs."""
    require_softmax_attention(lm.model)
    if lm.thinking is not None:
        raise UserError(
            "attention: true cannot be measured of a model that thinks, whose thoughts are not "
            "saved: leave attention out, or give enable_thinking=False."
        )


def looks(lm: CtxLM, samples: Sequence[Sample], begun: str | None) -> list[Look]:
    """Where the answers to some of the documents looked, the same documents in every arm.

    Args:
        samples: of a task, as `simple_evaluate` returns them, the model still in their arm.
        begun: the task's `gen_prefix`: the name of a field or a template.

    Returns:
        No look for a prompt that was cut, or that the task changed after the chat template.
    """
    found = (_look(lm, sample, begun) for sample in _chosen(samples))
    return [look for look in found if look is not None]


def _chosen(samples: Sequence[Sample]) -> list[Sample]:
    """At most `DOCUMENTS`, drawn by their hashes: arms and begun tasks have the same ones."""
    by_hash = {str(sample["doc_hash"]): sample for sample in samples}
    drawn = sorted(by_hash, key=lambda name: sha256(f"attention {name}".encode()).digest())
    return [by_hash[name] for name in drawn[:DOCUMENTS]]


def _look(lm: CtxLM, sample: Sample, begun: str | None) -> Look | None:
    prompt, settings = _request(sample)
    try:
        rendered = lm.segments_of(prompt)
    except UserError as error:
        logger.warning("Where the answer to %s looked is not known: %s", sample["doc_hash"], error)
        return None
    tokens = lm._tokens(rendered)
    room = lm._room(settings) if isinstance(settings, Mapping) else lm.max_length
    if len(tokens.input_ids) > room:
        return None
    answer = lm.tok_encode(_answer(sample), add_special_tokens=False)[:ANSWER_TOKENS]
    shares = _shares(lm, tokens, answer)
    kinds = _kinds(tokens, _begun_at(sample, rendered.text, begun))
    return Look(
        str(sample["doc_hash"]),
        1 + len(answer),
        _totals(kinds, shares),
        tuple(_pieces(tokens, kinds, shares)),
    )


def _request(sample: Sample) -> tuple[str, Any]:
    """The prompt of the first request, and its generation settings or scored continuation."""
    prompt, settings = (*sample["arguments"][0], None)[:2]
    return prompt, settings


def _answer(sample: Sample) -> str:
    """The first answer; of a task that scores continuations none."""
    first = sample["resps"][0][0] if sample["resps"] and sample["resps"][0] else ""
    return first if isinstance(first, str) else ""


def _begun_at(sample: Sample, text: str, begun: str | None) -> int:
    """Where the beginning of the answer begins in a prompt without template, else its end."""
    given = harness.begun_answer(begun, sample["doc"]) if begun else ""
    ends = bool(given) and text.endswith(given)
    return len(text) - len(given) if ends else len(text)


@torch.no_grad()
def _shares(lm: CtxLM, tokens: Segmented, answer: Sequence[int]) -> np.ndarray:
    """The share of each token of prompt and answer: float64 [tokens]."""
    ids = torch.tensor([[*tokens.input_ids, *answer]], device=lm.device)
    user = torch.tensor([tokens.segments]) == Segment.USER
    layers = list(range(lm.model.config.get_text_config().num_hidden_layers))
    with lm._steered(user):
        mass = key_mass(lm.model, ids, layers=layers, last_tokens=1 + len(answer))
    found: np.ndarray = mass[0].double().mean(dim=(0, 1)).cpu().numpy()
    return found


def _kinds(tokens: Segmented, begun_at: int) -> np.ndarray:
    """The segment of each prompt token; without template the begun answer is told apart here."""
    kinds = np.array(tokens.segments)
    # A token that begins with the space before it.
    begun = np.array(tokens.offsets).reshape(-1, 2)[:, 1] > begun_at
    kinds[begun & (kinds == Segment.USER)] = Segment.ASSISTANT
    return kinds


def _totals(kinds: np.ndarray, shares: np.ndarray) -> Totals:
    by_segment = np.bincount(kinds, weights=shares[: len(kinds)], minlength=len(Segment))
    by_segment[Segment.ASSISTANT] += shares[len(kinds) :].sum()
    user, answer, system, template, special = (_plain(share) for share in by_segment)
    return Totals(user, system, template, special, answer)


def _pieces(tokens: Segmented, kinds: np.ndarray, shares: np.ndarray) -> Iterator[Piece]:
    """The user's text in pieces, each with its share."""
    for group in _groups(tokens, np.flatnonzero(kinds == Segment.USER).tolist()):
        start, end = tokens.offsets[group[0]][0], tokens.offsets[group[-1]][1]
        yield Piece(start, end, len(group), _plain(shares[group].sum()))


def _groups(tokens: Segmented, places: Sequence[int]) -> list[list[int]]:
    """Tokens of a word or of several, together; never one without characters of its own."""
    least = -(-len(places) // PIECES)
    groups: list[list[int]] = []
    for place in places:
        start, end = tokens.offsets[place]
        before = groups[-1] if groups else []
        reached = tokens.offsets[before[-1]][1] if before else 0
        if start >= end:
            continue
        if (before and not _ends(tokens, before, place, least)) or start < reached:
            before.append(place)
        else:
            groups.append([place])
    return groups


def _ends(tokens: Segmented, group: Sequence[int], place: int, least: int) -> bool:
    """Whether `place` begins a new piece behind `group`."""
    if tokens.messages[place] != tokens.messages[group[-1]]:
        return True
    start = tokens.offsets[place][0]
    word = tokens.text[start].isspace() or tokens.text[start - 1 : start].isspace()
    return len(group) >= least * (1 if word else _LONGEST_WORD)


def _plain(share: float) -> float:
    """Four digits are more than a colour shows."""
    return float(f"{share:.4g}")
