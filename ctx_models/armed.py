"""A harness model in an arm: what `hf-ctx` and `vllm-ctx` share.

The harness hands a model only the rendered prompt, so the segments are found where the chat
template is applied and travel with the text (`PromptText`). Without a chat template the whole
prompt is user text. What runs the prompts is in `lm.py` and `engine/lm.py`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from jinja2.exceptions import TemplateError
from lm_eval.api.model import TemplateLM

from ctx_tasks.errors import UserError
from ctx_tasks.prompts import WithoutIndicator

from .arm import ArmSettings
from .fingerprint import short_hash
from .indicator import check_indicator
from .instruction import insert_instruction
from .prompts import Conversation, PromptText
from .spans import Rendered, Segmented, raw, render, tokenize
from .steering import Steering
from .thinking import Thinking
from .unsegmented import Unsegmented
from .window import Cut

logger = logging.getLogger(__name__)


class ArmedLM(TemplateLM):
    """Before one of the harness's models: prompts that know their segments, and an arm's settings.

    A subclass sets `cut` and calls `_take` before that model loads, sets `thinking` after it.
    """

    tokenizer: Any
    add_bos_token: bool | None
    cut: Cut
    arm: Any
    steering: Steering
    thinking: Thinking | None = None
    max_length: int
    # Whether plain prompts remember their messages, as someone will ask for their segments.
    keeps_messages = False

    def _take(self, settings: ArmSettings) -> None:
        """Note the settings of an arm and forget what was noted under another."""
        self.arm, self.steering = settings.arm, settings.steering
        self._templated = self._segments_found = False

    def set_arm(self, settings: ArmSettings) -> None:
        """Make this loaded model the one that the arguments of an arm would have loaded.

        Raises:
            UserError: an indicator that the tokenizer, or steering that the model does not take.
        """
        self._take(settings)
        self._check_indicator()
        self._steer()

    def _steer(self) -> None:
        """Do what the settings of steering need done to a loaded model."""
        raise NotImplementedError

    @property
    def _thought_tokens(self) -> int:
        return 0 if self.thinking is None else self.thinking.tokens

    def _require_room(self, room: int) -> None:
        """Refuse generation arguments that leave no token for a prompt."""
        if room < 1:
            raise UserError(
                f"max_length={self.max_length} leaves no room for a prompt beside a thought of "
                f"think_tokens={self._thought_tokens} and the answer: lower think_tokens."
            )

    def _require_no_thought(self) -> None:
        """Refuse log-likelihoods of a model that thinks."""
        if self.thinking is not None:
            raise UserError(
                "A log-likelihood leaves no room for a thought: leave think_end_token out, or run "
                "tasks that generate."
            )

    def _check_indicator(self) -> None:
        if self.arm.indicator is not None:
            check_indicator(self.tokenizer, self.arm.indicator, strict=self.arm.indicator_strict)

    @property
    def _template_args(self) -> dict[str, Any]:
        """What the chat template is given beside the messages."""
        found: dict[str, Any] = self.chat_template_args
        return found

    @property
    def _segmented(self) -> bool:
        """Whether anything here changes a prompt or needs to know which tokens are the user's."""
        marked = self.arm.indicator is not None or self.arm.instruction is not None
        return self.steering.active or marked or self.cut == "frame" or self.thinking is not None

    # ---- prompts -------------------------------------------------------------------------------

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render the messages; with steering or an indicator the result carries its segments.

        It is an `Unsegmented` where that fails for what these messages say.

        Raises:
            UserError: it fails for whatever messages of these roles say.
        """
        self._templated = True
        if self.arm.instruction is not None:
            told = self.arm.instruction, self.arm.instruction_turn
            chat_history = insert_instruction(chat_history, *told)
        prefix = ""
        if self.thinking is not None and not add_generation_prompt:
            # A begun answer leaves no room for a thought: it follows it.
            prefix = chat_history[-1]["content"]
            chat_history, add_generation_prompt = chat_history[:-1], True
        # Without a template `render` says so in one sentence; the harness would not.
        if not self._segmented and self.tokenizer.chat_template:
            text = str(super().apply_chat_template(chat_history, add_generation_prompt))
            if self.keeps_messages:
                return Conversation.of(text, chat_history, add_generation_prompt)
            return text
        try:
            prompt = self._prompt(chat_history, add_generation_prompt, prefix)
        except UserError as error:
            if self._segments_found or self._takes_plain_words(chat_history, add_generation_prompt):
                return Unsegmented(error)
            raise
        self._segments_found = True
        return prompt

    def _takes_plain_words(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool
    ) -> bool:
        """Whether messages of these roles have segments where they say nothing unusual."""
        plain = [{**one, "content": f"word {place}"} for place, one in enumerate(chat_history)]
        try:
            self._prompt(plain, add_generation_prompt, "")
        except UserError:
            return False
        return True

    def _prompt(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool, prefix: str
    ) -> PromptText:
        """The messages with their segments, without a system message where that is refused."""
        try:
            return PromptText.of(self._render(chat_history, add_generation_prompt), prefix)
        except UserError as error:
            turns = [message for message in chat_history if message["role"] != "system"]
            if len(turns) == len(chat_history) or not isinstance(error.__cause__, TemplateError):
                raise
            if self.arm.instruction is not None and self.arm.instruction_turn == "system":
                raise UserError(
                    "The chat template refuses a system message: give instruction_turn=user."
                ) from error
            logger.warning("The chat template refuses a system message; it is left out, as in hf.")
            return PromptText.of(self._render(turns, add_generation_prompt), prefix)

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> Rendered:
        return render(
            self.tokenizer,
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            indicator=self._indicator_for([message["content"] for message in messages]),
            indicator_turns=self.arm.indicator_turns,
            template_args=self._template_args,
        )

    def _rendered(self, text: str) -> Rendered:
        """The segments of a prompt as the harness hands it back."""
        if isinstance(text, PromptText):
            return text.rendered
        if isinstance(text, Unsegmented):
            raise UserError(text)
        if self._templated:
            raise UserError(
                "This task changes the prompt after the chat template, so its user turn is lost: "
                f"{text[:60]!r}; run it with alpha=1 and without an indicator."
            )
        if self.arm.instruction is not None:
            raise UserError(
                "instruction= is put into a turn of a chat: run it with --apply_chat_template."
            )
        if self.thinking is not None:
            raise UserError(
                "think_end_token needs the chat template, which opens the thought and leaves a "
                "begun answer until after it: add --apply_chat_template, or leave it out."
            )
        return raw(text, self._indicator_for([text]))

    def segments_of(self, text: str) -> Rendered:
        """The segments of a prompt that was run, of a plain one as its messages are rendered.

        Raises:
            UserError: a plain prompt without messages (`keeps_messages`), or not what they give.
        """
        if not isinstance(text, Conversation):
            return self._rendered(text)
        rendered = self._render(text.messages, text.add_generation_prompt)
        if rendered.text != text:
            raise UserError(f"The template left messages out of this prompt: {text[:60]!r}.")
        return rendered

    def _indicator_for(self, texts: list[str]) -> str | None:
        """The indicator, unless the task (MT-Bench) wants its prompts without it."""
        unwanted = any(isinstance(text, WithoutIndicator) for text in texts)
        return None if unwanted else self.arm.indicator

    def _tokens(self, rendered: Rendered) -> Segmented:
        return tokenize(self.tokenizer, rendered, add_special_tokens=self.add_bos_token)

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        """The harness's; a prompt that carries its segments is tokenised as it will be run."""
        if isinstance(string, PromptText) and not args and not kwargs:
            return self._tokens(string.rendered).input_ids
        return super().tok_encode(string, *args, **kwargs)

    # ---- what results and caches must know -----------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """Everything of ours that can move an answer, as plain JSON values."""
        template = self.tokenizer.chat_template if self._templated else None
        return {
            **self.steering.record(),
            "steer_thought": self.arm.steer_thought,
            **self.arm.marks,
            "chat_template": None if template is None else short_hash(str(template)),
            "chat_template_args": self._template_args,
            "cut": self.cut,
            **({} if self.thinking is None else self.thinking.record()),
        }

    @property
    def tokenizer_name(self) -> str:
        """The harness's, made distinct by what changes a prompt: the key of --cache_requests."""
        name = super().tokenizer_name
        if not self._segmented:
            return name
        marks = [*self.arm.marks.values(), str(self.tokenizer.chat_template)]
        marks += [] if self.thinking is None else ["thinks"]
        return f"{name}__ctx_{short_hash(json.dumps(marks))}"


def check_thinking(arguments: Mapping[str, Any]) -> None:
    """Refuse thoughts that are asked for but not told from the answer.

    Raises:
        UserError: `enable_thinking` without `think_end_token`.
    """
    if arguments.get("enable_thinking") and arguments.get("think_end_token") is None:
        raise UserError(
            "enable_thinking=True needs think_end_token, which ends the thought before the answer: "
            "add the model's own, such as think_end_token=</think>."
        )
