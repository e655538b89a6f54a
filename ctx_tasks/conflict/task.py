"""Knowledge conflict as a task of the harness: each question with and without its passage.

Both prompts are requests of one document, in one run: what the model knows is measured on that very
model, arm and template, and cannot be joined with another's.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

_ALONE = "closed_book"


class Conflict(ConfigurableTask):
    """A conflict task; its config is the YAML, `metadata` included."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def doc_to_text(self, doc: dict[str, Any], doc_to_text: Any = None) -> str:
        """The YAML's prompt, or the question alone."""
        if doc.get(_ALONE):
            return str(doc["question"])
        return str(super().doc_to_text(doc, doc_to_text))

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, **settings: Any) -> list[str]:
        """Two prompts: with the passage, and without."""
        return [
            super(Conflict, self).fewshot_context(one, num_fewshot, **settings)
            for one in (doc, {**doc, _ALONE: True})
        ]

    def construct_requests(
        self, doc: dict[str, Any], ctx: list[str], **settings: Any
    ) -> list[Instance]:
        """One request a prompt; the harness hands both answers, in order, to the scores."""
        requests = [
            super(Conflict, self).construct_requests(doc, prompt, **dict(settings))
            for prompt in ctx
        ]
        for place, request in enumerate(requests):
            request.idx = place
        return requests
