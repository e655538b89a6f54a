"""Batches of `batch_size=auto`."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest
import torch
from lm_eval.api.instance import Instance

from ctx_models.batches import in_batches, token_budget
from ctx_models.lm import CtxLM
from tests import tiny
from tests.commands import ctx_eval
from tests.ctx_models.test_cut import SQUAD, TOYS, column, evaluate


class Runs:
    """Notes the batches, and runs out of memory above so many rows."""

    def __init__(self, most: int = 1000) -> None:
        self.batches: list[list[int]] = []
        self.most = most

    def __call__(self, batch: list[int]) -> list[str]:
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        self.batches.append(batch)
        return [str(item) for item in batch]


LENGTHS = [10, 50, 20, 100, 20, 10, 10, 20]


def test_the_longest_run_first_and_batches_grow_as_documents_get_shorter():
    runs = Runs()
    made = in_batches(LENGTHS, LENGTHS, runs, budget=100, most=64)
    assert made == [str(length) for length in LENGTHS]
    assert runs.batches == [[100], [50, 20], [20, 20, 10, 10, 10]]


def test_no_batch_has_more_rows_than_max_batch_size():
    runs = Runs()
    in_batches(LENGTHS, LENGTHS, runs, budget=10_000, most=3)
    assert [len(batch) for batch in runs.batches] == [3, 3, 2]


def test_a_batch_that_does_not_fit_runs_again_in_halves():
    runs = Runs(most=2)
    made = in_batches(LENGTHS, [10] * 8, runs, budget=10_000, most=64)
    assert made == [str(length) for length in LENGTHS]
    assert [len(batch) for batch in runs.batches] == [2, 2, 2, 2]


def test_a_single_row_that_does_not_fit_is_told():
    with pytest.raises(torch.OutOfMemoryError):
        in_batches(LENGTHS, LENGTHS, Runs(most=0), budget=1, most=64)


def test_another_error_is_told():
    def broken(batch: list[int]) -> list[str]:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        in_batches(LENGTHS, LENGTHS, broken, budget=10_000, most=64)


def test_auto_n_sizes_batches_at_n_places():
    runs = Runs()
    in_batches(LENGTHS, LENGTHS, runs, budget=100, most=64, sizes=2)
    # The longest of the first half allows one row, that of the second five.
    assert [len(batch) for batch in runs.batches] == [1, 1, 1, 1, 4]


@pytest.mark.parametrize("alpha", [1.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_auto_gives_the_answers_of_a_fixed_batch_size(alpha):
    fixed = evaluate(alpha=alpha)
    for size in ("auto", "auto:2"):
        found = evaluate(alpha=alpha, options={"batch_size": size})
        assert column(found, "filtered_resps") == column(fixed, "filtered_resps")
        assert found["config"]["ctx"]["batch_size"] == "auto"


@pytest.mark.parametrize("alpha", [pytest.param(1.0, marks=pytest.mark.slow), 0.5])
def test_auto_gives_the_log_likelihoods_of_a_fixed_batch_size(alpha, monkeypatch):
    fixed = evaluate("toy_choice", TOYS, alpha=alpha)
    rows: list[int] = []
    call = CtxLM._model_call

    def counted(model: CtxLM, inps: torch.Tensor, **kwargs: object) -> torch.Tensor:
        rows.append(inps.shape[0])
        return call(model, inps, **kwargs)

    monkeypatch.setattr(CtxLM, "_model_call", counted)
    options = {"batch_size": "auto", "max_batch_size": 5}
    found = evaluate("toy_choice", TOYS, alpha=alpha, options=options)
    # No batch but the documents': nothing was tried out before.
    assert rows == [5, 5, 2]
    for one, other in zip(
        column(found, "filtered_resps", "toy_choice"),
        column(fixed, "filtered_resps", "toy_choice"),
        strict=True,
    ):
        for (score, greedy), (same, also) in zip(one, other, strict=True):
            assert score == pytest.approx(same, abs=1e-4)
            assert greedy == also


def test_auto_runs_contexts_that_differ_in_their_last_token_once():
    """As the harness does with a fixed batch size, whose scores these are."""
    rows = [(("", ""), [5, 6, 7], [last]) for last in (8, 9)] + [(("", ""), [5, 6], [7, 8])]
    model = CtxLM("nano-chat", device="cpu", batch_size=2)
    fixed = model._loglikelihood_tokens(rows, disable_tqdm=True)
    model.batch_size_per_gpu = "auto"
    assert model._loglikelihood_tokens(rows, disable_tqdm=True) == fixed


def test_a_rolling_log_likelihood_is_the_same_with_auto():
    text = "The keeper of the mill is Ada. " * 40
    asked = [Instance("loglikelihood_rolling", {}, (text,), 0)]
    model = CtxLM("nano-chat", device="cpu", batch_size=2, max_length=128)
    fixed = model.loglikelihood_rolling(asked, disable_tqdm=True)
    model.batch_size_per_gpu = "auto"
    assert model.loglikelihood_rolling(asked, disable_tqdm=True) == pytest.approx(fixed)


def test_logits_take_memory_of_their_own():
    model = tiny.model()
    device = torch.device("cpu")
    scored = [token_budget(model, device, scored=scored) for scored in (True, False)]
    assert scored[0] < scored[1]


def test_compare_and_gate_name_a_difference_in_execution(tmp_path: Path):
    common = ("--model", "hf-ctx", "--tasks", SQUAD, "--device", "cpu", "--limit", 2)
    arguments = ("--model_args", "pretrained=nano-chat", "--apply_chat_template", "--log_samples")
    for size in (1, 2):
        done = ctx_eval(
            *("run", *common, *arguments, "--batch_size", size),
            *("--output_path", tmp_path / str(size)),
        )
        assert done.code == 0, done.err
    one, two = tmp_path / "1", tmp_path / "2"
    said = " ".join(ctx_eval("compare", one, two).out.split())
    assert "executed differently (batch size 1, 2)" in said
    for name, value in (("processes", 2), ("engine", "another 1.0")):
        other = edited(one, tmp_path / name, name, value)
        said = " ".join(ctx_eval("compare", one, other).out.split())
        assert f"executed differently ({name} " in said
        assert f"{value})" in said
    ctx_eval("gate", "--save", tmp_path / "baseline.json", one)
    record = json.loads((tmp_path / "baseline.json").read_text())["runs"][0]["executed"]
    assert (record["batch_size"], record["processes"]) == (1, 1)
    done = ctx_eval("gate", "--baseline", tmp_path / "baseline.json", two)
    assert "executed differently (batch size 1, 2)" in " ".join((done.out + done.err).split())


def edited(run: Path, folder: Path, name: str, value: object) -> Path:
    """A copy of a run whose results file says that it was executed otherwise."""
    copytree(run, folder)
    [file] = folder.rglob("results_*.json")
    content = json.loads(file.read_text())
    content["config"]["ctx"][name] = value
    file.write_text(json.dumps(content))
    return folder
