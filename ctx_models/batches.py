"""Batches of `batch_size=auto`: as many tokens as fit, of the documents that there are.

The longest documents come first. A batch has as many rows as a budget of tokens allows at its
longest row, so batches grow as documents get shorter; where memory runs out the budget is halved
and the batch run again. The harness instead measures its largest batch at the whole window, however
short the documents are. `auto:N` sizes batches anew at N places of the run only, and
`max_batch_size` is the most rows of any.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psutil
import torch

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Made = TypeVar("Made")

# Of the memory that is free, what a batch may take: our estimate of a token's is rough.
_SHARE = 0.5
# Activations alive at once, in rows of hidden states and of the feed-forward layer.
_HIDDEN, _INTERMEDIATE = 12, 3


def in_batches(
    items: Sequence[Item],
    lengths: Sequence[int],
    run: Callable[[list[Item]], Sequence[Made]],
    *,
    budget: int,
    most: int,
    sizes: float = 1,
    known: Callable[[list[Item]], int | None] = lambda items: None,
) -> list[Made]:
    """Run all items, longest first, and give back what was made of them in their order.

    Args:
        lengths: tokens of each item with what it may generate.
        run: makes something of each item of a batch; may run out of memory.
        budget: tokens of a batch, padding included.
        most: rows of a batch.
        sizes: how many times batches are sized (`auto:N`); 1 for every batch anew.
        known: how many of the items left are a batch that need not be sized; None if none is.
    """
    order = sorted(range(len(items)), key=lambda place: -lengths[place])
    stretch = math.ceil(len(items) / sizes) if sizes > 1 else 1
    made: dict[int, Made] = {}
    while len(made) < len(items):
        done = len(made)
        # The longest of the stretch that this batch begins in decides.
        longest = lengths[order[done // stretch * stretch]]
        rows = known([items[place] for place in order[done:]])
        batch = order[done : done + (rows or max(1, min(most, budget // longest)))]
        try:
            found = run([items[place] for place in batch])
        except RuntimeError as error:
            if len(batch) == 1 or not _out_of_memory(error):
                raise
            budget = len(batch) // 2 * longest
            logger.warning("%d rows do not fit in memory; going on with half.", len(batch))
            gc.collect()
            torch.cuda.empty_cache()
            continue
        made.update(zip(batch, found, strict=True))
    return [made[place] for place in range(len(items))]


def in_fixed_batches(
    items: Sequence[Item],
    keys: Sequence[Any],
    run: Callable[[list[Item]], Sequence[Made]],
    size: int,
) -> list[Made]:
    """Run all items, `size` at a time in the order of `keys`, and give back what was made of each.

    With its keys the order and the batches are the harness's own.
    """
    order = sorted(range(len(items)), key=keys.__getitem__)
    made: dict[int, Made] = {}
    for begin in range(0, len(order), size):
        batch = order[begin : begin + size]
        made.update(zip(batch, run([items[place] for place in batch]), strict=True))
    return [made[place] for place in range(len(items))]


def _out_of_memory(error: RuntimeError) -> bool:
    # The CPU's allocator has no type of its own.
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def token_budget(model: Any, device: torch.device, *, scored: bool = False) -> int:
    """How many tokens of a batch the free memory of `device` holds, by a rough estimate.

    Args:
        scored: whether every token has logits, as in a log-likelihood.
    """
    return max(1, int(_SHARE * _free(device) / _bytes_of_token(model, scored)))


def _bytes_of_token(model: Any, scored: bool) -> int:
    """Keys and values of all layers, and the activations of one."""
    config = model.config.get_text_config()
    hidden = config.hidden_size
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or hidden // heads
    cached = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads)
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    floats = cached * width + _HIDDEN * hidden + _INTERMEDIATE * inner
    # The logits and their log-softmax.
    floats += 2 * config.vocab_size if scored else 0
    return int(floats) * int(model.dtype.itemsize)


def _free(device: torch.device) -> int:
    """Bytes that can be allocated on a device."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    return int(psutil.virtual_memory().available)
