"""MT-Bench as tasks of the harness: they collect answers, which `ctx-eval judge` rates later.

A task cannot rate: the harness would hold every process of a run while one of them waits for a
judge, and a judge that fails would cost the answers. So `process_results` has no score, the answers
are in the sample file (`filtered_resps`), and rating is a step of its own on the files.

**Two turns.** The harness generates once per request and task, so the second turn is a second run:
`mt_bench_2turn` reads the model's own first answers from the sample file of `mt_bench` (metadata
`mt_bench_first`) and puts them into the conversation before the chat template is applied. That
needs nothing of the model class and splits over processes as any task does. It refuses answers to
other questions, or of a run with other model arguments or without a template.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from ctx_tasks import harness, paper
from ctx_tasks.arm import ARGUMENTS, CHECKPOINT, EXECUTION
from ctx_tasks.errors import UserError
from ctx_tasks.prompts import WithoutIndicator
from ctx_tasks.result_files import files_below, results_of

logger = logging.getLogger(__name__)

_FIRST = "mt_bench_first"
_INDICATOR = "mt_bench_indicator"
# A year follows the name: mt_bench_2turn's own files are left out.
_SAMPLES = "samples_mt_bench_[0-9][0-9][0-9][0-9]-*.jsonl"
Template = Callable[..., str]


class FirstTurn(ConfigurableTask):
    """The first question of each pair. Its config is the YAML, `metadata` included."""

    turn = 0

    def __init__(self, config: dict[str, Any]) -> None:
        metadata = config.get("metadata") or {}
        self._indicated = paper.setting(_INDICATOR, metadata)
        kept = {key: value for key, value in config.items() if key != "class"}
        if self._indicated:
            # A version of the paper may have said so: results must, too.
            kept["metadata"] = {**metadata, _INDICATOR: True}
        super().__init__(config=kept)
        # Without them the answers would be lost.
        harness.insist_on_samples(self)

    def doc_to_text(self, doc: Mapping[str, Any], doc_to_text: Any = None) -> str:
        """This turn's question, marked as text without `[IND]` unless that was asked for."""
        text = doc["turns"][self.turn]
        return text if self._indicated else WithoutIndicator(text)

    def fewshot_context(self, doc: Mapping[str, Any], num_fewshot: int, **settings: Any) -> str:
        """The harness's prompt, its question still marked."""
        # Only then does the harness leave the question an object of its own.
        settings["fewshot_as_multiturn"] = True
        text = super().fewshot_context(doc, num_fewshot, **settings)
        plain = self._indicated or settings.get("apply_chat_template")
        return text if plain else WithoutIndicator(text)

    def process_results(self, doc: Mapping[str, Any], results: list[Any]) -> dict[str, float]:
        """No score, with --predict_only or without: the judge gives it later."""
        return no_score(doc, results)


class SecondTurn(FirstTurn):
    """The second question, after the first one and the model's own answer to it."""

    turn = 1

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        metadata = dict(self.config.metadata or {})
        self._samples = first_samples(metadata.get(_FIRST))
        self._answers = first_answers(self._samples)
        check_same_model(self._samples, metadata)

    def fewshot_context(self, doc: Mapping[str, Any], num_fewshot: int, **settings: Any) -> str:
        """The prompt of the second turn, in the chat template."""
        template = settings.get("chat_template")
        if not settings.get("apply_chat_template") or template is None:
            raise UserError(
                "mt_bench_2turn is a conversation and needs --apply_chat_template; without a "
                "template run mt_bench, the first turn."
            )
        settings["chat_template"] = self._with_history(template, doc)
        return super().fewshot_context(doc, num_fewshot, **settings)

    def _with_history(self, template: Template, doc: Mapping[str, Any]) -> Template:
        turns, answer = self._answers.get(doc["id"], ([], ""))
        if turns != doc["turns"]:
            raise UserError(
                f"{self._samples} has no answer to {doc['turns'][0][:50]!r}; run mt_bench again on "
                "the same questions, all of them."
            )
        first = turns[0] if self._indicated else WithoutIndicator(turns[0])
        history = [{"role": "user", "content": first}, {"role": "assistant", "content": answer}]

        def apply(messages: list[dict[str, str]], **arguments: Any) -> str:
            return template([*messages[:-1], *history, messages[-1]], **arguments)

        return apply

    def build_all_requests(self, **settings: Any) -> None:
        """As for any task, but never from --cache_requests: its key does not know the answers."""
        if settings.get("cache_requests"):
            raise UserError(
                "--cache_requests would keep one model's first answers for the next; run "
                "mt_bench_2turn without it."
            )
        super().build_all_requests(**settings)

    def apply_filters(self) -> None:
        """The filtered response is the pair of answers, so that the sample file is complete."""
        super().apply_filters()
        for instance in self.instances:
            answer = self._answers[instance.doc["id"]][1]
            for name, second in instance.filtered_resps.items():
                instance.filtered_resps[name] = [answer, second]


def no_score(doc: Mapping[str, Any], results: list[Any]) -> dict[str, float]:
    """What a run reports of an answer: nothing yet. Without it the harness looks for a metric."""
    return {}


def first_samples(given: Any) -> Path:
    """The sample file of mt_bench in `given`: the file itself, or the newest in a folder.

    Raises:
        UserError: nothing given, or no such file.
    """
    if not isinstance(given, str) or not given:
        raise UserError(
            "mt_bench_2turn continues the model's own first answers: run mt_bench with "
            f'--log_samples, then give its folder with --metadata \'{{"{_FIRST}": "RESULTS"}}\'.'
        )
    path = Path(given).expanduser()
    inside = (file for file in files_below(path) if file.match(_SAMPLES))
    found = [path] if path.is_file() else sorted(inside, key=lambda file: file.name)
    if not found:
        raise UserError(
            f"{_FIRST} names {given}, where no samples_mt_bench_*.jsonl is; run mt_bench with "
            "--log_samples and --output_path first."
        )
    return found[-1]


def first_answers(path: Path) -> dict[str, tuple[list[str], str]]:
    """Question and answer by question id: `{id: (turns, first answer)}`.

    Raises:
        UserError: a line that is no sample of mt_bench.
    """
    answers = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                sample = json.loads(line)
                doc, [answer] = sample["doc"], sample["filtered_resps"]
                answers[doc["id"]] = (doc["turns"], str(answer))
            except (ValueError, LookupError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number} is no sample of mt_bench; run mt_bench again with "
                    "--log_samples."
                ) from error
    return answers


def check_same_model(samples: Path, metadata: Mapping[str, Any]) -> None:
    """Refuse first answers of another model or arm; `metadata` holds this run's model arguments.

    Raises:
        UserError: the results file beside the samples differs, or is not there.
    """
    results = results_of(samples, "mt_bench")
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
        given = dict(content["config"]["model_args"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{results} does not say which model gave the first answers in {samples.name}; keep "
            "the results file beside them, or run mt_bench again."
        ) from error
    # This run's metadata holds its model arguments among other settings: of what the first run did
    # not have, only these are known to be model arguments.
    names = given.keys() | (CHECKPOINT.union(ARGUMENTS) & metadata.keys())
    differing = [name for name in names - EXECUTION if metadata.get(name) != given.get(name)]
    if differing:
        name = min(differing)
        raise UserError(
            f"The first answers in {samples.name} are of a run with {name}={given.get(name)}, but "
            f"this run has {name}={metadata.get(name)}; give the answers of this very model."
        )
    if not content.get("chat_template_sha"):
        raise UserError(
            f"The first answers in {samples.name} were given without chat template; run mt_bench "
            "with --apply_chat_template first."
        )
