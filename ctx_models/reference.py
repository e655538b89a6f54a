"""Attention steering and segment mass in ten naive lines: the judge of `attention/`.

The full T x T matrix, eq. 1 as it is printed (multiply, then renormalise), in whatever dtype the
inputs have; tests use float64.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def steered_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    *,
    visible: torch.Tensor,
    user: torch.Tensor,
    alpha: torch.Tensor,
    scaling: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Eq. 1: attention weights, scaled by alpha on keys outside the user's tokens, renormalised.

    Args:
        query: [batch, heads, queries, width]; key: [batch, heads, keys, width].
        visible: bool, broadcast to [batch, heads, queries, keys].
        user: bool [batch, keys], True on keys that keep their weight.
        alpha: [heads], or [1] for all.
        sinks: logits [heads] of one more key each, which keeps its weight and has no value.

    Returns:
        [batch, heads, queries, keys]; rows sum to 1, less what a sink takes.
    """
    logits = query @ key.transpose(-1, -2) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.masked_fill(~visible, -torch.inf)
    if sinks is not None:
        column = sinks.to(logits.dtype).view(1, -1, 1, 1).expand(*logits.shape[:-1], 1)
        logits, user = torch.cat([logits, column], dim=-1), functional.pad(user, (0, 1), value=True)
    weights = logits.softmax(dim=-1)
    weights = weights * torch.where(user[:, None, None, :], 1.0, alpha[None, :, None, None])
    return (weights / weights.sum(dim=-1, keepdim=True))[..., : key.shape[2]]


def segment_mass(weights: torch.Tensor, segments: torch.Tensor, count: int) -> torch.Tensor:
    """Sum the weights [batch, heads, queries, keys] over each of `count` segments.

    Returns:
        [batch, heads, queries, count], from `segments`, int [batch, keys].
    """
    return weights @ functional.one_hot(segments, count)[:, None].to(weights.dtype)
