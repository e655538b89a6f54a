"""Every private name of lm-eval 0.4.13 that we call or override, and what it is called for.

None of these names is promised to the next release. `PRIVATE` lists them all;
`tests/test_harness.py` says which one a newer harness lacks, and that no other file of ours reaches
for one. Nothing is imported before it is needed.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctx_tasks.answers import watch
from ctx_tasks.catalogue import task_folder
from ctx_tasks.errors import UserError

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import Entry

PRIVATE: Final = {
    "lm_eval._cli.run": ("Run.create",),
    "lm_eval.api.registry": ("model_registry.register", "model_registry.keys"),
    "lm_eval.api.task": (
        "ConfigurableTask.aggregation",
        "ConfigurableTask.apply_filters",
        "ConfigurableTask.build_all_requests",
        "ConfigurableTask.construct_requests",
        "ConfigurableTask.doc_iterator",
        "ConfigurableTask.fewshot_context",
        "ConfigurableTask.higher_is_better",
        "ConfigurableTask.process_results",
        "Task.build_all_requests",
    ),
    "lm_eval.config.evaluate_config": ("EvaluatorConfig.from_cli",),
    "lm_eval.evaluator": ("get_git_commit_hash",),
    "lm_eval.loggers": ("EvaluationTracker.save_results_samples",),
    "lm_eval.models": ("MODEL_MAPPING",),
    "lm_eval.models.openai_completions": (
        "LocalCompletionsAPI._create_payload",
        "LocalChatCompletion._create_payload",
        "OpenAIChatCompletion._create_payload",
    ),
    "lm_eval.models.utils": ("normalize_gen_kwargs", "resolve_max_length"),
    # What CtxLM overrides: a method renamed would leave an arm unsteered without a word.
    "lm_eval.models.huggingface": (
        "HFLM._create_model",
        "HFLM._create_tokenizer",
        "HFLM._detect_batch_size",
        "HFLM._encode_pair",
        "HFLM._loglikelihood_tokens",
        "HFLM._model_call",
        "HFLM._model_generate",
        "HFLM.apply_chat_template",
        "HFLM.generate_until",
        "HFLM.get_model_info",
        "HFLM.set_cache_hook",
        "HFLM.tok_batch_encode",
        "HFLM.tok_encode",
        "HFLM.tokenizer_name",
    ),
    "lm_eval.tasks": ("TaskManager._entry", "TaskManager.task_index"),
    "lm_eval.tasks._index": ("Kind.GROUP", "Kind.TASK", "Kind.PY_TASK"),
    "lm_eval.utils": (
        "apply_template",
        "handle_non_serializable",
        "hash_string",
        "setup_logging",
        "simple_parse_args_string",
    ),
}

# What it says as a warning at every run of ours, however well all is: how settings reach a task,
# and that an arm without template, which is there to be compared, should have one.
HINTS: Final = ("Custom kwargs can be passed to", "appears to be an instruct or chat variant")


def run_parser() -> argparse.ArgumentParser:
    """The parser of `lm_eval run`; what it parses has `func`, which runs it."""
    from lm_eval._cli.run import Run

    commands = argparse.ArgumentParser(prog="ctx-eval").add_subparsers(dest="command")
    Run.create(commands)
    parser: argparse.ArgumentParser = commands.choices["run"]
    return parser


def read_arguments(text: str) -> dict[str, Any]:
    """The mapping that "key=value,key=value" (or JSON) means to the harness."""
    from lm_eval.utils import simple_parse_args_string

    given = text.lstrip().startswith("{")
    found: dict[str, Any] = json.loads(text) if given else simple_parse_args_string(text)
    return found


def begun_answer(gen_prefix: str, doc: Mapping[str, Any]) -> str:
    """What a task's `gen_prefix`, the name of a field or a template, begins an answer with."""
    from lm_eval.utils import apply_template

    return str(doc[gen_prefix] if gen_prefix in doc else apply_template(gen_prefix, doc))


def document_hash(doc: Mapping[str, Any]) -> str:
    """The `doc_hash` that a sample file has of a document."""
    from lm_eval.utils import handle_non_serializable, hash_string

    text = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return str(hash_string(text))


def log_to_terminal() -> None:
    """The harness's own log lines, as `lm_eval` shows them."""
    from lm_eval.utils import setup_logging

    setup_logging()


def validate(args: argparse.Namespace) -> None:
    """What the harness says is wrong with its own flags (ValueError, TypeError, OSError)."""
    from lm_eval.config.evaluate_config import EvaluatorConfig

    EvaluatorConfig.from_cli(args)


def window(config: Any, tokenizer: Any) -> int:
    """The context window by the harness's own rule, which is its truncation limit."""
    from lm_eval.models.utils import resolve_max_length

    return int(resolve_max_length(config, tokenizer))


def answer_tokens(kwargs: Mapping[str, Any], default: int) -> int:
    """The longest answer in tokens that generation arguments mean to the harness's models."""
    from lm_eval.models.utils import normalize_gen_kwargs

    return int(normalize_gen_kwargs(dict(kwargs), default)["max_gen_toks"])


def samples(kwargs: Mapping[str, Any]) -> bool:
    """Whether answers with these generation arguments are drawn at random."""
    from lm_eval.models.utils import normalize_gen_kwargs

    return bool(normalize_gen_kwargs(dict(kwargs))["do_sample"])


def insist_on_samples(task: Any) -> None:
    """Make the harness refuse to run `task` without --log_samples."""
    task._metric_fn_list["bypass"] = None


def name_model(tracker: Any, results: Any, name: str) -> None:
    """Give a model that was loaded before its command-line name; the harness says "CUSTOM"."""
    results["config"]["model"] = tracker.general_config_tracker.model_source = name


@functools.cache
def watch_answers() -> None:
    """From now on, let what answers remember (`ctx_tasks.answers`) reach samples and results.

    And refuse more processes than a task has documents: the harness ends in an IndexError there.
    """
    from lm_eval.api.task import Task

    build = Task.build_all_requests

    @functools.wraps(build)
    def watched(task: Any, *args: Any, **kwargs: Any) -> None:
        _require_shares(task, **kwargs)
        watch(task)
        build(task, *args, **kwargs)

    whole: Any = Task
    whole.build_all_requests = watched


def _require_shares(
    task: Any,
    *,
    limit: int | None = None,
    samples: Sequence[int] | None = None,
    world_size: int = 1,
    **_: Any,
) -> None:
    """Each process needs a document of every task."""
    documents = len(task.eval_docs) if samples is None else len(samples)
    documents = documents if limit is None else min(documents, int(limit))
    if documents < world_size:
        raise UserError(
            f"{task.config.task} has {documents} documents for {world_size} processes: start no "
            "more processes than a task has documents."
        )


def build_task(manager: TaskManager, name: str, overrides: Mapping[str, Any]) -> Any:
    """The task of that name, some of its YAML replaced; None where it is not installed."""
    entry = manager._entry(name)
    if entry is None:
        return None
    return manager._factory.build(entry, overrides=dict(overrides), registry=manager.task_index)


def entries(manager: TaskManager, names: Sequence[str]) -> list[Entry] | None:
    """The tasks behind names of tasks and groups; None if any is not in the index.

    A pattern, a path or a tag is no name: what it means depends on all tasks there are.
    """
    found: list[Entry] = []
    for name in names:
        inside = _behind(manager.task_index, name)
        if inside is None:
            return None
        found += inside
    return found


def _behind(index: Mapping[str, Entry], member: Any) -> list[Entry] | None:
    """The tasks behind one name, or one member of a group (a name, or a mapping with one)."""
    from lm_eval.tasks._index import Kind

    if isinstance(member, dict):
        inside = member.get("task")
        return _behind_all(index, inside) if isinstance(inside, list) else _behind(index, inside)
    entry = index.get(str(member))
    if entry is None:
        return None
    if entry.kind is Kind.GROUP:
        return _behind_all(index, (entry.cfg or {}).get("task", []))
    return [entry] if entry.kind in (Kind.TASK, Kind.PY_TASK) else None


def _behind_all(index: Mapping[str, Entry], members: Sequence[Any]) -> list[Entry] | None:
    found = [_behind(index, member) for member in members]
    return None if None in found else [entry for inside in found for entry in inside or ()]


def task_manager(
    names: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    include: Sequence[str | Path] = (),
) -> TaskManager:
    """An index of our tasks and those in `include`; of the harness's too where a name needs them.

    Indexing the harness's 14,000 takes seven seconds, ours a hundredth of one.
    """
    from lm_eval.tasks import TaskManager

    settings: dict[str, Any] = {
        "include_path": [str(task_folder()), *map(str, include)],
        "metadata": dict(metadata or {}),
    }
    ours = TaskManager(include_defaults=False, **settings)
    if entries(ours, names) is not None:
        return ours
    with our_copy_untold():
        return TaskManager(**settings)


@contextmanager
def without_defaults() -> Iterator[None]:
    """Inside, a `TaskManager` that the harness makes indexes its include path alone."""
    import lm_eval.evaluator  # noqa: F401  (it takes the name when it is imported)
    import lm_eval.tasks as harness

    whole: Any = harness.TaskManager
    harness.TaskManager = functools.partial(whole, include_defaults=False)
    try:
        yield
    finally:
        harness.TaskManager = whole


@contextmanager
def no_empty_stop() -> Iterator[None]:
    """Inside, API models leave out a `stop` that says nothing; some servers answer it with 500.

    It is empty where a task stops at no string and the model's end-of-text is not known.
    """
    from lm_eval.models import openai_completions as models

    classes: Any = (
        models.LocalCompletionsAPI,
        models.LocalChatCompletion,
        models.OpenAIChatCompletion,
    )
    whole = [one._create_payload for one in classes]
    for one, create in zip(classes, whole, strict=True):
        one._create_payload = _without_empty_stop(create)
    try:
        yield
    finally:
        for one, create in zip(classes, whole, strict=True):
            one._create_payload = create


def _without_empty_stop(create: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @functools.wraps(create)
    def payload(*args: Any, **kwargs: Any) -> dict[str, Any]:
        made = create(*args, **kwargs)
        return {name: value for name, value in made.items() if name != "stop" or value}

    return payload


@contextmanager
def git_unheard() -> Iterator[None]:
    """Inside, "fatal: not a git repository" is not shown: the harness asks git for a commit."""
    from lm_eval import evaluator

    whole: Any = evaluator
    ask = whole.get_git_commit_hash
    whole.get_git_commit_hash = _unheard(ask)
    try:
        yield
    finally:
        whole.get_git_commit_hash = ask


def _unheard(ask: Callable[[], str | None]) -> Callable[[], str | None]:
    @functools.wraps(ask)
    def asked() -> str | None:
        kept = os.dup(2)
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            return ask()
        finally:
            os.dup2(kept, 2)
            os.close(kept)

    return asked


@contextmanager
def our_copy_untold() -> Iterator[None]:
    """No warning where our folder replaces the copy that the wheel put into the harness's."""
    logger = logging.getLogger("lm_eval.tasks._index")
    hidden = _hidden(str(task_folder()))
    logger.addFilter(hidden)
    try:
        yield
    finally:
        logger.removeFilter(hidden)


def _hidden(ours: str) -> Callable[[logging.LogRecord], bool]:
    def shown(record: logging.LogRecord) -> bool:
        if "overrides existing task" not in str(record.msg) or not isinstance(record.args, tuple):
            return True
        _, new, *_ = record.args
        return not str(new).startswith(ours)

    return shown
