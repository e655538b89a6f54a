"""Packing: several conversations in one row, without one reading the other.

TRL packs whole conversations (`packing_strategy` "bfd") and restarts `position_ids` at each. From
those, transformers builds a block-diagonal mask and the flash kernels their sequence lengths; a
model or attention function that knows neither mixes the conversations without a word. So the model
at hand is asked, before the first step.
"""

from __future__ import annotations

from typing import Any

import torch

from ctx_tasks.errors import UserError


def packed_inputs(conversations: list[list[int]], device: torch.device) -> dict[str, Any]:
    """One row `[1, tokens]` of all conversations, with the position of each token in its own."""
    lengths = [len(ids) for ids in conversations]
    ids = torch.tensor([[token for ids in conversations for token in ids]], device=device)
    positions = torch.cat([torch.arange(length) for length in lengths])[None].to(device)
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    cumulative = torch.tensor(starts, dtype=torch.int32, device=device)
    return {
        "input_ids": ids,
        "position_ids": positions,
        "cu_seq_lens_q": cumulative,
        "cu_seq_lens_k": cumulative,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


@torch.no_grad()
def mixes_conversations(model: Any, token: int = 1, other: int = 2) -> bool:
    """Whether the second conversation of a packed row sees the first.

    Two rows differ only in the first conversation (eight times `token` or eight times `other`).
    The logits of the second are then the same to the bit, or it has read the first.
    """
    training = model.training
    model.eval()
    second = list(range(token, token + 8))
    logits = [
        model(**packed_inputs([[first] * 8, second], model.device), use_cache=False).logits[0, 8:]
        for first in (token, other)
    ]
    model.train(training)
    return not torch.equal(logits[0], logits[1])


def require_separate(model: Any) -> None:
    """Raises UserError where packing would let one conversation read another."""
    if mixes_conversations(model):
        raise UserError(
            f"training.packing=true would mix conversations: {type(model).__name__} with "
            f"attn_implementation={model.config._attn_implementation!r} ignores where they begin; "
            "set model.attn_implementation=sdpa or flash_attention_2, or training.packing=false."
        )
