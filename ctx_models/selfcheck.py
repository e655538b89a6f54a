"""Asks a loaded model, in a few short passes, whether padding and steering leave it as it is.

Two prompts of twenty tokens are run alone, and again left-padded beside a longer one, to lengths
around multiples of 32, where kernels change.

* Alone, the **steered** path with alpha within 1e-6 of 1 must have the plain path's logits: it
  shows every mask that steering reads otherwise than transformers does.
* A padded row must have the logits of the row alone, on the **plain** path and on the **steered**
  one; torch 2.13 on CUDA gives NaN or shifted logits to padded rows of a length of 1 modulo 32
  (transformers issues 47651 and 47678).

Sliding windows and attention chunks are made shorter than the prompts meanwhile, so that a window
of thousands of tokens needs no prompt of thousands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from ctx_tasks.errors import UserError

from .steering import steer

_ALPHA = 1 - 1e-7
_TOKENS = 20
_WINDOW = 8
_LENGTHS = (31, 32, 33, 65)
_STEPS = 2  # a prefill and a decode step
# How far logits may be apart, as a share of their spread. Roundings stay below a tenth of it; what
# this file looks for moves them by a third and more.
_ALLOWED = {torch.float32: 1e-2, torch.float16: 0.1}
_ALLOWED_ELSE = 0.2


class SelfCheck:
    """The check of one loaded model; what it has run is kept.

    Args:
        device: where its prompts go; a model whose weights are offloaded names another.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device | None = None) -> None:
        self.model = model
        self._device = device or model.device
        self._config = model.config.get_text_config()
        embeddings: Any = model.get_input_embeddings()
        self._vocabulary = int(embeddings.weight.shape[0])
        self._steered_well = False

    @cached_property
    def _alone(self) -> torch.Tensor:
        return self._logits(*_batch(self._vocabulary, _TOKENS))

    @cached_property
    def plain_padding_error(self) -> str | None:
        """What is wrong with padded rows of the model as transformers runs it, if anything is."""
        return self._padding_error(f"plain path ({self._config._attn_implementation})", False)

    @cached_property
    def steered_padding_error(self) -> str | None:
        """What is wrong with padded rows of the steered model, if anything is."""
        return self._padding_error("steered path", True)

    def _padding_error(self, path: str, steered: bool) -> str | None:
        length, distance = self._worst(_LENGTHS, steered)
        if distance <= self._allowed:
            return None
        return (
            f"The {path} of {self._config.model_type} gives a row padded to {length} tokens other "
            f"logits than the row alone (apart by {distance:.0%} of their spread)"
        )

    def require_steering(self) -> None:
        """Raise UserError where the steered path is not the model's own at an alpha of almost 1."""
        if self._steered_well:
            return
        _, distance = self._worst((_TOKENS,), steered=True)
        if not distance <= self._allowed:
            raise UserError(
                f"Attention of {self._config.model_type} cannot be steered: at an alpha of almost "
                f"1 its logits are {distance:.0%} of their spread away from the plain model's; use "
                "alpha=1, and report the model type with your versions of torch and transformers."
            )
        self._steered_well = True

    @property
    def _allowed(self) -> float:
        return _ALLOWED.get(self.model.dtype, _ALLOWED_ELSE)

    def _worst(self, lengths: Sequence[int], steered: bool) -> tuple[int, float]:
        """The padded length whose logits are furthest from those of the rows alone, and how far."""
        limit = getattr(self._config, "max_position_embeddings", None) or max(_LENGTHS) + _STEPS
        found = {0: 0.0}
        with _short_windows(self._config):
            for length in lengths:
                if length + _STEPS <= limit:
                    found[length] = _distance(self._padded(length, steered), self._alone)
        return max(found.items(), key=lambda item: item[1])

    def _padded(self, length: int, steered: bool) -> torch.Tensor:
        ids, mask = _batch(self._vocabulary, length)
        if not steered:
            return self._logits(ids, mask)[-2:]
        user = (torch.arange(length) % 2 == 0).expand(len(ids), -1).to(self._device)
        with steer(self.model, user, alpha=_ALPHA):
            return self._logits(ids, mask)[-2:]

    @torch.no_grad()
    def _logits(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [batch, steps, vocabulary] of the first generated tokens, always the same ones."""
        generate: Any = self.model.generate
        output = generate(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            max_new_tokens=_STEPS,
            do_sample=False,
            # Silence what a checkpoint's own sampling settings would be warned about.
            **dict.fromkeys(["temperature", "top_p", "top_k"]),
            pad_token_id=0,
            prefix_allowed_tokens_fn=lambda row, tokens: [int(ids[-1, -1])],
            output_logits=True,
            return_dict_in_generate=True,
        )
        return torch.stack([step.float().cpu() for step in output.logits], dim=1)


@contextmanager
def _short_windows(config: Any) -> Iterator[None]:
    """Windows and chunks of `_WINDOW` tokens, for masks and caches that read the configuration."""
    windows = {
        name: value
        for name, value in vars(config).items()
        if name in ("sliding_window", "attention_chunk_size") and (value or 0) > _WINDOW
    }
    # Flash kernels take the window from the layers, which would then differ from the cache's.
    if "flash" in str(config._attn_implementation):
        windows = {}
    try:
        for name in windows:
            setattr(config, name, _WINDOW)
        yield
    finally:
        for name, value in windows.items():
            setattr(config, name, value)


def _batch(vocabulary: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask: the two prompts, padded to `length` beside one that long."""
    generator = torch.Generator().manual_seed(0)
    most = min(vocabulary, 1000)
    prompts = torch.randint(most // 10, most, (2, _TOKENS), generator=generator)
    if length == _TOKENS:
        return prompts, torch.ones_like(prompts)
    ids = torch.randint(most // 10, most, (3, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1:, :-_TOKENS] = 0
    ids[1:] = torch.nn.functional.pad(prompts, (length - _TOKENS, 0))
    return ids, mask


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far logits are apart, relative to their spread: the worst step, of its better row.

    In half precision a router may send one row another way; a wrong mask hits every row.
    """
    spread = expected - expected.mean(dim=-1, keepdim=True)
    apart = (found - expected).norm(dim=-1) / spread.norm(dim=-1)
    return float(apart.nan_to_num(torch.inf).amin(dim=0).max())
