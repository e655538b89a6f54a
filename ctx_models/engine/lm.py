"""`vllm-ctx`: the harness's own `vllm` model, steered or with `[IND]`.

A thin subclass of `VLLM`, the half of it that runs requests (`loaded.py` is the other; what is done
to the engine is told in `__init__.py`). With alpha=1 and no indicator the engine is vLLM's own:
nothing is widened or patched. Each answer remembers what became of its request, as in `hf-ctx`.

Divergences from `hf-ctx`: a row of a log-likelihood holds two tokens less, since vLLM keeps room
for one that it generates; sampled thoughts do not continue one random stream.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from lm_eval.api.model import CacheHook
from vllm import SamplingParams

from ctx_models import progress, unsegmented
from ctx_models.batches import in_fixed_batches
from ctx_models.fingerprint import check_cache
from ctx_models.generation import check_generation
from ctx_models.kept import Answers, Kept, opened
from ctx_models.notes import Ledger, NotedHook
from ctx_models.progress import Done
from ctx_models.prompts import clipped
from ctx_models.registry import register_model
from ctx_models.rows import no_user_turn
from ctx_models.spans import with_response
from ctx_models.thinking import Thinking
from ctx_models.window import overlong, read_overlength, shortened
from ctx_models.work import Run, Work, documents, request_digest
from ctx_tasks import harness
from ctx_tasks.answers import Answer, LogLikelihood, Note

from . import refusals, wire
from .loaded import EngineLM
from .rows import Ready, Row
from .thoughts import Unclosed, answer_rows, closed_thoughts

logger = logging.getLogger(__name__)


# As VLLM asks for log-likelihoods.
_SCORED = SamplingParams(temperature=0, prompt_logprobs=1, max_tokens=1, detokenize=False)


@dataclass(frozen=True)
class _Request:
    """What VLLM reads of a request."""

    args: tuple[Ready, Mapping[str, Any]]


class CtxVLLM(EngineLM):
    """VLLM with attention steering and the context indicator.

    Args:
        overlength: as of `CtxLM`.
        arguments: of `EngineLM`.
    """

    def __init__(self, *arguments: Any, overlength: str = "mark", **named: Any) -> None:
        self.overlength = read_overlength(overlength)
        super().__init__(*arguments, **named)
        self._ledger = Ledger(stripped=self.thinking is not None)
        # Of those whose log-likelihoods are asked for; windows of a rolling one are no documents.
        self._documents = 0
        # Tokens that pairs of context and continuation lost before VLLM sees them.
        self._lost: dict[tuple[str, str], int] = {}
        super().set_cache_hook(NotedHook(CacheHook(None), self._ledger))
        harness.watch_answers()
        if self.batch_size == 1:
            logger.warning("batch_size=1 runs one prompt after another: give batch_size=auto.")

    # ---- generation ----------------------------------------------------------------------------

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """VLLM's, with a note to each answer, an empty one to prompts without segments."""
        return unsegmented.texts(self, requests, lambda kept: self._answers(kept, disable_tqdm))

    def _answers(self, requests: list[Any], disable_tqdm: bool) -> list[str]:
        """Answers to requests, but for prompts that are too long."""
        for settings in {str(one.args[1]): one.args[1] for one in requests}.values():
            self._check_generation(settings)
        rows = [self._row(*one.args) for one in requests]
        excess = [
            max(0, row.whole - self._room(one.args[1]))
            for row, one in zip(rows, requests, strict=True)
        ]
        skipped = self._left_out(requests, excess)
        answers: dict[int, str] = {
            place: Answer.of("", Note(excess, skipped=True)) for place, excess in skipped.items()
        }
        parts: dict[bool, list[int]] = {False: [], True: []}
        for place in (place for place in range(len(requests)) if place not in skipped):
            parts[harness.samples(requests[place].args[1])].append(place)
        for sampled, places in parts.items():
            asked = [requests[place] for place in places]
            ready = [rows[place] for place in places]
            made = self._generated(asked, ready, disable_tqdm, sampled=sampled)
            answers.update(zip(places, made, strict=True))
        return [answers[place] for place in range(len(requests))]

    def _generated(
        self, requests: Sequence[Any], rows: Sequence[Row], quiet: bool, *, sampled: bool
    ) -> Sequence[str]:
        """Answers to requests whose prompts have these tokens."""
        if not requests:
            return []
        pairs = list(zip(rows, (one.args[1] for one in requests), strict=True))

        def answer(batch: list[_Request]) -> list[Answer]:
            texts = super(CtxVLLM, self).generate_until(batch, True)
            prompts = [one.args[0].row.prompt for one in batch]
            return [self._ledger.answer(*one) for one in zip(prompts, texts, strict=True)]

        return self._batched(
            [_Request((Ready.of(row), settings)) for row, settings in pairs],
            [request_digest(row.prompt, settings) for row, settings in pairs],
            [(-len(row), row.prompt) for row in rows],
            answer,
            progress.requests(len(requests), documents(requests), "generate_until", quiet),
            sampled=sampled,
        )

    def _batched(
        self,
        requests: Sequence[Any],
        digests: list[str],
        keys: Sequence[Any],
        answer: Run,
        bar: AbstractContextManager[Done],
        *,
        sampled: bool = False,
    ) -> Answers:
        """Answers to requests, batch by batch in VLLM's order; each is kept where it is safe.

        Args:
            digests: what each is known by where answers are kept.
            keys: VLLM's, by which they are ordered.
            sampled: whether answers are drawn at random; then none are kept.
        """
        nothing = nullcontext(Kept(None, [], set()))
        rows = [[place] for place in range(len(requests))]
        with nothing if sampled else opened(self.identity(), 0, set()) as kept, bar as done:
            work = Work(requests, digests, rows, answer, done)

            def run(batch: list[list[int]]) -> list[list[Any]]:
                if kept.keeps:
                    # A batch that runs again finds an empty cache: so does this one.
                    self._engines.forget()
                return work.batch(batch, kept)

            return work.in_order(in_fixed_batches(rows, keys, run, self._size(kept, len(rows))))

    def _size(self, kept: Kept, requests: int) -> int:
        """How many are a batch: with `auto` all, or where they are kept what the engines hold."""
        if self.batch_size != "auto":
            return int(self.batch_size)
        held = int(self._report["sequences"]) * int(self.data_parallel_size)
        return held if kept.keeps else max(1, requests)

    def _check_generation(self, settings: Mapping[str, Any]) -> None:
        check_generation(settings, self.max_length, self.max_gen_toks)
        if self.steering.active:
            refusals.check_generation(settings)
        self._require_room(self._room(settings))

    def _row(self, text: str, settings: Mapping[str, Any]) -> Row:
        """The tokens of a prompt; what VLLM cuts as well as we do is left to it."""
        if not self._segmented:
            ids = super().tok_encode(text)
            return Row.of(ids, [False] * len(ids), text, len(ids))
        tokens = self._tokens(self._rendered(text))
        whole = len(tokens.input_ids)
        own = self.cut == "frame" or self.thinking is not None
        limit = self._room(settings) if own else whole
        return Row.segmented(*shortened(tokens, limit, self.cut), text, whole)

    def _room(self, settings: Mapping[str, Any]) -> int:
        """Tokens that a thought and generation arguments leave for a prompt."""
        answer = harness.answer_tokens(settings, self.max_gen_toks)
        return int(self.max_length) - self._thought_tokens - answer

    def _left_out(self, requests: Sequence[Any], excess: Sequence[int]) -> dict[int, int]:
        """Requests to leave out as too long, by place, and by how many tokens they are."""
        return {} if self.overlength == "mark" else overlong(requests, excess, self.overlength)

    def tok_encode(self, string: Any, *args: Any, **kwargs: Any) -> Any:
        """VLLM's, but for prompts that know their tokens."""
        if isinstance(string, tuple) and all(isinstance(one, Ready) for one in string):
            return [one.row for one in string]
        return super().tok_encode(string, *args, **kwargs)

    def _model_generate(
        self,
        requests: Sequence[list[int]],
        generate: bool = False,
        sampling_params: Sequence[SamplingParams] | None = None,
    ) -> list[Any]:
        """VLLM's, steered, after a thought where the model thinks; notes what is unfinished."""
        if not generate or sampling_params is None:
            return self._run(requests, [_SCORED] * len(requests))
        rows: list[Any] = list(requests)
        self._ledger.begin([row.prompt for row in rows], [row.cut for row in rows])
        if self.thinking is None:
            outputs = self._run(rows, sampling_params)
        else:
            outputs = self._after_thoughts(self.thinking, rows, sampling_params)
        self._ledger.end([one.outputs[0].finish_reason == "length" for one in outputs])
        return outputs

    def _after_thoughts(
        self, thinking: Thinking, rows: Sequence[Row], params: Sequence[SamplingParams]
    ) -> list[Any]:
        """The output of each row to its prompt and its thought."""
        run = self._run if self.arm.steer_thought else self._run_unsteered
        thoughts = closed_thoughts(thinking, rows, params, run)
        closed = [place for place, thought in enumerate(thoughts) if thought is not None]
        whole = answer_rows(
            thinking,
            [rows[place] for place in closed],
            [thoughts[place] or [] for place in closed],
            kept=not self.steering.steer_generated,
        )
        outputs: list[Any] = [Unclosed()] * len(rows)
        for place, one in zip(
            closed, self._run(whole, [params[place] for place in closed]), strict=True
        ):
            outputs[place] = one
        return outputs

    def _run_unsteered(self, rows: Sequence[Row], params: Sequence[SamplingParams]) -> list[Any]:
        """In a steered engine: with the same bias on all keys, or none on any, of no effect."""
        same = [not self.steering.steer_generated]
        return self._run([Row.of(row, same * len(row)) for row in rows], params)

    def _run(self, rows: Sequence[list[int]], params: Sequence[SamplingParams]) -> list[Any]:
        """The engine's outputs to rows, which know the user's tokens where that matters."""
        if not rows:
            return []
        if self.steering.active:
            params = [self._marking(row, one) for row, one in zip(rows, params, strict=True)]
        return self._engines.generate(rows, params, self.lora_request, self.batch_size == "auto")

    def _marking(self, row: Any, params: SamplingParams) -> SamplingParams:
        marks = wire.request(row.user, self.steering.steer_generated, self._salt)
        marked = params.clone()
        marked.extra_args = {**(params.extra_args or {}), wire.NAME: marks}
        return marked

    # ---- log-likelihoods -----------------------------------------------------------------------

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """VLLM's, but for prompts that are too long or without segments."""
        self._require_no_thought()
        if self.steering.active and not all(one.args[0] for one in requests):
            raise no_user_turn()
        return unsegmented.scores(
            self, requests, lambda kept: self._log_likelihoods(kept, disable_tqdm)
        )

    def _log_likelihoods(self, requests: list[Any], disable_tqdm: bool) -> list[tuple[float, bool]]:
        """Log-likelihoods, but for prompts that are too long."""
        excess = [0] * len(requests)
        if self.overlength != "mark":
            excess = [self._pair_excess(*one.args) for one in requests]
        skipped = self._left_out(requests, excess)
        kept = [one for place, one in enumerate(requests) if place not in skipped]
        self._documents = documents(requests)
        try:
            found = iter(super().loglikelihood(kept, disable_tqdm))
        finally:
            self._documents = 0
        return [
            LogLikelihood.of((-math.inf, False), Note(skipped[place], skipped=True))
            if place in skipped
            else next(found)
            for place in range(len(requests))
        ]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """VLLM's; there is no user turn to steer towards."""
        if self.steering.active:
            raise no_user_turn()
        found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm)
        return found

    def _pair_excess(self, context: str, continuation: str) -> int:
        """Tokens by which a pair is longer than the window; with an empty context none."""
        if not context:
            return 0
        pair = self._encode_pair(context, continuation)
        return self._lost.get((context, continuation), 0) + self._excess(*pair)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """VLLM's split of context and continuation, which know the user's tokens."""
        if not self._segmented:
            found: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return found
        prompt = self._rendered(context)
        stripped = prompt.text.rstrip()
        behind = prompt.text[len(stripped) :] + continuation
        prompt = clipped(prompt, len(stripped))
        whole = self._tokens(with_response(prompt, behind))
        limit = self.max_length - 1 if self.cut == "frame" else len(whole.input_ids)
        row = Row.segmented(*shortened(whole, limit, self.cut))
        lost = len(whole.input_ids) - len(row)
        self._lost[context, continuation] = lost
        split = len(self._tokens(prompt).input_ids) - lost
        return row[:split], row[split:]

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """VLLM's, with a note to each answer."""

        def answer(batch: list[Any]) -> list[LogLikelihood]:
            notes = [
                self._ledger.score(pair, self._lost.get(pair, 0) + self._excess(*tokens))
                for pair, *tokens in batch
            ]
            found = super(CtxVLLM, self)._loglikelihood_tokens(batch, True)
            return [LogLikelihood.of(one, note) for one, note in zip(found, notes, strict=True)]

        return self._batched(
            requests,
            [request_digest(*one) for one in requests],
            [(-len(tokens), tokens) for tokens in ((*a, *b) for _, a, b in requests)],
            answer,
            progress.requests(len(requests), self._documents, "loglikelihood", disable_tqdm),
        )

    def _excess(self, context: Sequence[int], continuation: Sequence[int]) -> int:
        """Tokens of a row that VLLM cuts."""
        return max(0, len(context) + len(continuation) - (self.max_length - 1))

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Attach the answer cache of --use_cache, unless other settings wrote it."""
        if cache_hook.dbdict is not None:
            check_cache(cache_hook.dbdict, self.fingerprint())
        super().set_cache_hook(NotedHook(cache_hook, self._ledger))


register_model()
