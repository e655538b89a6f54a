"""Which prompts a model that is not ours has cut, by its tokenizer and window.

The harness's `hf` and `vllm` take from the left what the window does not hold beside the answer,
and no results file of theirs says so. Where the model arguments name a tokenizer and a window, by
the rules of the needle test, the tokens that a prompt lost are counted again. Nothing is known of
models behind an API, nor where there is a `max_length`: the harness hands tasks the model's window
and the needle test's longest document under that one name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctx_tasks import harness
from ctx_tasks.answers import Note
from ctx_tasks.errors import UserError

# The harness's, where neither the task nor the user says how long an answer may be.
_ANSWER = 256
_SOURCE = ("revision", "trust_remote_code", "subfolder", "gguf_file")


@dataclass(frozen=True)
class Cuts:
    """Counts what prompts lose.

    Attributes:
        tokenizer, window: of the model, the window in tokens.
        specials: whether the model class adds special tokens; None for the tokenizer's own rule.
    """

    tokenizer: Any
    window: int
    specials: bool | None = None

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Cuts | None:
        """By what the harness hands a task: model arguments and --metadata; None if unknown."""
        from ctx_tasks.needle.inputs import load_tokenizer, model_window

        pretrained, asked = metadata.get("pretrained"), metadata.get("max_model_len")
        if "model" in metadata or metadata.get("max_length") or not pretrained:
            return None
        source = {name: metadata.get(name) for name in _SOURCE}
        try:
            tokenizer = load_tokenizer(pretrained, metadata.get("tokenizer"), **source)
        except UserError:
            return None
        window = asked or model_window(pretrained, tokenizer, **source)
        return None if window is None else cls(tokenizer, window, metadata.get("add_bos_token"))

    def note(self, request: Any) -> Note:
        """What became of a harness request that generates."""
        prompt, settings = request.args
        room = self.window - harness.answer_tokens(settings, _ANSWER)
        return Note(max(0, self._length(prompt) - room))

    def _length(self, prompt: str) -> int:
        begin = self.tokenizer.bos_token
        specials = False if begin and prompt.startswith(begin) else self.specials
        asked = {} if specials is None else {"add_special_tokens": specials}
        return len(self.tokenizer.encode(prompt, **asked))
