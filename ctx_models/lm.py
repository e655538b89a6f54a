"""`hf-ctx`: the harness's own `hf` model, steered or with `[IND]`.

A thin subclass of `HFLM`. The harness hands a model only the rendered prompt, so the segments are
found where the chat template is applied and travel with the text (`PromptText`). With alpha=1 and
no indicator every method is HFLM's own: same generations, bit-identical log-likelihoods.

Without a chat template the whole prompt is user text. The continuation of a log-likelihood request
is the model's response, never user text.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2.exceptions import TemplateError
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM

from ctx_tasks import harness
from ctx_tasks.answers import Answer, LogLikelihood, Note
from ctx_tasks.arm import ARGUMENTS, split
from ctx_tasks.errors import UserError
from ctx_tasks.loaded import Loaded, announce
from ctx_tasks.prompts import WithoutIndicator

from . import attention, nano
from .arm import ArmSettings, read_arm
from .fingerprint import check_cache, checkpoint_fingerprint, short_hash
from .generation import check_generation
from .indicator import check_indicator
from .notes import Ledger, NotedHook
from .prompts import PromptText, clipped
from .registry import register_model
from .rows import UserRows
from .selfcheck import SelfCheck
from .spans import Rendered, Segment, Segmented, raw, render, tokenize, with_response
from .steering import steer
from .window import overlong, read_policy, shortened

logger = logging.getLogger(__name__)

# The arguments, beside the names, that decide which tokenizer and config are read.
_SOURCE = ("revision", "trust_remote_code", "subfolder", "gguf_file")


class CtxLM(HFLM):
    """HFLM with attention steering and the context indicator.

    Args:
        pretrained: model folder or hub name, or the name of a bundled model (`ctx_models.nano`);
            None for the bundled nano-chat, with a warning.
        peft, tokenizer: HFLM's; the adapter's tokenizer is used when it has one.
        overlength: what is done with prompts longer than the window: `mark` counts what they lose,
            `skip` leaves their documents out, `refuse` ends the run before anything runs.
        cut: what they lose: the oldest tokens (`left`, as in hf), or the middle of what the user
            wrote (`frame`).
        kwargs: the settings of an arm (`ctx_tasks.arm.ARGUMENTS`: alpha, schedule, layers,
            indicator, ...), described at `ctx_tasks.arm.Arm`, and HFLM's.

    Raises:
        UserError: any setting out of range, before the model loads where possible.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        peft: str | None = None,
        tokenizer: Any = None,
        overlength: str = "mark",
        cut: str = "left",
        **kwargs: Any,
    ) -> None:
        self.overlength, self.cut = read_policy(overlength, cut)
        if pretrained is None:
            logger.warning("hf-ctx got no `pretrained`: this is the bundled %s.", nano.DEFAULT)
        given = pretrained
        if pretrained is None or isinstance(pretrained, str):
            pretrained = nano.resolve(pretrained)
        kwargs, arm = split(kwargs)
        self._take(read_arm(arm))
        if peft and tokenizer is None and (Path(peft) / "tokenizer_config.json").exists():
            tokenizer = peft
        _check_arguments(kwargs)
        # HFLM's own default is "cuda", also where there is none.
        if kwargs.get("device") is None:
            kwargs["device"] = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            super().__init__(pretrained, tokenizer=tokenizer, peft=peft, **kwargs)
        except ImportError as error:
            raise UserError(
                f"pretrained={pretrained!r} needs a package that is not here: "
                f"{str(error).strip().splitlines()[0]} Install it, or leave out the argument that "
                "asks for it (such as attn_implementation)."
            ) from error
        except OSError as error:
            raise UserError(
                f"pretrained={pretrained!r} could not be loaded: {str(error).splitlines()[0]} "
                "Give the folder or hub name of a transformers model."
            ) from error
        source = {key: kwargs[key] for key in _SOURCE if key in kwargs}
        announce(self, Loaded(given, pretrained, tokenizer, source))
        self._join_processes()
        self._selfcheck = SelfCheck(self.model)
        if self.steering.active:
            self._check_model()
        if self.batch_size != 1 and self.backend == "causal":
            self._check_padding()
        self._user_mask: torch.Tensor | None = None
        self._probing = False
        self._ledger = Ledger()
        # Tokens that pairs of context and continuation lost before HFLM sees them.
        self._lost: dict[tuple[str, str], int] = {}
        super().set_cache_hook(NotedHook(CacheHook(None), self._ledger))
        harness.watch_answers()

    def _take(self, settings: ArmSettings) -> None:
        """Note the settings of an arm and forget what was noted under another."""
        self.arm, self.steering = settings.arm, settings.steering
        self._rows = UserRows()
        self._templated = False
        self._paths: set[str] = set()

    def set_arm(self, settings: ArmSettings) -> None:
        """Make this loaded model the one that the arguments of an arm would have loaded.

        Raises:
            UserError: an indicator that the tokenizer, or steering that the model does not take.
        """
        self._take(settings)
        self._check_indicator()
        if self.steering.active:
            self._check_model()

    def _create_tokenizer(self, *args: Any, **kwargs: Any) -> None:
        """HFLM makes the tokenizer before the model: check the indicator there, not after."""
        super()._create_tokenizer(*args, **kwargs)
        self._check_indicator()

    def _check_indicator(self) -> None:
        if self.arm.indicator is not None:
            check_indicator(self.tokenizer, self.arm.indicator, strict=self.arm.indicator_strict)

    def _create_model(self, *args: Any, **kwargs: Any) -> None:
        """HFLM ties the weights again after loading; an adapter's trained token rows forbid it.

        The rows sit in a wrapper that transformers' `tie_weights` does not know, and loading has
        tied them already.
        """
        super()._create_model(*args, **kwargs)
        if kwargs.get("peft"):
            self.model.get_base_model().tie_weights = lambda *_, **__: None

    def _join_processes(self) -> None:
        """HFLM splits documents over GPUs only, by local rank; split over all processes."""
        accelerator = getattr(self, "accelerator", None)
        if accelerator is not None:
            self._rank = accelerator.process_index
            self._world_size = accelerator.num_processes

    def _check_model(self) -> None:
        attention.require_softmax_attention(self.model)
        config = self.model.config.get_text_config()
        self.steering.biases(config.num_hidden_layers, config.num_attention_heads)
        self._selfcheck.require_steering()

    def _check_padding(self) -> None:
        """Run prompts one by one where padding changes their answers, in every arm."""
        wrong = self._selfcheck.plain_padding_error
        if wrong:
            logger.warning("%s; every prompt is run alone, as with batch_size=1.", wrong)
            self.batch_size_per_gpu = 1

    @property
    def _segmented(self) -> bool:
        """Whether anything here needs to know which tokens are the user's."""
        return self.steering.active or self.arm.indicator is not None or self.cut == "frame"

    # ---- prompts -------------------------------------------------------------------------------

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render the messages; with steering or an indicator the result carries its segments."""
        self._templated = True
        # Without a template `render` says so in one sentence; HFLM would not.
        if not self._segmented and self.tokenizer.chat_template:
            return super().apply_chat_template(chat_history, add_generation_prompt)
        try:
            return PromptText.of(self._render(chat_history, add_generation_prompt))
        except UserError as error:
            turns = [message for message in chat_history if message["role"] != "system"]
            if len(turns) == len(chat_history) or not isinstance(error.__cause__, TemplateError):
                raise
            logger.warning("The chat template refuses a system message; it is left out, as in hf.")
            return PromptText.of(self._render(turns, add_generation_prompt))

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> Rendered:
        return render(
            self.tokenizer,
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            indicator=self._indicator_for([message["content"] for message in messages]),
            indicator_turns=self.arm.indicator_turns,
            template_args=self.chat_template_args,
        )

    def _rendered(self, text: str) -> Rendered:
        """The segments of a prompt as the harness hands it back."""
        if isinstance(text, PromptText):
            return text.rendered
        if self._templated:
            raise UserError(
                "This task changes the prompt after the chat template, so its user turn is lost: "
                f"{text[:60]!r}; run it with alpha=1 and without an indicator."
            )
        return raw(text, self._indicator_for([text]))

    def _indicator_for(self, texts: list[str]) -> str | None:
        """The indicator, unless the task (MT-Bench) wants its prompts without it."""
        unwanted = any(isinstance(text, WithoutIndicator) for text in texts)
        return None if unwanted else self.arm.indicator

    def _tokens(self, rendered: Rendered) -> Segmented:
        return tokenize(self.tokenizer, rendered, add_special_tokens=self.add_bos_token)

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        """HFLM's; a prompt that carries its segments is tokenised as it will be run."""
        if isinstance(string, PromptText) and not args and not kwargs:
            return self._tokens(string.rendered).input_ids
        return super().tok_encode(string, *args, **kwargs)

    # ---- generation ----------------------------------------------------------------------------

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """HFLM's, with a note to each answer; requests of other arguments run one after another."""
        window = self.max_length if self.backend == "causal" else None
        by_settings: dict[str, list[int]] = {}
        for place, one in enumerate(requests):
            by_settings.setdefault(str(one.args[1]), []).append(place)
        for places in by_settings.values():
            check_generation(requests[places[0]].args[1], window, self.max_gen_toks)
        skipped = self._left_out(requests, self._prompt_excess)
        answers: dict[int, str] = {
            place: Answer.of("", Note(excess, skipped=True)) for place, excess in skipped.items()
        }
        for places in by_settings.values():
            kept = [place for place in places if place not in skipped]
            texts = self._generate([requests[place] for place in kept], disable_tqdm)
            answers.update(zip(kept, texts, strict=True))
        return [answers[place] for place in range(len(requests))]

    def _generate(self, requests: list[Any], disable_tqdm: bool) -> list[str]:
        """Answers to requests of the same arguments."""
        texts = super().generate_until(requests, disable_tqdm) if requests else []
        return [
            self._ledger.answer(one.args[0], text)
            for one, text in zip(requests, texts, strict=True)
        ]

    def _left_out(self, requests: Sequence[Any], excess: Callable[[Any], int]) -> dict[int, int]:
        """Requests to leave out as too long, by place, and by how many tokens they are."""
        if self.overlength == "mark":
            return {}
        return overlong(requests, [excess(one) for one in requests], self.overlength)

    def _prompt_excess(self, request: Any) -> int:
        """Tokens by which a prompt is longer than the room for it."""
        text, settings = request.args
        return max(0, self._length(text) - self._room(settings))

    def _room(self, settings: Mapping[str, Any]) -> int:
        """Tokens that generation arguments leave for a prompt."""
        if self.backend != "causal":
            return int(self.max_length)
        return self.max_length - harness.answer_tokens(settings, self.max_gen_toks)

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
        """HFLM's, steered; notes which rows met the token limit."""
        steered = self._steered(self._user_mask) if self.steering.active else nullcontext()
        with steered:
            rows = super()._model_generate(context, max_length, stop, **kwargs)
        begin = context.shape[1] if self.backend == "causal" else 0
        self._ledger.end([not self._ended(row, stop) for row in rows[:, begin:].tolist()])
        return rows

    def _ended(self, row: Sequence[int], stop: Sequence[str]) -> bool:
        """Whether a generated row holds an end or a stop string."""
        ends = self.model.generation_config.eos_token_id
        ids = {self.eot_token_id, *([ends] if isinstance(ends, int) else ends or ())}
        text = self.tok_decode(row, skip_special_tokens=False)
        return not ids.isdisjoint(row) or any(one in text for one in stop if one)

    @contextmanager
    def _steered(self, user_mask: torch.Tensor | None) -> Iterator[None]:
        assert user_mask is not None
        settings = self.steering
        with steer(
            self.model,
            user_mask.to(self.device),
            alpha=settings.alpha,
            schedule=settings.schedule,
            steer_generated=settings.steer_generated,
            layers=settings.layers,
            heads=settings.heads,
        ):
            yield
            intervention = attention.active_intervention(self.model)
            self._paths |= intervention.paths if intervention else set()

    # ---- log-likelihoods -----------------------------------------------------------------------

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """HFLM's, but for prompts that are too long."""
        skipped = self._left_out(requests, lambda one: self._pair_excess(*one.args))
        kept = [one for place, one in enumerate(requests) if place not in skipped]
        found = iter(super().loglikelihood(kept, disable_tqdm))
        return [
            LogLikelihood.of((-math.inf, False), Note(skipped[place], skipped=True))
            if place in skipped
            else next(found)
            for place in range(len(requests))
        ]

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
        prompt = self._rendered(context)
        stripped = prompt.text.rstrip()
        continuation = prompt.text[len(stripped) :] + continuation
        prompt = clipped(prompt, len(stripped))
        prompt_tokens = self._tokens(prompt)
        whole_tokens = self._tokens(with_response(prompt, continuation))
        # The last token is never run.
        limit = self.max_length + 1 if self.cut == "frame" else len(whole_tokens.input_ids)
        ids, segments = shortened(whole_tokens, limit, self.cut)
        lost = len(whole_tokens.input_ids) - len(ids)
        self._lost[context, continuation] = lost
        self._rows.note(ids, segments, self.max_length)
        split = len(prompt_tokens.input_ids) - lost
        return ids[:split], ids[split:]

    def _loglikelihood_tokens(
        self, requests: list[Any], *args: Any, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """HFLM's, with a note to each answer."""
        notes = [
            self._ledger.score(pair, self._lost.get(pair, 0) + self._excess(context, continuation))
            for pair, context, continuation in requests
        ]
        found = super()._loglikelihood_tokens(requests, *args, **kwargs)
        return [LogLikelihood.of(one, note) for one, note in zip(found, notes, strict=True)]

    def _excess(self, context: Sequence[int], continuation: Sequence[int]) -> int:
        """Tokens of a row that HFLM cuts."""
        causal = self.backend == "causal"
        length = len(context) + (len(continuation) - 1 if causal else 0)
        return max(0, length - self.max_length)

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.steering.active:
            return super()._model_call(inps, *args, **kwargs)
        user = torch.ones(inps.shape, dtype=torch.bool)
        if not self._probing:
            for row, ids in enumerate(inps.cpu().numpy().astype(np.int32)):
                found = self._rows.mask(ids)
                user[row, : len(found)] = torch.from_numpy(found)
                user[row, len(found) :] = False
        with self._steered(user):
            return super()._model_call(inps, *args, **kwargs)

    def _detect_batch_size(self, *args: Any, **kwargs: Any) -> int:
        self._probing = True
        try:
            return super()._detect_batch_size(*args, **kwargs)
        finally:
            self._probing = False

    # ---- what results and caches must know -----------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """Everything of ours that can move an answer, as plain JSON values."""
        template = self.tokenizer.chat_template if self._templated else None
        return {
            **self.steering.record(),
            **self.arm.marks,
            "chat_template": None if template is None else short_hash(str(template)),
            "chat_template_args": self.chat_template_args,
            "cut": self.cut,
        }

    def get_model_info(self) -> dict[str, Any]:
        """HFLM's model information and our settings, for the results file."""
        loaded = self.model.config.get_text_config()._attn_implementation
        path = f"{attention.NAME}: {'+'.join(sorted(self._paths))}"
        used = path if self.steering.active else loaded
        return {**super().get_model_info(), "ctx": {**self.settings(), "attention": used}}

    @property
    def tokenizer_name(self) -> str:
        """HFLM's, made distinct by what changes a prompt: it is the key of --cache_requests."""
        name = super().tokenizer_name
        if not self._segmented:
            return name
        marks = [*self.arm.marks.values(), str(self.tokenizer.chat_template)]
        return f"{name}__ctx_{short_hash(json.dumps(marks))}"

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


_OWN_ARGUMENTS = [*ARGUMENTS, *signature(CtxLM.__init__).parameters]


def _check_arguments(arguments: dict[str, Any]) -> None:
    """HFLM hands unknown arguments to the model's constructor; catch what looks like a known one.

    Raises:
        UserError: such a one; thoughts that are asked for but not told from the answer.
    """
    known = [*signature(HFLM.__init__).parameters]
    for name, value in arguments.items():
        close = get_close_matches(name, _OWN_ARGUMENTS, n=1, cutoff=0.75)
        # Strictly: `max_memory` is transformers' own, beside HFLM's `max_cpu_memory`.
        close += get_close_matches(name, known, n=1, cutoff=0.85)
        if name not in known and close:
            raise UserError(f"{name}={value} is not a model argument: did you mean {close[0]}?")
    if arguments.get("enable_thinking") and arguments.get("think_end_token") is None:
        raise UserError(
            "enable_thinking=True needs think_end_token, which ends the thought before the answer: "
            "add the model's own, such as think_end_token=</think>."
        )


register_model()
