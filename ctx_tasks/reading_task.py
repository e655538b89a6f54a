"""SQuAD, QuAC and DROP as tasks of the harness whose `score` is the metric that was asked for.

`score` is what groups average and tables show. It repeats `contains` unless `--metadata` names
another metric (`squad_score`, `quac_score`, `drop_score`) or a version of the paper
(`ctx_tasks.paper`).
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.task import ConfigurableTask

from ctx_tasks import paper
from ctx_tasks.answers import watch
from ctx_tasks.cuts import Cuts


class _Reading(ConfigurableTask):
    """A reading task; its config is the YAML, `metadata` included."""

    setting = ""

    def __init__(self, config: dict[str, Any]) -> None:
        metadata = config.get("metadata") or {}
        self._score = paper.setting(self.setting, metadata)
        super().__init__(config={key: value for key, value in config.items() if key != "class"})
        if self._score != paper.SETTINGS[self.setting].default:
            # Results with different scores must not be compared.
            self.config.metadata.setdefault("data_used", {})["score"] = self._score

    def build_all_requests(self, **kwargs: Any) -> None:
        """The harness's; with a model that is not ours, `cut` is counted where it can be."""
        cuts = Cuts.of(self.config.metadata or {})
        watch(self, None if cuts is None else cuts.note)
        super().build_all_requests(**kwargs)

    def process_results(self, doc: dict[str, Any], results: list[str]) -> dict[str, float]:
        """The YAML's scores, `score` being the metric that was asked for."""
        scores: dict[str, float] = super().process_results(doc, results)
        # With --predict_only there is no score.
        return scores | {"score": scores[self._score]} if self._score in scores else scores


class Squad(_Reading):
    """SQuAD's tasks, and those with its prompt or score."""

    setting = "squad_score"


class Quac(_Reading):
    """QuAC's tasks."""

    setting = "quac_score"


class Drop(_Reading):
    """DROP's tasks."""

    setting = "drop_score"
