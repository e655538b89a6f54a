"""The model behind `hf-ctx`: HFLM loaded, in an arm, with prompts that know their segments.

The harness hands a model only the rendered prompt, so the segments are found where the chat
template is applied and travel with the text (`PromptText`). Without a chat template the whole
prompt is user text. What runs a request (generation, log-likelihoods) is in `lm.py`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from lm_eval.models.huggingface import HFLM

from ctx_tasks.arm import ARGUMENTS, split
from ctx_tasks.errors import UserError
from ctx_tasks.loaded import Loaded, announce
from ctx_tasks.prompts import WithoutIndicator

from . import attention, nano
from .arm import ArmSettings, read_arm
from .fingerprint import short_hash
from .indicator import check_indicator
from .instruction import insert_instruction
from .prompts import PromptText
from .selfcheck import SelfCheck
from .spans import Rendered, Segmented, raw, render, tokenize
from .steering import steer
from .window import read_cut

logger = logging.getLogger(__name__)

# The arguments, beside the names, that decide which tokenizer and config are read.
_SOURCE = ("revision", "trust_remote_code", "subfolder", "gguf_file")


class SteeredLM(HFLM):
    """HFLM that knows the user's tokens, can be steered, and says in results what it is.

    Args:
        pretrained: model folder or hub name, or the name of a bundled model (`ctx_models.nano`);
            None for the bundled nano-chat, with a warning.
        peft, tokenizer: HFLM's; the adapter's tokenizer is used when it has one.
        cut: what prompts longer than the window lose: the oldest tokens (`left`, as in hf), or the
            middle of what the user wrote (`frame`).
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
        cut: str = "left",
        **kwargs: Any,
    ) -> None:
        self.cut = read_cut(cut)
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

    def _take(self, settings: ArmSettings) -> None:
        """Note the settings of an arm and forget what was noted under another."""
        self.arm, self.steering = settings.arm, settings.steering
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
        return self.steering.active or marked or self.cut == "frame"

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


_OWN_ARGUMENTS = [*ARGUMENTS, "overlength", *signature(SteeredLM.__init__).parameters]


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
