"""Greedy decoding that leaves out what an answer does not need: padding, finished rows, copies.

transformers runs prompts of every length as long as the longest, and every row of a batch until the
last is done, rows that met a stop string as well; and it copies all keys and values at every step
to put one more behind them. Here prompts are read in groups of like length, the batch goes on
without the rows that are finished as soon as they are a fair share of it, and keys and values have
room for what comes. All leave every remaining number as it is but for the rounding of another
batch size, so only float32 is decoded so: in 16 bits that rounding alone changes answers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

# The batch goes on without finished rows once one in so many is finished: leaving them out copies
# the keys and values of the others once.
_SHARE = 4
# Prompts are read in groups of so many tokens, or alone: on a CPU, activations of more leave its
# caches (tests/benchmarks/run.py). In a group the shortest has so much of the longest's length.
_ON_CPU, _ELSEWHERE, _LIKE = 1024, 16_384, 0.8
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

    def place(self, read: Any, rows: torch.Tensor, tokens: slice, batch: int) -> None:
        """Take a layer's keys and values of these tokens of these rows; what is left is zero."""
        if self._stores is None:
            self.lazy_initialization(read.keys, read.values)
            size = (batch, read.keys.shape[1], tokens.stop + 1 + self._room)
            keys, values = (one.new_zeros(*size, one.shape[-1]) for one in (read.keys, read.values))
            self._stores = keys, values
            self.keys, self.values = (one[..., : tokens.stop, :] for one in self._stores)
        for store, found in zip(self._stores, (read.keys, read.values), strict=True):
            store[rows, :, tokens] = found

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
    around: Callable[[torch.Tensor, slice], AbstractContextManager[None]],
) -> torch.Tensor:
    """What `model.generate` gives, with padding behind rows that are finished.

    Args:
        ids, mask: [batch, tokens], padded on the left.
        ended: whether an answer is finished with its last token.
        around: a context for the forward passes of these rows (numbers into the batch), whose
            prompts are these columns of it.
    """
    prompt = ids.shape[1]
    whole = ids.new_full((len(ids), max_length), pad)
    left = torch.arange(len(ids), device=ids.device)
    cache = _cache(model)
    cache.layers = [_Roomy(max_length - prompt) for _ in cache.layers]
    _read(model, ids, mask, cache, pad, around)
    longest = prompt
    while len(left) and longest < max_length:
        finished = _Finished(len(left), prompt, ended)
        with around(left, slice(0, prompt)):
            ids = _generate(model, ids, mask, cache, max_length, pad, finished)
        longest = ids.shape[1]
        whole[left, :longest] = ids
        going = torch.tensor([not done for done in finished.rows], device=ids.device)
        left, ids, mask = left[going], ids[going], mask[going]
        mask = torch.cat([mask, mask.new_ones(len(left), longest - mask.shape[1])], dim=1)
        cache.batch_select_indices(going.nonzero()[:, 0])
    return whole[:, :longest]


def _read(
    model: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    cache: DynamicCache,
    pad: int,
    around: Callable[[torch.Tensor, slice], AbstractContextManager[None]],
) -> None:
    """Fill the cache with all but the last token of the prompts, where they are several groups."""
    groups = _groups(mask.sum(dim=1))
    end = ids.shape[1] - 1
    if len(groups) == 1:
        return
    for rows, longest in groups:
        tokens = slice(end + 1 - longest, end)
        read = _cache(model)
        with around(rows, tokens):
            _generate(model, ids[rows, tokens], mask[rows, tokens], read, longest, pad)
        for held, found in zip(cache.layers, read.layers, strict=True):
            assert isinstance(held, _Roomy)
            held.place(found, rows, tokens, len(ids))


def _groups(lengths: torch.Tensor) -> list[tuple[torch.Tensor, int]]:
    """Rows that are read together, and the tokens of the longest; all where a row has only one."""
    order = lengths.argsort(descending=True, stable=True)
    if int(lengths.min()) < 2:
        return [(order, int(lengths.max()))]
    most = _ON_CPU if lengths.device.type == "cpu" else _ELSEWHERE
    groups = []
    while len(order):
        longest = int(lengths[order[0]])
        like = int((lengths[order] >= _LIKE * longest).sum())
        size = max(1, min(like, most // longest))
        groups.append((order[:size], longest))
        order = order[size:]
    return groups


def _generate(
    model: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    cache: DynamicCache,
    max_length: int,
    pad: int,
    *stop: StoppingCriteria,
) -> torch.Tensor:
    """`model.generate`, greedily, on from a cache."""
    run: Callable[..., torch.Tensor] = model.generate  # type: ignore[assignment]
    return run(
        input_ids=ids,
        attention_mask=mask,
        max_length=max_length,
        do_sample=False,
        stopping_criteria=StoppingCriteriaList(stop),
        pad_token_id=pad,
        use_cache=True,
        **{_cache_name(model): cache},
    )


def _cache(model: PreTrainedModel) -> DynamicCache:
    return DynamicCache(config=model.config.get_text_config(decoder=True))


def _cache_name(model: PreTrainedModel) -> str:
    """What `generate` calls a cache; transformers renames `past_key_values` to `cache`."""
    return "cache" if "cache" in forward_arguments(model) else "past_key_values"


def forward_arguments(model: torch.nn.Module) -> Collection[str]:
    """The names of what a model's forward pass takes; an adapter's wrapper takes anything."""
    inner = next(part for part in model.modules() if isinstance(part, PreTrainedModel))
    return inspect.signature(inner.forward).parameters
