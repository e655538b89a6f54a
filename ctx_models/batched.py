"""HFLM, batch by batch: the harness's own order and batches, each kept as soon as it is answered.

The harness hands a model all requests of a kind at once, and HFLM says nothing until the last is
done. Here each batch is one call of HFLM, on just those requests that it would have run together,
so that every number is its own.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import DistributedType

from ctx_tasks import harness

from . import decoding, progress
from .batches import in_batches, in_fixed_batches, token_budget
from .fingerprint import checkpoint_fingerprint
from .kept import Answers, Kept, opened
from .launched import together
from .progress import Done
from .steered import SteeredLM
from .work import Run, Work, documents, request_digest


class BatchedLM(SteeredLM):
    """A `SteeredLM` that runs batches of its own and keeps their answers (`kept.py`)."""

    _documents = 0

    def _generated(
        self, requests: list[Any], needed: Callable[[], list[int]], answer: Run, done: Done
    ) -> Answers:
        """Answers to generation requests of the same arguments.

        Args:
            needed: tokens that each may come to; asked where they decide on the batches.
            answer: gives the answers to one batch.
            done: told how many are answered.
        """
        if not requests:
            return []
        rows = [[place] for place in range(len(requests))]
        work = Work(requests, [request_digest(*one.args) for one in requests], rows, answer, done)
        with self._keeping(requests[0].args[1]) as kept:
            return self._run(
                work, kept, lambda: [self._order(one.args[0]) for one in requests], needed
            )

    def _run(
        self,
        work: Work,
        kept: Kept,
        order: Callable[[], list[Any]],
        needed: Callable[[], list[int]],
        *,
        scored: bool = False,
    ) -> Answers:
        """All answers, batch by batch.

        Args:
            order: the harness's keys of the rows, by which batches of one size are cut.
            needed: tokens of the rows, by which the memory that is free cuts them.
            scored: whether every token has logits.
        """

        def run(batch: list[list[int]]) -> list[list[Any]]:
            return work.batch(batch, kept)

        if self.batch_size != "auto":
            return work.in_order(in_fixed_batches(work.rows, order(), run, self.batch_size))
        if self.backend != "causal":
            return work.in_order(run(work.rows))  # HFLM measures how many fit
        return work.in_order(
            in_batches(
                work.rows,
                needed(),
                run,
                budget=token_budget(self.model, self.device, scored=scored),
                most=self.max_batch_size,
                sizes=self.batch_schedule,
                known=lambda left: work.known(left, kept),
            )
        )

    def _order(self, prompt: str) -> tuple[int, str]:
        """By what HFLM sorts prompts."""
        return -len(self.tok_encode(prompt)), prompt

    def _continued(
        self,
        context: torch.Tensor,
        max_length: int,
        stop: list[str],
        user: torch.Tensor | None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """HFLM's `_model_generate`, steered towards `user`; greedily it costs less than there."""
        if self._in_step or self.mixed_precision_dtype or not decoding.applies(self.model, kwargs):
            with self._steered(user):
                return super()._model_generate(context, max_length, stop, **kwargs)
        ends = self.model.generation_config.eos_token_id
        ids = {ends} if isinstance(ends, int) else set(ends or ())

        def ended(answer: Sequence[int]) -> bool:
            # HFLM cuts at what it reads: without special tokens.
            return answer[-1] in ids or any(one in self.tok_decode(answer) for one in stop if one)

        return decoding.greedy(
            self.model,
            context,
            kwargs["attention_mask"],
            max_length=max_length,
            pad=self.tokenizer.pad_token_id,
            ended=ended,
            around=lambda rows, prompt: self._steered(
                None if user is None else user[rows.cpu(), prompt]
            ),
        )

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """HFLM's, in batches of our own."""
        self._documents = self._evaluated(requests)
        try:
            found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
            return found
        finally:
            self._documents = 0

    @together
    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """HFLM's, in batches of our own."""
        found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm)
        return found

    def _scored(self, requests: Sequence[Any], answer: Run, quiet: bool) -> Answers:
        """Answers to log-likelihood requests (pair, context ids, continuation ids).

        Args:
            answer: gives the answers to one batch.
            quiet: without a bar.
        """
        rows = _rows(requests, shared=self.backend == "causal" and self.logits_cache)
        longest = [_longest(requests, row) for row in rows]
        digests = [request_digest(*one) for one in requests]
        with (
            progress.requests(len(requests), self._documents, "loglikelihood", quiet) as done,
            self._keeping() as kept,
        ):
            return self._run(
                Work(requests, digests, rows, answer, done),
                kept,
                lambda: [(-len(tokens), tokens) for tokens in longest],
                lambda: [min(len(tokens) - 1, self.max_length) for tokens in longest],
                scored=True,
            )

    def _evaluated(self, requests: Sequence[Any]) -> int:
        """How many documents all processes evaluate with their shares of such requests."""
        return documents(requests) * self.world_size

    def _keeping(self, settings: Mapping[str, Any] | None = None) -> AbstractContextManager[Kept]:
        """The kept answers, of requests with these generation arguments."""
        # A model that was handed over loaded has no name that tells it from another.
        nameless = not isinstance(self.pretrained, str)
        if nameless or self._in_step or (settings is not None and harness.samples(settings)):
            return nullcontext(Kept(None, [], self._paths))
        return opened(self.identity(), self.rank, self._paths)

    @property
    def _in_step(self) -> bool:
        """Whether all processes must run each batch together: each holds a part of the weights."""
        accelerator = getattr(self, "accelerator", None)
        return accelerator is not None and accelerator.distributed_type == DistributedType.FSDP

    def identity(self) -> dict[str, Any]:
        """All of this model that can move an answer, as plain JSON values."""
        packages = ("lm-eval", "lm-eval-ctx", "transformers", "torch")
        generation = self.model.generation_config
        return {
            **checkpoint_fingerprint(self.pretrained, self.revision, self.peft, self.delta),
            **self.settings(),
            "dtype": str(self.model.dtype),
            "device": self.device.type,
            "max_length": self.max_length,
            "generation_config": None if generation is None else generation.to_dict(),
            "versions": {name: importlib.metadata.version(name) for name in packages},
        }


def _rows(requests: Sequence[Any], shared: bool) -> list[list[int]]:
    """Places of the requests that HFLM runs as one row: continuations of one token of one text."""
    rows: dict[Any, list[int]] = {}
    for place, (_, context, continuation) in enumerate(requests):
        key = tuple(context + continuation[:-1]) if shared else place
        rows.setdefault(key, []).append(place)
    return list(rows.values())


def _longest(requests: Sequence[Any], row: Sequence[int]) -> tuple[int, ...]:
    """The tokens of the request that stands for a row: it has the longest continuation."""
    _, context, continuation = max((requests[place] for place in row), key=lambda one: len(one[2]))
    return (*context, *continuation)
