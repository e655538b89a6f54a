"""`hf-ctx`: the harness's own `hf` model, steered or with `[IND]`.

A thin subclass of `HFLM`, the half of it that runs requests (`steered.py` is the other, and
`batched.py` puts them into batches). With alpha=1 and no indicator every method is HFLM's own: same
generations, bit-identical log-likelihoods. Each answer remembers what became of its request
(`ctx_tasks.answers`). The continuation of a log-likelihood request is the model's response, never
user text.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import CacheHook
from transformers import StoppingCriteriaList

from ctx_tasks import harness
from ctx_tasks.answers import Answer, LogLikelihood, Note

from . import last_logits, progress, unsegmented
from .arm import ArmSettings
from .batched import BatchedLM
from .batches import token_budget
from .fingerprint import check_cache, checkpoint_fingerprint
from .generation import check_generation
from .launched import everyone, together
from .notes import Ledger, NotedHook
from .prompts import PromptText, clipped
from .registry import register_model
from .rows import UserRows
from .spans import Segment, Segmented, with_response
from .thinking import Closed, continued
from .window import overlong, read_overlength, shortened

logger = logging.getLogger(__name__)


class CtxLM(BatchedLM):
    """HFLM with attention steering and the context indicator.

    Args:
        overlength: what is done with prompts longer than the window: `mark` counts what they lose,
            `skip` leaves their documents out, `refuse` ends the run before anything runs.
        arguments: of `SteeredLM`.

    Raises:
        UserError: any setting out of range, before the model loads where possible.
    """

    def __init__(self, *arguments: Any, overlength: str = "mark", **named: Any) -> None:
        self.overlength = read_overlength(overlength)
        super().__init__(*arguments, **named)
        self._ledger = Ledger(stripped=self.thinking is not None)
        # Tokens that pairs of context and continuation lost before HFLM sees them.
        self._lost: dict[tuple[str, str], int] = {}
        # Of a batch of log-likelihoods, the columns at the right that its continuations are in.
        self._read_columns = 0
        super().set_cache_hook(NotedHook(CacheHook(None), self._ledger))
        harness.watch_answers()

    def _take(self, settings: ArmSettings) -> None:
        super()._take(settings)
        self._rows = UserRows()
        # That of a steered arm's last batch is none of the next arm's, whose batches may be larger.
        self._user_mask: torch.Tensor | None = None

    # ---- generation ----------------------------------------------------------------------------

    @together
    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """HFLM's, with a note to each answer, an empty one to prompts without segments."""
        return unsegmented.texts(self, requests, lambda kept: self._answers(kept, disable_tqdm))

    def _answers(self, requests: list[Any], disable_tqdm: bool) -> list[str]:
        """Answers to requests, those of other arguments one after another."""
        window = self.max_length if self.backend == "causal" else None
        for settings in {str(one.args[1]): one.args[1] for one in requests}.values():
            check_generation(settings, window, self.max_gen_toks)
            self._require_room(self._room(settings))
        skipped, run = self._left_out(requests, self._prompt_excess)
        answers: dict[int, str] = {
            place: Answer.of("", Note(excess, skipped=True)) for place, excess in skipped.items()
        }
        by_settings: dict[str, list[int]] = {}
        for place in run:
            by_settings.setdefault(str(requests[place].args[1]), []).append(place)
        quiet = disable_tqdm or self.rank != 0
        documents = self._evaluated(requests)
        with progress.requests(len(run), documents, "generate_until", quiet) as done:
            for places in by_settings.values():
                asked = [requests[place] for place in places]
                needed = partial(self._needed, asked)
                texts = self._generated(asked, needed, self._batch, done)
                answers.update(zip(places, texts, strict=True))
        return [answers[place] for place in range(len(requests))]

    def _needed(self, requests: list[Any]) -> list[int]:
        """Tokens that each of these requests of the same arguments may come to."""
        room = self._room(requests[0].args[1])
        return [min(self._length(one.args[0]), room) + self.max_length - room for one in requests]

    def _batch(self, batch: list[Any]) -> list[str]:
        """HFLM's answers to one batch, with their notes."""
        size = self.batch_size_per_gpu
        if self.backend == "causal":
            self.batch_size_per_gpu = len(batch)
        try:
            texts = super().generate_until(batch, True)
        finally:
            self.batch_size_per_gpu = size
        return [
            self._ledger.answer(one.args[0], text) for one, text in zip(batch, texts, strict=True)
        ]

    def _left_out(
        self, requests: Sequence[Any], excess: Callable[[Any], int]
    ) -> tuple[dict[int, int], list[int]]:
        """Requests to leave out as too long, by place, and by how many tokens; those to run.

        Where another process runs more, the last is run again, as the harness does it: a sharded
        model has to be called equally often by all.
        """
        if self.overlength == "mark":
            return {}, list(range(len(requests)))
        tokens = [excess(one) for one in requests]
        skipped = overlong(requests, tokens, self.overlength, partial(everyone, self))
        run = [place for place in range(len(requests)) if place not in skipped]
        return skipped, run + run[-1:] * (max(everyone(self, [len(run)])) - len(run))

    def _prompt_excess(self, request: Any) -> int:
        """Tokens by which a prompt is longer than the room for it."""
        text, settings = request.args
        return max(0, self._length(text) - self._room(settings))

    def _room(self, settings: Mapping[str, Any]) -> int:
        """Tokens that a thought and generation arguments leave for a prompt."""
        if self.backend != "causal":
            return int(self.max_length)
        answer = harness.answer_tokens(settings, self.max_gen_toks)
        return self.max_length - self._thought_tokens - answer

    def _length(self, text: str) -> int:
        """Tokens of a prompt as it will be run."""
        if self._segmented:
            return len(self._tokens(self._rendered(text)).input_ids)
        return len(self.tok_encode(text))

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, each [batch, tokens]; notes what a cut takes away.

        With segments it also notes which tokens are the user's.
        """
        if left_truncate_len is not None:
            left_truncate_len -= self._thought_tokens
        if not self._segmented:
            ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
            lengths = mask.sum(1).tolist()
            kept = slice(-(left_truncate_len or ids.shape[1]), None)
            ids, mask = ids[:, kept], mask[:, kept]
        else:
            rows = [self._tokens(self._rendered(text)) for text in strings]
            lengths = [len(row.input_ids) for row in rows]
            ids, mask = self._padded(rows, padding_side, left_truncate_len or max(lengths))
        cuts = [max(0, length - ids.shape[1]) for length in lengths]
        if any(cuts):
            logger.warning("%d tokens of a prompt are cut to %d.", max(lengths), ids.shape[1])
        self._ledger.begin(strings, cuts)
        self._prefixes = [one.prefix if isinstance(one, PromptText) else "" for one in strings]
        return ids, mask

    def _padded(
        self, rows: Sequence[Segmented], padding_side: str, limit: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows cut to `limit` and padded to one width; notes which tokens are the user's."""
        kept = [shortened(row, limit, self.cut) for row in rows]
        width = max(len(ids) for ids, _ in kept)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        user = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, (row_ids, segments) in enumerate(kept):
            where = slice(width - len(row_ids), None)
            where = where if padding_side == "left" else slice(0, len(row_ids))
            ids[row, where] = torch.tensor(row_ids)
            mask[row, where] = 1
            user[row, where] = torch.tensor(segments) == Segment.USER
        self._user_mask = user
        return ids, mask

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs: Any
    ) -> torch.Tensor:
        """HFLM's, steered, after a thought where the model thinks; notes what is unfinished."""
        if self.thinking is not None:
            answers = self._after_thoughts(context, max_length - context.shape[1], stop, **kwargs)
            self._ledger.end([one is None or not self._ended(one, stop) for one in answers])
            return self._behind(context, [one or [] for one in answers])
        rows = self._continued(context, max_length, stop, self._user_mask, **kwargs)
        begin = context.shape[1] if self.backend == "causal" else 0
        self._ledger.end([not self._ended(row, stop) for row in rows[:, begin:].tolist()])
        return rows

    def _after_thoughts(
        self, context: torch.Tensor, tokens: int, stop: list[str], **kwargs: Any
    ) -> list[list[int] | None]:
        """The answer of each row to its prompt and its thought; None where that never closes."""
        assert self.thinking is not None
        assert self._user_mask is not None
        mask = kwargs.pop("attention_mask")
        thoughts = self._thoughts(context, mask, **kwargs)
        ends = [self.thinking.closed(thought) for thought in thoughts]
        closed = [row for row, end in enumerate(ends) if end is not None]
        answers: list[list[int] | None] = [None] * len(thoughts)
        if not closed:
            return answers
        keep = mask.bool().cpu()
        whole = continued(
            [
                (context[row].cpu()[keep[row]].tolist(), self._user_mask[row][keep[row]].tolist())
                for row in closed
            ],
            [thoughts[row][: ends[row]] for row in closed],
            [self.thinking.prefix(self._prefixes[row]) for row in closed],
            pad=self.tokenizer.pad_token_id,
            kept=not self.steering.steer_generated,
        )
        ids, mask = whole.ids.to(self.device), whole.mask.to(self.device)
        with self._steered(whole.user):
            rows = super()._model_generate(
                ids, ids.shape[1] + tokens, stop, attention_mask=mask, **kwargs
            )
        for row, answer in zip(closed, rows[:, ids.shape[1] :].tolist(), strict=True):
            answers[row] = answer
        return answers

    def _thoughts(
        self, context: torch.Tensor, mask: torch.Tensor, **kwargs: Any
    ) -> list[list[int]]:
        """What each row generates until its thought is closed, or its budget used up."""
        assert self.thinking is not None
        if not kwargs.get("do_sample"):
            kwargs |= {"do_sample": False, "temperature": None}
        user = self._user_mask if self.arm.steer_thought else None
        autocast = torch.autocast(
            self.device.type, self.mixed_precision_dtype, self.mixed_precision_dtype is not None
        )
        with self._steered(user), autocast:
            rows = self.model.generate(
                input_ids=context,
                attention_mask=mask,
                max_length=context.shape[1] + self.thinking.tokens,
                stopping_criteria=StoppingCriteriaList([Closed(self.thinking, context.shape[1])]),
                pad_token_id=self.tokenizer.pad_token_id,
                use_cache=True,
                **kwargs,
            )
        found: list[list[int]] = rows[:, context.shape[1] :].tolist()
        return found

    def _behind(self, context: torch.Tensor, answers: Sequence[list[int]]) -> torch.Tensor:
        """Answers behind their prompts, as HFLM takes them apart."""
        width = max(map(len, answers))
        end = self.eot_token_id
        rows = [answer + [end] * (width - len(answer)) for answer in answers]
        behind = torch.tensor(rows, dtype=context.dtype, device=context.device)
        return torch.cat([context, behind.reshape(len(rows), width)], dim=1)

    def _ended(self, row: Sequence[int], stop: Sequence[str]) -> bool:
        """Whether a generated row holds an end or a stop string."""
        ends = self.model.generation_config.eos_token_id
        ids = {self.eot_token_id, *([ends] if isinstance(ends, int) else ends or ())}
        text = self.tok_decode(row, skip_special_tokens=False)
        return not ids.isdisjoint(row) or any(one in text for one in stop if one)

    # ---- log-likelihoods -----------------------------------------------------------------------

    @together
    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """HFLM's, but for prompts that are too long or without segments."""
        self._require_no_thought()
        return unsegmented.scores(
            self, requests, lambda kept: self._loglikelihoods(kept, disable_tqdm)
        )

    def _loglikelihoods(self, requests: list[Any], disable_tqdm: bool) -> list[tuple[float, bool]]:
        """Log-likelihoods, but for prompts that are too long."""
        skipped, run = self._left_out(requests, lambda one: self._pair_excess(*one.args))
        found = super().loglikelihood([requests[place] for place in run], disable_tqdm)
        scores = dict(zip(run, found, strict=True))
        for place, excess in skipped.items():
            scores[place] = LogLikelihood.of((-math.inf, False), Note(excess, skipped=True))
        return [scores[place] for place in range(len(requests))]

    def _pair_excess(self, context: str, continuation: str) -> int:
        """Tokens by which a pair is longer than the window; with an empty context none."""
        if not context:
            return 0
        pair = self._encode_pair(context, continuation)
        return self._lost.get((context, continuation), 0) + self._excess(*pair)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """HFLM's split of context and continuation, noting which tokens are the user's."""
        if not self._segmented:
            return super()._encode_pair(context, continuation)
        pair, prompt = (context, continuation), self._rendered(context)
        stripped = prompt.text.rstrip()
        continuation = prompt.text[len(stripped) :] + continuation
        prompt = clipped(prompt, len(stripped))
        prompt_tokens = self._tokens(prompt)
        whole_tokens = self._tokens(with_response(prompt, continuation))
        # The last token is never run.
        limit = self.max_length + 1 if self.cut == "frame" else len(whole_tokens.input_ids)
        ids, segments = shortened(whole_tokens, limit, self.cut)
        lost = len(whole_tokens.input_ids) - len(ids)
        self._lost[pair] = lost
        self._rows.note(ids, segments, self.max_length)
        split = len(prompt_tokens.input_ids) - lost
        return ids[:split], ids[split:]

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """HFLM's, with a note to each answer; `auto` sizes batches by what the rows need."""

        def answer(batch: list[Any]) -> list[LogLikelihood]:
            notes = [
                self._ledger.score(pair, self._lost.get(pair, 0) + self._excess(*tokens))
                for pair, *tokens in batch
            ]
            size = len(batch) if self.backend == "causal" else override_bs
            self._read_columns = last_logits.needed([pair for _, *pair in batch], self.max_length)
            found = super(CtxLM, self)._loglikelihood_tokens(batch, True, size)
            return [LogLikelihood.of(one, note) for one, note in zip(found, notes, strict=True)]

        return self._scored(requests, answer, disable_tqdm or self.rank != 0)

    def _excess(self, context: Sequence[int], continuation: Sequence[int]) -> int:
        """Tokens of a row that HFLM cuts."""
        causal = self.backend == "causal"
        length = len(context) + (len(continuation) - 1 if causal else 0)
        return max(0, length - self.max_length)

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.steering.active:
            return super()._model_call(inps, *args, **kwargs)
        user = torch.zeros(inps.shape, dtype=torch.bool)
        for row, ids in enumerate(inps.cpu().numpy().astype(np.int32)):
            found = self._rows.mask(ids)
            user[row, : len(found)] = torch.from_numpy(found)
        causal = self.backend == "causal"
        leave_out = last_logits.only(self.model, self._read_columns) if causal else nullcontext()
        with self._steered(user), leave_out:
            return super()._model_call(inps, *args, **kwargs)

    def _detect_batch_size(self, *args: Any, **kwargs: Any) -> int:
        """Rows of the whole window (a rolling log-likelihood's), by the estimate of `batches`."""
        if self.backend != "causal":
            return super()._detect_batch_size(*args, **kwargs)
        fit = token_budget(self.model, self.device, scored=True) // self.max_length
        return min(everyone(self, [max(1, min(self.max_batch_size, fit))]))

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Attach the answer cache of --use_cache, unless other settings wrote it."""
        if cache_hook.dbdict is not None:
            fingerprint = {
                **checkpoint_fingerprint(self.pretrained, self.revision, self.peft, self.delta),
                "dtype": str(self.model.dtype),
                **self.settings(),
            }
            check_cache(cache_hook.dbdict, fingerprint)
        super().set_cache_hook(NotedHook(cache_hook, self._ledger))


register_model()
