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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from hashlib import blake2b
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2.exceptions import TemplateError
from lm_eval.models.huggingface import HFLM

from ctx_tasks.arm import ARGUMENTS, split
from ctx_tasks.errors import UserError
from ctx_tasks.loaded import Loaded, announce
from ctx_tasks.prompts import WithoutIndicator

from . import attention, nano
from .arm import ArmSettings, read_arm
from .fingerprint import check_cache, checkpoint_fingerprint, short_hash
from .generation import check_generation
from .indicator import check_indicator
from .instruction import insert_instruction
from .registry import register_model
from .selfcheck import SelfCheck
from .spans import Rendered, Segment, Segmented, raw, render, tokenize, with_response
from .steering import steer

logger = logging.getLogger(__name__)

# The arguments, beside the names, that decide which tokenizer and config are read.
_SOURCE = ("revision", "trust_remote_code", "subfolder", "gguf_file")


class PromptText(str):
    """A rendered prompt that remembers its segments (and keeps them when pickled)."""

    rendered: Rendered

    @classmethod
    def of(cls, rendered: Rendered) -> PromptText:
        """The text of `rendered`, carrying it along."""
        text = cls(rendered.text)
        text.rendered = rendered
        return text


class CtxLM(HFLM):
    """HFLM with attention steering and the context indicator.

    Args:
        pretrained: model folder or hub name, or the name of a bundled model (`ctx_models.nano`);
            None for the bundled nano-chat, with a warning.
        peft, tokenizer: HFLM's; the adapter's tokenizer is used when it has one.
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
        **kwargs: Any,
    ) -> None:
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

    def _take(self, settings: ArmSettings) -> None:
        """Note the settings of an arm and forget what was noted under another."""
        self.arm, self.steering = settings.arm, settings.steering
        self._row_masks: dict[bytes, np.ndarray] = {}
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
        """Whether anything here changes a prompt or needs to know which tokens are the user's."""
        marked = self.arm.indicator is not None or self.arm.instruction is not None
        return self.steering.active or marked

    # ---- prompts -------------------------------------------------------------------------------

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render the messages; with steering or an indicator the result carries its segments."""
        self._templated = True
        if self.arm.instruction is not None:
            told = self.arm.instruction, self.arm.instruction_turn
            chat_history = insert_instruction(chat_history, *told)
        # Without a template `render` says so in one sentence; HFLM would not.
        if not self._segmented and self.tokenizer.chat_template:
            return super().apply_chat_template(chat_history, add_generation_prompt)
        try:
            return PromptText.of(self._render(chat_history, add_generation_prompt))
        except UserError as error:
            turns = [message for message in chat_history if message["role"] != "system"]
            if len(turns) == len(chat_history) or not isinstance(error.__cause__, TemplateError):
                raise
            if self.arm.instruction is not None and self.arm.instruction_turn == "system":
                raise UserError(
                    "The chat template refuses a system message: give instruction_turn=user."
                ) from error
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
        if self.arm.instruction is not None:
            raise UserError(
                "instruction= is put into a turn of a chat: run it with --apply_chat_template."
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

    def generate_until(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[str]:
        """HFLM's, after a look at the generation arguments, which would end it in a traceback."""
        window = self.max_length if self.backend == "causal" else None
        for settings in {str(one.args[1]): one.args[1] for one in requests}.values():
            check_generation(settings, window, self.max_gen_toks)
        return super().generate_until(requests, *args, **kwargs)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, each [batch, tokens]; notes which tokens are the user's."""
        if not self._segmented:
            return super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)
        rows = [self._tokens(self._rendered(text)) for text in strings]
        longest = max(len(row.input_ids) for row in rows)
        width = min(longest, left_truncate_len or longest)
        if width < longest:
            logger.warning("Left truncation: %d tokens cut to the last %d.", longest, width)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        user = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, tokens in enumerate(rows):
            kept = slice(-min(width, len(tokens.input_ids)), None)
            where = kept if padding_side == "left" else slice(0, -kept.start)
            ids[row, where] = torch.tensor(tokens.input_ids[kept])
            mask[row, where] = 1
            user[row, where] = torch.tensor(tokens.segments[kept]) == Segment.USER
        self._user_mask = user
        return ids, mask

    def _model_generate(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.steering.active:
            return super()._model_generate(context, *args, **kwargs)
        assert self._user_mask is not None
        with self._steered(self._user_mask):
            return super()._model_generate(context, *args, **kwargs)

    @contextmanager
    def _steered(self, user_mask: torch.Tensor) -> Iterator[None]:
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

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """HFLM's split of context and continuation, noting which tokens are the user's."""
        if not self._segmented:
            return super()._encode_pair(context, continuation)
        prompt = self._rendered(context)
        stripped = prompt.text.rstrip()
        continuation = prompt.text[len(stripped) :] + continuation
        prompt = _clipped(prompt, len(stripped))
        prompt_tokens = self._tokens(prompt)
        whole_tokens = self._tokens(with_response(prompt, continuation))
        self._note_row(whole_tokens)
        ids, split = whole_tokens.input_ids, len(prompt_tokens.input_ids)
        return ids[:split], ids[split:]

    def _note_row(self, tokens: Segmented) -> None:
        """Remember the user mask of the row HFLM will build from these tokens."""
        row = slice(-(self.max_length + 1), None)
        ids = np.array(tokens.input_ids[row][:-1], dtype=np.int32)
        user = np.array(tokens.segments[row][:-1]) == Segment.USER
        self._row_masks[_digest(ids)] = np.packbits(user)

    def _row_mask(self, ids: np.ndarray) -> np.ndarray:
        """The user mask of a row that HFLM padded on the right with zeros."""
        shortest = int(np.flatnonzero(ids)[-1]) + 1 if ids.any() else 1
        for length in range(shortest, len(ids) + 1):
            packed = self._row_masks.get(_digest(ids[:length]))
            if packed is not None:
                return np.unpackbits(packed, count=length).astype(bool)
        raise UserError(
            "A log-likelihood row without a prompt (perplexity tasks, empty context) has no user "
            "turn to steer towards; run it with alpha=1."
        )

    def _model_call(self, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.steering.active:
            return super()._model_call(inps, *args, **kwargs)
        user = torch.ones(inps.shape, dtype=torch.bool)
        if not self._probing:
            for row, ids in enumerate(inps.cpu().numpy().astype(np.int32)):
                found = self._row_mask(ids)
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
        super().set_cache_hook(cache_hook)


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


def _digest(ids: np.ndarray) -> bytes:
    return blake2b(ids.tobytes(), digest_size=16).digest()


def _clipped(rendered: Rendered, length: int) -> Rendered:
    """The first `length` characters of `rendered`."""
    spans = [span._replace(end=min(span.end, length)) for span in rendered.spans]
    kept = tuple(span for span in spans if span.start < span.end)
    places = tuple(place for place in rendered.indicators if place[1] <= length)
    return replace(rendered, text=rendered.text[:length], spans=kept, indicators=places)


register_model()
