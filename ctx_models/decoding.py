"""Greedy decoding that leaves out what an answer does not need: finished rows, copies of the cache.

transformers runs every row of a batch until the last is done, rows that met a stop string as
well, and copies all keys and values at every step to put one more behind them. Here the batch goes
on without the rows that are finished, as soon as they are a fair share of it, and keys and values
have room for what comes. Both leave every remaining number as it is but for the rounding of another
batch size, so only float32 is decoded so: in 16 bits that rounding alone changes answers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

# The batch goes on without finished rows once one in so many is finished: leaving them out copies
# the keys and values of the others once.
_SHARE = 4
# Beside these, arguments may ask for what does not go on from a cache as if it had never stopped.
_ARGUMENTS = {"attention_mask", "do_sample", "temperature"}
_BY_PROMPT = ("min_new_tokens", "begin_suppress_tokens")

Ended = Callable[[Sequence[int]], bool]


class _Finished(StoppingCriteria):
    """Which rows are finished; stops when they are a fair share."""

    def __init__(self, rows: int, prompt: int, ended: Ended) -> None:
        self.rows = [False] * rows
        self._prompt, self._ended = prompt, ended

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any
    ) -> torch.BoolTensor:
        answers = input_ids[:, self._prompt :].tolist()
        self.rows = [
            done or self._ended(answer) for done, answer in zip(self.rows, answers, strict=True)
        ]
        enough = _SHARE * sum(self.rows) >= len(self.rows)
        return torch.tensor([done or enough for done in self.rows], device=input_ids.device)  # type: ignore[return-value]


class _Roomy(DynamicLayer):
    """Keys and values of a layer, in the front of tensors that have room for more."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._stores: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the layer that grows by copying."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._stores is None or not self._fits(self._stores[0], after):
            self._stores = (
                self._store(self.keys, key_states, before, after),
                self._store(self.values, value_states, before, after),
            )
        keys, values = self._stores
        keys[..., before:after, :] = key_states
        values[..., before:after, :] = value_states
        self.keys, self.values = keys[..., :after, :], values[..., :after, :]
        return self.keys, self.values

    def _fits(self, store: torch.Tensor, tokens: int) -> bool:
        """Whether the keys still lie in the store (rows may have been selected since)."""
        assert self.keys is not None
        return tokens <= store.shape[-2] and self.keys.data_ptr() == store.data_ptr()

    def _store(
        self, held: torch.Tensor | None, new: torch.Tensor, before: int, after: int
    ) -> torch.Tensor:
        store = new.new_empty(*new.shape[:-2], after + self._room, new.shape[-1])
        if held is not None and before:
            store[..., :before, :] = held
        return store


def applies(model: PreTrainedModel, arguments: dict[str, Any]) -> bool:
    """Whether `greedy` decodes this model with these generation arguments as `generate` does."""
    config = model.generation_config
    return (
        model.dtype == torch.float32
        and not arguments.get("do_sample")
        and arguments.keys() <= _ARGUMENTS
        and not any(getattr(config, name, None) for name in _BY_PROMPT)
        and config.num_beams in (None, 1)
        and not model._is_stateful
        and all(type(layer) is DynamicLayer for layer in _cache(model).layers)
    )


def greedy(
    model: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    *,
    max_length: int,
    pad: int,
    ended: Ended,
    around: Callable[[torch.Tensor], AbstractContextManager[None]],
) -> torch.Tensor:
    """What `model.generate` gives, with padding behind rows that are finished.

    Args:
        ids, mask: [batch, tokens], padded on the left.
        ended: whether an answer is finished with its last token.
        around: a context for the forward passes of these rows (numbers into the batch).
    """
    prompt = ids.shape[1]
    whole = ids.new_full((len(ids), max_length), pad)
    left = torch.arange(len(ids), device=ids.device)
    cache = _cache(model)
    cache.layers = [_Roomy(max_length - prompt) for _ in cache.layers]
    named = {_cache_name(model): cache}
    run: Callable[..., torch.Tensor] = model.generate  # type: ignore[assignment]
    longest = prompt
    while len(left) and longest < max_length:
        finished = _Finished(len(left), prompt, ended)
        with around(left):
            ids = run(
                input_ids=ids,
                attention_mask=mask,
                max_length=max_length,
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([finished]),
                pad_token_id=pad,
                use_cache=True,
                **named,
            )
        longest = ids.shape[1]
        whole[left, :longest] = ids
        going = torch.tensor([not done for done in finished.rows], device=ids.device)
        left, ids, mask = left[going], ids[going], mask[going]
        mask = torch.cat([mask, mask.new_ones(len(left), longest - mask.shape[1])], dim=1)
        cache.batch_select_indices(going.nonzero()[:, 0])
    return whole[:, :longest]


def _cache(model: PreTrainedModel) -> DynamicCache:
    return DynamicCache(config=model.config.get_text_config(decoder=True))


def _cache_name(model: PreTrainedModel) -> str:
    """What `generate` calls a cache; transformers renames `past_key_values` to `cache`."""
    # An adapter's wrapper takes anything.
    inner = next(part for part in model.modules() if isinstance(part, PreTrainedModel))
    names = inspect.signature(inner.forward).parameters
    return "cache" if "cache" in names else "past_key_values"
