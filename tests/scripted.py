"""A model of the harness that says what it is given to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from tests import tiny


class Scripted(LM):
    """Answers from a script, and keeps the prompts and generation settings it was asked with.

    A list is said in turn, from its beginning again after its end. Of a mapping, the first entry
    answers whose key the prompt ends in.
    """

    def __init__(self, answers: Sequence[str] | Mapping[str, str]) -> None:
        super().__init__()
        self.answers = answers
        self.prompts: list[str] = []
        self.settings: list[dict[str, Any]] = []

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self.prompts = [request.args[0] for request in requests]
        self.settings = [request.args[1] for request in requests]
        return [self._answer(number, prompt) for number, prompt in enumerate(self.prompts)]

    def _answer(self, number: int, prompt: str) -> str:
        if isinstance(self.answers, Mapping):
            return next(text for end, text in self.answers.items() if prompt.endswith(end))
        return self.answers[number % len(self.answers)]

    @property
    def tokenizer_name(self) -> str:
        return "tiny"

    def chat_template(self, chat_template: bool | str = False) -> str:
        return tiny.CHAT_TEMPLATE

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        text: str = tiny.tokenizer().apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def loglikelihood(self, requests: list[Instance]) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance]) -> Any:
        raise NotImplementedError
