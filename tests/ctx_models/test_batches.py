"""Batches of `batch_size=auto`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ctx_models.batches import in_batches
from tests.commands import ctx_eval
from tests.ctx_models.test_cut import SQUAD, column, evaluate


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


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_auto_gives_the_answers_of_a_fixed_batch_size(alpha):
    fixed = evaluate(alpha=alpha)
    for size in ("auto", "auto:2"):
        found = evaluate(alpha=alpha, options={"batch_size": size})
        assert column(found, "filtered_resps") == column(fixed, "filtered_resps")
        assert found["config"]["ctx"]["batch_size"] == "auto"


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
    ctx_eval("gate", "--save", tmp_path / "baseline.json", one)
    record = json.loads((tmp_path / "baseline.json").read_text())["runs"][0]["executed"]
    assert (record["batch_size"], record["processes"]) == (1, 1)
    done = ctx_eval("gate", "--baseline", tmp_path / "baseline.json", two)
    assert "executed differently (batch size 1, 2)" in " ".join((done.out + done.err).split())
