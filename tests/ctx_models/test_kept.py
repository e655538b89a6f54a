"""Answers kept as they come: what a run that ended early leaves, and who takes it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance

from ctx_models.kept import Kept, digest, kept_in, opened
from ctx_models.lm import CtxLM
from ctx_tasks import harness
from ctx_tasks.answers import Answer, LogLikelihood, Note
from ctx_tasks.errors import UserError
from tests.commands import ctx_eval
from tests.ctx_models import offline_tasks
from tests.ctx_models.killed_runs import kill, lines, written

BOTH = ["toy_generate", "toy_choice"]
RUN = {"model_args": {"alpha": 0.5}}


class Stopped(Exception):
    """The run ends here."""


@pytest.fixture(scope="module")
def tasks():
    return harness.task_manager(BOTH, include=[offline_tasks.FOLDER])


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / ".answers"


def unfinished(folder: Path, **how: Any) -> AbstractContextManager[None]:
    """A run in which answers are kept, and which leaves them."""
    return kept_in(folder, RUN, written=lambda: False, **how)


def answered(
    tasks: Any, folder: Path | None, stop_after: int | None = None, size: int | str = 2, **arm: Any
) -> tuple[dict[str, list], int, dict[str, Any]]:
    """Samples, the number of forward passes, and what the model says of itself."""
    passes = 0
    model = CtxLM("nano-chat", device="cpu", batch_size=size, **arm)

    def count(*_: Any) -> None:
        nonlocal passes
        if passes == stop_after:
            raise Stopped
        passes += 1

    model.model.register_forward_pre_hook(count)
    options = {"tasks": BOTH, "task_manager": tasks, "bootstrap_iters": 0, "log_samples": True}
    if folder is None:
        results = simple_evaluate(model, apply_chat_template=True, **options)
    else:
        with kept_in(folder, RUN):
            results = simple_evaluate(model, apply_chat_template=True, **options)
    assert results is not None
    return results["samples"], passes, results["config"]["ctx"]


@pytest.mark.parametrize("arm", [{}, {"alpha": 0.5}], ids=["plain", "steered"])
@pytest.mark.parametrize("size", [2, "auto"])
def test_a_run_that_ends_early_goes_on_and_ends_as_if_nothing_had_been(tasks, folder, arm, size):
    whole, passes, said = answered(tasks, None, size=size, **arm)
    for early in (passes // 3, passes // 3):
        with pytest.raises(Stopped):
            answered(tasks, folder, stop_after=early, size=size, **arm)
    again, rest, said_again = answered(tasks, folder, size=size, **arm)
    assert again == whole
    assert said_again == said
    if size == 2:
        assert rest < passes - passes // 3
    assert not folder.exists()


def test_all_that_was_answered_is_not_asked_again(tasks, folder):
    whole, _, said = answered(tasks, None, alpha=0.5)
    with unfinished(folder):
        answered(tasks, None, alpha=0.5)
    again, passes, said_again = answered(tasks, folder, alpha=0.5)
    assert passes == 0
    assert (again, said_again) == (whole, said)


def test_another_arm_shares_nothing(tasks, folder):
    with unfinished(folder):
        answered(tasks, None, alpha=0.5)
    other, passes, _ = answered(tasks, None, alpha=0.25)
    kept, passes_beside, _ = answered(tasks, folder, alpha=0.25)
    assert (kept, passes_beside) == (other, passes)
    # What the first arm left is still there.
    assert len(list(folder.glob("*.jsonl"))) == 1


def test_sampled_answers_are_not_kept(folder):
    model = CtxLM("nano-chat", device="cpu")
    settings = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 4}
    asked = Instance("generate_until", {}, ("Who is it?", settings), 0)
    with unfinished(folder):
        model.generate_until([asked])
    assert not folder.exists()


class TestKept:
    ANSWERS = (
        Answer.of("an answer", Note(3, True)),
        Answer.of("", Note(1, skipped=True)),
        LogLikelihood.of((-0.1234567890123456, True), Note(2)),
        LogLikelihood.of((float("-inf"), False), Note()),
    )

    def keep(self, folder: Path, fresh: bool = False, **settings: Any) -> list[Any]:
        """What a batch of two requests is answered with; new answers are kept."""
        told: list[str] = []
        with (
            unfinished(folder, fresh=fresh, say=told.append),
            opened(settings, 0, set()) as kept,
        ):
            found = kept.batch(["a", "b"], lambda: [Answer.of("1", Note())] * 2)
        return [*found, told[0].split(" ")[0]]

    @pytest.mark.parametrize("answer", ANSWERS)
    def test_comes_back_as_it_was(self, folder, answer):
        for _ in range(2):
            with unfinished(folder), opened({}, 0, set()) as kept:
                [found] = kept.batch(["a"], lambda: [answer])
        assert found == answer
        assert type(found) is type(answer)
        assert found.note == answer.note

    def test_belongs_to_the_batch_as_a_whole(self, folder):
        with unfinished(folder), opened({}, 0, set()) as kept:
            kept.batch(["a", "b"], lambda: [Answer.of("1", Note())] * 2)
        with kept_in(folder, RUN), opened({}, 0, set()) as kept:
            assert kept.size(["a", "b", "c"]) == 2
            assert kept.size(["a", "c"]) is None
            assert kept.size(["b"]) is None
            assert kept.batch(["a"], lambda: [Answer.of("2", Note())]) == ["2"]

    def test_says_what_it_found_and_fresh_starts_over(self, folder):
        assert self.keep(folder, alpha=1) == ["1", "1", "Answers"]
        assert self.keep(folder, alpha=1)[2] == "2"
        assert self.keep(folder, alpha=2)[2] == "Answers"
        assert self.keep(folder, fresh=True, alpha=1)[2] == "Answers"

    def test_a_second_run_of_the_same_settings_waits(self, folder):
        with (
            kept_in(folder, RUN),
            opened({}, 0, set()),
            pytest.raises(UserError, match="Another process is writing"),
            opened({}, 0, set()),
        ):
            pass

    def test_stays_where_no_results_were_written(self, folder):
        with unfinished(folder), opened({}, 0, set()) as kept:
            kept.batch(["a"], lambda: [Answer.of("1", Note())])
        assert folder.exists()

    def test_without_a_place_nothing_is_written(self, folder):
        with opened({}, 0, set()) as kept:
            assert kept.batch(["a"], lambda: [Answer.of("1", Note())]) == ["1"]
        assert isinstance(kept, Kept)
        assert not folder.exists()

    def test_requests_differ_in_any_part(self):
        requests = [("a", "b"), ("ab",), ("a", {"until": ["b"]}), ("a", {"until": ["c"]})]
        assert len({digest(*one) for one in requests}) == len(requests)


def command(output: Path, *flags: str) -> list[object]:
    return [
        *("run", "--model", "hf-ctx", "--model_args", "pretrained=nano-chat,alpha=0.5"),
        *("--tasks", "nano_nih_recall,nano_by_heart", "--apply_chat_template", "--device", "cpu"),
        *("--metadata", '{"lengths": 4, "depths": 4, "max_length": 400, "questions": 12}'),
        *("--batch_size", "2", "--log_samples", "--output_path", output, *flags),
    ]


@pytest.mark.slow
def test_killed_it_goes_on_and_ends_to_the_byte_as_if_nothing_had_been(tmp_path):
    done = ctx_eval(*command(tmp_path / "whole"))
    assert done.code == 0, done.err
    assert "Answers are kept in" in done.err
    for batches in (2, 6):
        kill(command(tmp_path / "killed"), tmp_path / "killed", batches)
    kept = lines(tmp_path / "killed")
    done = ctx_eval(*command(tmp_path / "killed"))
    assert done.code == 0, done.err
    assert f"{2 * (kept - 1)} answers of an unfinished run" in done.err
    assert written(tmp_path / "killed") == written(tmp_path / "whole")
    assert not (tmp_path / "killed" / ".answers").exists()


def test_fresh_is_a_flag_of_run(tmp_path):
    output = tmp_path / "out"
    (output / ".answers").mkdir(parents=True)
    done = ctx_eval(*command(output, "--fresh", "--limit", "2"))
    assert done.code == 0, done.err
    assert not (output / ".answers").exists()
    assert "--fresh" in ctx_eval("run", "--help").out
