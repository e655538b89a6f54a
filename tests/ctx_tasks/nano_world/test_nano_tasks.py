"""The bundled nano world: what the code writes, under names of its own, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from ctx_tasks import nano_world
from ctx_tasks.catalogue import task_folder
from ctx_tasks.errors import UserError
from tests import tiny
from tests.scripted import Scripted
from training.nano import held_out
from training.nano.world import World

READING = ("squad", "quac", "drop", "by_heart")
CONTEXT = ("nih_recall", "squad_contains", "quac_contains", "drop_contains")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def load(*names: str, **metadata: Any) -> dict[str, Any]:
    manager = TaskManager(
        include_path=str(task_folder()), include_defaults=False, metadata=metadata
    )
    return dict(manager.load(list(names)))


def files(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}
    return {name: content for name, content in found.items() if name != "README.md"}


def test_the_bundled_files_are_what_the_code_writes_from_seed_zero(tmp_path: Path) -> None:
    held_out.write(World(), tmp_path)
    written = files(tmp_path)
    assert len(written) == 36
    assert files(nano_world.FOLDER) == written


def test_the_bundled_files_are_small() -> None:
    assert sum(len(content) for content in files(nano_world.FOLDER).values()) < 1_800_000


@pytest.mark.parametrize("name", READING)
def test_four_hundred_questions_have_their_answer_in_the_passage(name: str) -> None:
    used: dict[str, Any] = {}
    [documents] = getattr(nano_world, name)(data_used=used).values()
    assert used["source"] == "nano-world (bundled)"
    assert used["rows"] == len(documents) == 400
    assert len(set(documents["id"])) == 400
    for document in documents:
        assert document["question"].endswith("?")
        assert name == "by_heart" or document["target"] in document["context"]
        assert "CANNOTANSWER" not in document["context"]


def test_reading_tasks_ignore_the_files_of_the_benchmarks() -> None:
    elsewhere = {"squad_files": "nowhere.jsonl", "questions": 3, "pretrained": "nobody/nothing"}
    [documents] = nano_world.squad(**elsewhere).values()
    [whole] = nano_world.squad().values()
    assert documents["question"] == whole["question"][:3]


def test_questions_of_another_seed_are_new_and_named(tokenizer: str, tmp_path: Path) -> None:
    held_out.write(World(), tmp_path, seed=1)
    grid = {"tokenizer": tokenizer, "max_length": 300, "lengths": 2, "depths": 2}
    for name, settings in {**{key: {} for key in READING}, "nih": grid}.items():
        used: dict[str, Any] = {}
        load_task = getattr(nano_world, name)
        [fresh] = load_task(nano_world=str(tmp_path), data_used=used, **settings).values()
        [bundled] = load_task(**settings).values()
        assert len(fresh) == len(bundled)
        assert str(tmp_path) in used["source"]
        shared = {*zip(fresh["question"], fresh["context"], strict=True)} & {
            *zip(bundled["question"], bundled["context"], strict=True)
        }
        # There are few known facts: they are asked again.
        assert not shared or name == "by_heart"


def test_a_folder_that_is_no_nano_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave it out for the bundled questions"):
        nano_world.squad(nano_world=str(tmp_path))


@pytest.mark.parametrize("questions", [0, 401, 2.5, True, "all"])
def test_a_number_of_questions_that_is_not_there_is_refused(questions: Any) -> None:
    with pytest.raises(UserError, match="questions"):
        nano_world.drop(questions=questions)


def test_needle_documents_have_the_worlds_needles_and_haystack(tokenizer: str) -> None:
    used: dict[str, Any] = {}
    [rows] = nano_world.nih(
        tokenizer=tokenizer, lengths=5, depths=4, haystack="builtin", needles="paper",
        max_length=500, data_used=used
    ).values()  # fmt: skip
    assert len(rows) == 20
    # Dealt by length and depth: five lengths and four depths meet eight needles.
    assert len({row["needle_id"] for row in rows}) == 8
    assert {row["haystack"] for row in rows} == {used["source"]} == {"nano-world (bundled)"}
    for row in rows:
        assert row["needle"] in row["context"]
        assert "San Francisco" not in row["context"]


def test_the_longest_needle_document_has_a_thousand_tokens(tokenizer: str) -> None:
    [rows] = nano_world.nih(tokenizer=tokenizer, lengths=2, depths=1).values()
    assert rows["length"] == [200, 1000]


@pytest.mark.parametrize("name", [*CONTEXT, *(f"{one}_prefix" for one in CONTEXT)])
def test_prompt_and_scoring_are_those_of_the_benchmarks_task(name: str, tokenizer: str) -> None:
    settings = {"tokenizer": tokenizer, "max_length": 300, "lengths": 2, "depths": 2}
    files = {f"{kind}_files": str(nano_world.FOLDER / f"{kind}.jsonl") for kind in READING[:3]}
    loaded = load(name, f"nano_{name}", questions=400, **settings, **files)["tasks"]
    ours, theirs = loaded[f"nano_{name}"], loaded[name]
    document = next(iter(ours.eval_docs))
    assert ours.doc_to_text(document) == theirs.doc_to_text(document)
    for key in ("generation_kwargs", "metric_list", "process_results"):
        assert getattr(ours.config, key) == getattr(theirs.config, key)
    assert (ours.config.gen_prefix is None) == (theirs.config.gen_prefix is None)
    # One included file, but each task reports its own data.
    assert ours.config.metadata["data_used"]["source"] == "nano-world (bundled)"
    assert theirs.config.metadata["data_used"]["source"] != "nano-world (bundled)"


def test_by_heart_asks_the_question_alone_and_reads_the_first_sentence() -> None:
    task = load("nano_by_heart", questions=2)["tasks"]["nano_by_heart"]
    document = next(iter(task.eval_docs))
    assert task.doc_to_text(document) == document["question"]
    answer = document["target"]
    assert task.process_results(document, [f"It is {answer.upper()}. Yes"])["contains"] == 1
    assert task.process_results(document, [f"I know. It is {answer}"])["contains"] == 0


def test_the_group_averages_the_four_context_tasks_and_not_by_heart(tokenizer: str) -> None:
    settings = {"tokenizer": tokenizer, "max_length": 300, "lengths": 2, "depths": 1}
    manager = TaskManager(
        include_path=str(task_folder()),
        include_defaults=False,
        metadata={**settings, "questions": 3},
    )
    model = Scripted({"": "The mayor is an invented name"})
    results = simple_evaluate(
        model=model, tasks=["nano_context_awareness"], task_manager=manager, bootstrap_iters=10
    )
    names = [f"nano_{name}" for name in CONTEXT]
    scores = [results["results"][name]["score,none"] for name in names]
    averaged = results["results"]["nano_context_awareness"]["score,none"]
    assert averaged == pytest.approx(sum(scores) / 4)
    assert set(results["samples"]) == set(names)
