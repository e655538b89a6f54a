"""Attention with a bias per key, the fastest exact way: a mask row, extra channels, or blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function

from .mask import Keys, Marker

# Logit of a padded key before the softmax: exp(-32768) is 0 in every dtype, and it fits float16.
_PADDED = -32768.0

# Flash kernels take heads of up to 256 channels, in multiples of 8.
_MAX_WIDTH = 256

# Entries of a block of attention weights in `blockwise`: 64 MiB in float32.
_BLOCK_ENTRIES = 2**24


@dataclass
class Call:
    """The inputs of one attention call, shapes as in `ctx_attention`."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    keys: Keys
    bias: torch.Tensor | None
    mask: Marker
    scaling: float
    softcap: float | None
    sinks: torch.Tensor | None

    @property
    def groups(self) -> int:
        """Query heads for each key head."""
        return self.query.shape[1] // self.key.shape[1]

    @property
    def causal(self) -> bool:
        """Whether each query sees all keys up to its own, and the last query is the last token."""
        return self.mask.text.function is None and self.mask.shape[2] == self.mask.text.queries


def run(call: Call, paths: set[str]) -> torch.Tensor:
    """The attention output [batch, heads, queries, value width], by the fastest exact path."""
    queries, keys = call.query.shape[2], call.key.shape[2]
    width = _extended_width(call)
    if call.softcap or call.sinks is not None or (queries > 1 and not call.causal):
        path, function = "blockwise", blockwise
    elif queries == 1:
        path, function = "decode", _decode
    elif queries == keys and _takes_mask_row(call):
        path, function = "mask row", _prefill_with_row
    elif queries == keys and width <= max(_MAX_WIDTH, call.query.shape[-1]):
        path, function = "channels", _prefill
    else:
        path, function = "blockwise", blockwise
    paths.add(path)
    return function(call)


def _sdpa(call: Call, mask: torch.Tensor | None) -> torch.Tensor:
    """transformers' SDPA, which knows the fast way for grouped heads and single queries."""
    groups = _Groups(call.groups)
    output, _ = sdpa_attention_forward(
        groups, call.query, call.key, call.value, mask, scaling=call.scaling
    )
    return output.transpose(1, 2)


class _Groups(torch.nn.Module):
    """The one attribute of an attention module that `sdpa_attention_forward` reads."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = True


def _decode(call: Call) -> torch.Tensor:
    """One query row: bias and padding are a mask row [batch, 1 or heads, 1, keys]."""
    return _sdpa(call, _additive(call, _visible_row(call)))


def _additive(call: Call, mask: torch.Tensor | None) -> torch.Tensor | None:
    """Bias, padding and `mask` as one additive mask, or None where there is nothing to add."""
    added: torch.Tensor | None = None
    if call.bias is not None:
        assert call.keys.outside is not None
        added = call.bias * call.keys.outside[:, None, None, :]
    hidden = None if mask is None else ~mask
    if call.keys.padded is not None:
        padded = call.keys.padded[:, None, None, :]
        hidden = padded if hidden is None else hidden | padded
    if hidden is not None:
        added = torch.zeros((), device=hidden.device) if added is None else added
        added = torch.where(hidden, _PADDED, added)
    return None if added is None else added.to(call.query.dtype)


def _extended_width(call: Call) -> int:
    """Width of query, key and value once the extra channels are appended."""
    extra = 2 * (call.bias is not None) + (call.keys.padded is not None)
    width = max(call.query.shape[-1] + extra, call.value.shape[-1])
    return width if width == call.query.shape[-1] else -(-width // 8) * 8


def _prefill(call: Call) -> torch.Tensor:
    """Causal attention of all tokens, bias and padding in extra channels, no mask.

    The bias is split in two channels, so that bfloat16 keeps 16 of its bits instead of 8.
    """
    bias, padded = call.bias, call.keys.padded
    query_channels, key_channels = [], []
    if bias is not None:
        assert call.keys.outside is not None
        high = (bias / call.scaling).to(call.query.dtype)
        low = (bias / call.scaling - high.float()).to(call.query.dtype)
        query_channels += [high, low]
        key_channels += [call.keys.outside, call.keys.outside]
    if padded is not None:
        query_channels.append(torch.ones_like(call.query[:1, :1, :1, :1]))
        key_channels.append(padded * (_PADDED / call.scaling))
    width = _extended_width(call)
    extended = Call(**vars(call))
    extended.query = _append(call.query, query_channels, width)
    extended.key = _append(call.key, [channel[:, None, :, None] for channel in key_channels], width)
    extended.value = _append(call.value, [], width)
    return _sdpa(extended, None)[..., : call.value.shape[-1]]


def _takes_mask_row(call: Call) -> bool:
    """Whether torch's CPU flash kernel can run this prefill with a mask row beside `is_causal`."""
    return (
        call.query.device.type == "cpu"
        and call.query.dtype == torch.float32  # the row has the query's dtype: 8 bits in bfloat16
        and call.query.shape[-1] == call.value.shape[-1]
        and not (torch.is_grad_enabled() and call.query.requires_grad)
        and _cpu_kernel_adds_row()
    )


def _prefill_with_row(call: Call) -> torch.Tensor:
    """Causal attention of all tokens; bias and padding as a mask row, broadcast over queries."""
    key, value = (part.repeat_interleave(call.groups, dim=1) for part in (call.key, call.value))
    return _cpu_kernel(call.query, key, value, _additive(call, None), call.scaling)


def _cpu_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: torch.Tensor | None,
    scaling: float,
) -> torch.Tensor:
    """The kernel below SDPA, whose own interface forbids a mask beside `is_causal`."""
    if row is not None:
        row = row.expand(*query.shape[:3], key.shape[2])
    output, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, True, attn_mask=row, scale=scaling
    )
    return output


@lru_cache
def _cpu_kernel_adds_row() -> bool:
    """Whether this torch has that kernel and it computes what we ask: it is no public function."""
    tokens, width = 520, 8  # more than one of its blocks
    query, key, value = (
        torch.arange(2 * tokens * width).mul(step).sin().view(1, 2, tokens, width)
        for step in (0.7, 1.3, 2.1)
    )
    row = torch.arange(2 * tokens).mul(0.9).cos().view(1, 2, 1, tokens)
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    logits = (query @ key.mT + row).masked_fill(~causal, -torch.inf)
    try:
        output = _cpu_kernel(query, key, value, row, scaling=1.0)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(output, logits.softmax(dim=-1) @ value, atol=1e-4)


def _append(tensor: torch.Tensor, channels: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    """`tensor` [..., w] with broadcast `channels` [..., 1] appended and zeros up to `width`."""
    own = tensor.shape[-1]
    if width == own:
        return tensor
    extended = tensor.new_zeros(*tensor.shape[:-1], width)
    extended[..., :own] = tensor
    for position, channel in enumerate(channels, start=own):
        extended[..., position : position + 1] = channel
    return extended


def blockwise(call: Call) -> torch.Tensor:
    """Exact attention in blocks of query rows, for what no kernel takes; memory O(block x keys)."""
    batch, heads, queries, _ = call.query.shape
    rows = max(1, _BLOCK_ENTRIES // (batch * heads * call.key.shape[2]))
    blocks = [_block(call, start, min(start + rows, queries)) for start in range(0, queries, rows)]
    return torch.cat(blocks, dim=2)


def _block(call: Call, start: int, stop: int) -> torch.Tensor:
    """Attention of the query rows start..stop."""
    batch, heads = call.query.shape[:2]
    key_heads, keys = call.key.shape[1:3]
    found = weights(call, start, stop).to(call.value.dtype)
    output = found.view(batch, key_heads, -1, keys) @ call.value
    return output.view(batch, heads, stop - start, -1)


def weights(call: Call, start: int, stop: int) -> torch.Tensor:
    """The weights [batch, heads, rows, keys] of the query rows start..stop, in float32.

    Each row sees the keys that `_visible` lets it see.
    """
    batch, heads, _, width = call.query.shape
    key_heads, keys = call.key.shape[1:3]
    query = call.query[:, :, start:stop].reshape(batch, key_heads, -1, width)
    logits = (query @ call.key.transpose(2, 3)).view(batch, heads, stop - start, keys)
    logits = logits.float() * call.scaling
    if call.softcap:
        logits = call.softcap * torch.tanh(logits / call.softcap)
    added = _additive(call, _visible(call, start, stop))
    if added is not None:
        logits = logits + added.float()
    return _softmax(logits, call.sinks)


def _visible(call: Call, start: int, stop: int) -> torch.Tensor:
    """Which keys the query rows start..stop may see: bool [batch or 1, 1, rows, keys]."""
    text, content = call.mask.text, call.mask.plain
    if text.explicit:
        return content[:, :, start:stop]
    rows = content[0, 0, start:stop, 0, None]
    columns = text.first_key + torch.arange(text.keys, device=rows.device)
    visible: Callable[..., Any] = text.function or causal_mask_function
    batch = torch.arange(content.shape[0], device=rows.device)[:, None, None, None]
    return visible(batch, batch.new_zeros(()), rows, columns).view(-1, 1, stop - start, text.keys)


def _visible_row(call: Call) -> torch.Tensor | None:
    """What a single query sees, None for everything; one computation serves all layers."""
    text = call.mask.text
    if call.causal:
        return None
    if text.queries > 1:
        return _visible(call, 0, 1)
    if text.row is None or text.row.device != call.query.device:
        text.row = _visible(call, 0, 1).to(call.query.device)
    return text.row


def _softmax(logits: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Softmax over keys; a sink [heads] takes a share of the row and gives nothing."""
    if sinks is None:
        return logits.softmax(dim=-1)
    column = sinks.float().view(1, -1, 1, 1).expand(*logits.shape[:-1], 1)
    return torch.cat([logits, column], dim=-1).softmax(dim=-1)[..., :-1]
