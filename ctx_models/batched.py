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

from accelerate import DistributedType
from tqdm import tqdm

from ctx_tasks import harness

from .batches import in_batches, in_fixed_batches, token_budget
from .fingerprint import checkpoint_fingerprint
from .kept import Answers, Kept, digest, opened
from .prompts import PromptText
from .steered import SteeredLM

Run = Callable[[list[Any]], Answers]


class BatchedLM(SteeredLM):
    """A `SteeredLM` that runs batches of its own and keeps their answers (`kept.py`)."""

    def _generated(
        self, requests: list[Any], needed: Callable[[], list[int]], answer: Run, bar: tqdm[Any]
    ) -> Answers:
        """Answers to generation requests of the same arguments.

        Args:
            needed: tokens that each may come to; asked where they decide on the batches.
            answer: gives the answers to one batch.
        """
        if not requests:
            return []
        digests = [_digest(*one.args) for one in requests]
        places = list(range(len(requests)))
        with self._keeping(requests[0].args[1]) as kept:

            def run(batch: list[int]) -> Answers:
                asked = [requests[place] for place in batch]
                made = kept.batch([digests[place] for place in batch], lambda: answer(asked))
                bar.update(len(batch))
                return made

            if self.batch_size != "auto":
                order = [self._order(one.args[0]) for one in requests]
                return in_fixed_batches(places, order, run, self.batch_size)
            if self.backend != "causal":
                return run(places)  # HFLM measures how many rows fit
            return in_batches(
                places,
                needed(),
                run,
                budget=token_budget(self.model, self.device),
                most=self.max_batch_size,
                sizes=self.batch_schedule,
                known=lambda left: kept.rows([digests[place] for place in left]),
            )

    def _order(self, prompt: str) -> tuple[int, str]:
        """By what HFLM sorts prompts."""
        return -len(self.tok_encode(prompt)), prompt

    def _scored(self, requests: Sequence[Any], answer: Run, size: int, bar: tqdm[Any]) -> Answers:
        """Answers to log-likelihood requests (pair, context ids, continuation ids).

        Args:
            answer: gives the answers to one batch.
            size: rows of a batch.
        """
        rows = _rows(requests, shared=self.backend == "causal" and self.logits_cache)
        digests = [_digest(*one) for one in requests]
        made: dict[int, Any] = {}
        with self._keeping() as kept:

            def run(batch: list[list[int]]) -> list[list[int]]:
                places = [place for row in batch for place in row]
                asked = [requests[place] for place in places]
                found = kept.batch([digests[place] for place in places], lambda: answer(asked))
                made.update(zip(places, found, strict=True))
                bar.update(len(places))
                return batch

            in_fixed_batches(rows, [_row_order(requests, row) for row in rows], run, size)
        return [made[place] for place in range(len(requests))]

    def _keeping(self, settings: Mapping[str, Any] | None = None) -> AbstractContextManager[Kept]:
        """The kept answers, of requests with these generation arguments."""
        if self._in_step or (settings is not None and harness.samples(settings)):
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


def _digest(prompt: Any, *parts: Any) -> str:
    """Of a request whose first part is a prompt, or a pair that begins with one."""
    text = prompt[0] if isinstance(prompt, tuple) else prompt
    marks = (text.rendered, text.prefix) if isinstance(text, PromptText) else ()
    return digest(prompt, marks, *parts)


def _rows(requests: Sequence[Any], shared: bool) -> list[list[int]]:
    """Places of the requests that HFLM runs as one row: continuations of one token of one text."""
    rows: dict[Any, list[int]] = {}
    for place, (_, context, continuation) in enumerate(requests):
        key = tuple(context + continuation[:-1]) if shared else place
        rows.setdefault(key, []).append(place)
    return list(rows.values())


def _row_order(requests: Sequence[Any], row: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """By what HFLM sorts rows: the request with the longest continuation stands for all."""
    _, context, continuation = max((requests[place] for place in row), key=lambda one: len(one[2]))
    return -len(context) - len(continuation), tuple(context + continuation)
