"""Where answers looked, in the report: colours, what is shown first, and a page without."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ctx_tasks import looks
from ctx_tasks.errors import UserError
from ctx_tasks.leaderboard.board import board
from ctx_tasks.looks import Look, Piece, Totals
from ctx_tasks.report import page as report
from ctx_tasks.report.looks import STEPS, coloured, darkest
from ctx_tasks.report.prompts import CUT, TEMPLATE, USER
from ctx_tasks.result_files import attention_file
from ctx_tasks.results import read_runs
from tests.ctx_tasks.report import report_data
from tests.ctx_tasks.result_files import read_lines

TOTALS = Totals(0.5, 0.0, 0.3, 0.1, 0.1)


def look(*pieces: tuple[int, int, int, float], doc_hash: str = "d") -> Look:
    return Look(doc_hash, 4, TOTALS, tuple(Piece(*piece) for piece in pieces))


def data_of(folder: Path) -> dict[str, Any]:
    page = report.page(board(read_runs([folder])))
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found)


def write_looks(folder: Path, *, of: slice = slice(None)) -> dict[str, list[str]]:
    """A look at the first word of some documents beside each sample file; their hashes by file."""
    written = {}
    for samples in sorted(folder.rglob("samples_*.jsonl")):
        task = samples.name.removeprefix("samples_").rpartition("_")[0]
        hashes = [line["doc_hash"] for line in read_lines(samples)][of]
        path = attention_file(samples, task)
        looks.write(path, [look((0, 1, 1, 0.1), doc_hash=one) for one in hashes])
        written[path.name] = hashes
    return written


def test_colour_is_attention_a_token_on_one_scale():
    one = look((0, 4, 1, 0.08), (4, 8, 4, 0.08), (8, 9, 1, 0.0))
    other = look((0, 4, 1, 0.04))
    prompt = "abcdefghij"
    spans = [(USER, 0, 10)]
    top = darkest([one, other])
    assert top == pytest.approx(0.04)
    assert coloured(one, prompt, spans, top).runs == [[4, STEPS, 4, STEPS // 2, 2, 0]]
    assert coloured(other, prompt, spans, top).runs == [[4, STEPS, 6, 0]]
    assert coloured(one, prompt, spans, top).first[0] == ("abcd", 0.08)


def test_only_what_is_shown_of_the_users_text_is_coloured():
    spans = [(TEMPLATE, 0, 2), (USER, 2, 5), (CUT, 5, 7), (USER, 7, 9), (TEMPLATE, 9, 10)]
    found = coloured(look((1, 4, 1, 0.1), (7, 99, 1, 0.1)), "abcdefghij", spans, 0.1)
    assert found.runs == [[2, STEPS, 1, 0], [2, STEPS]]


def test_lengths_are_counted_as_the_script_counts_them():
    found = coloured(look((0, 2, 1, 0.1)), "é🙂x\ud800", [(USER, 0, 4)], 0.1)
    assert found.runs == [[3, STEPS, 2, 0]]


@pytest.mark.parametrize("pieces", [[], [(0, 2, 1, 0.0)]])
def test_without_any_attention_on_the_text_there_is_no_colour(pieces):
    one = look(*pieces)
    assert darkest([one]) == 0
    assert coloured(one, "ab", [(USER, 0, 2)], 0.0).runs == [[2, 0]]


def test_documents_with_looks_come_first_in_the_usual_order(tmp_path):
    folder = report_data.write(tmp_path, checkpoints=["m"])
    before = data_of(folder)
    assert not any("darkest" in d for g in before["groups"] for d in g["documents"])
    assert {len(a) for g in before["groups"] for d in g["documents"] for a in d["answers"]} == {5}
    write_looks(folder, of=slice(3, 6))
    after = data_of(folder)
    for old, new in zip(before["groups"], after["groups"], strict=True):
        order, again = (
            [data["texts"][d["question"]] for d in group["documents"]]
            for data, group in ((before, old), (after, new))
        )
        looked = [question for question in order if re.search(r"passage [345]\?", question)]
        assert again == looked + [question for question in order if question not in looked]
        assert ["darkest" in d for d in new["documents"]] == [n < 3 for n in range(12)]
        for document in new["documents"][:3]:
            assert all(len(answer) == 6 for answer in document["answers"])


def test_a_malformed_file_is_one_sentence_that_names_it(tmp_path):
    folder = report_data.write(tmp_path, checkpoints=["m"])
    write_looks(folder)
    broken = next(folder.rglob("attention_*"))
    broken.write_text('{"doc_hash": "<script>"}\n')
    with pytest.raises(UserError, match=rf"{broken.name}, line 1 does not say"):
        data_of(folder)
