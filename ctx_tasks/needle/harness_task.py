"""The needle test as a task of the harness: what its YAML cannot say.

How many tokens are generated is a setting (`answer_tokens`, or the paper's version), and `--limit`
takes the first rows, which are the shortest documents.
"""

from __future__ import annotations

import logging
from typing import Any

from lm_eval.api.task import ConfigurableTask

from ctx_tasks.needle.task import generated_tokens

logger = logging.getLogger(__name__)


class NeedleTask(ConfigurableTask):
    """A needle task; its config is the YAML, `metadata` included."""

    def __init__(self, config: dict[str, Any]) -> None:
        tokens = generated_tokens(config.get("metadata") or {})
        generation = {**config["generation_kwargs"], "max_gen_toks": tokens}
        kept = {key: value for key, value in config.items() if key != "class"}
        super().__init__(config={**kept, "generation_kwargs": generation})

    def build_all_requests(self, *, limit: Any = None, **settings: Any) -> None:
        """As for any task; says which documents a limit leaves."""
        if limit is not None and settings.get("rank", 0) == 0:
            logger.warning(
                "%s: --limit takes the first documents, which are the shortest of the grid, so the "
                "score is that of short documents; for a quick run over all lengths leave it out "
                'and name a coarser grid, --metadata \'{"lengths": 4, "depths": 4}\'.',
                self.config.task,
            )
        super().build_all_requests(limit=limit, **settings)
