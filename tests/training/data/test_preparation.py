"""`prepare` on files: every row accounted for, streams, same bytes twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ctx_tasks.errors import UserError
from ctx_tasks.files import sha256
from ctx_tasks.row_writer import row_writer, write_rows
from ctx_tasks.rows import Row, read_rows
from tests.tiny import tokenizer
from training import files
from training.data import prepare as preparation
from training.data.cleaning import Switches
from training.data.prepare import prepare


def gpt(*turns: tuple[str, str], name: str = "x") -> Row:
    return {"id": name, "conversations": [{"from": f, "value": v} for f, v in turns]}


ROUND = (("human", "What is a heron?"), ("gpt", "A wading bird with long legs."))
RAW = [
    gpt(*ROUND, name="kept"),
    gpt(("gpt", "Sure."), ("human", "And a stork?"), ("gpt", "Another bird."), name="orphan"),
    gpt(*ROUND, ("human", "More?"), ("gpt", "Much more."), name="duplicate"),
    gpt(("human", "Make a bomb, please."), ("gpt", "I cannot help with that."), name="refused"),
    gpt(("human", "q"), ("gpt", "r"), name="short"),
    gpt(("human", "a question"), ("human", "again"), ("gpt", "an answer"), name="twice"),
    gpt(("tool", "x"), name="tool"),
    {"id": "other", "text": "x"},
    gpt(*((f, f"{v} {i}") for i in range(6) for f, v in ROUND), name="long"),
]
FATES = {
    "kept": ("kept", [], ["kept"]),
    "orphan": ("changed", ["response without an instruction"], ["orphan"]),
    "duplicate": ("dropped", ["duplicate"], []),
    "refused": ("dropped", ["refusal"], []),
    "short": ("dropped", ["too short"], []),
    "twice": ("dropped", ["roles do not alternate"], []),
    "tool": ("dropped", ["unreadable: role 'tool'"], []),
    "other": ("dropped", ["unreadable: no known columns"], []),
    "long": ("changed", ["split"], ["long_0", "long_8"]),
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.json"
    path.write_text(json.dumps(RAW), encoding="utf-8")
    return path


def test_every_conversation_has_a_fate_and_the_counts_sum(raw: Path, tmp_path: Path) -> None:
    report = tmp_path / "fates.jsonl"
    account = prepare(
        str(raw), tmp_path / "out.jsonl", tokenizer=tokenizer(), max_length=200, report=report
    )
    fates = {row["id"]: row for row in read_rows(report)}
    assert {k: (v["fate"], v["reasons"], v["outputs"]) for k, v in fates.items()} == FATES
    assert [row["index"] for row in fates.values()] == list(range(9))
    assert (account.read, account.kept, account.changed, account.dropped) == (9, 1, 2, 6)
    written = list(read_rows(tmp_path / "out.jsonl"))
    assert [row["id"] for row in written] == ["kept", "orphan", "long_0", "long_8"]
    assert {row["source"] for row in written} == {"raw.json"}
    assert (account.conversations, account.instructions) == (4, 8)


def test_average_tokens_are_those_of_the_contents(raw: Path, tmp_path: Path) -> None:
    account = prepare(str(raw), tmp_path / "out.jsonl", tokenizer=tokenizer(), max_length=200)
    counted = [
        len(tokenizer()(message["content"], add_special_tokens=False)["input_ids"])
        for row in read_rows(tmp_path / "out.jsonl")
        for message in row["messages"]
    ]
    assert account.tokens == sum(counted)
    assert account.average_tokens == sum(counted) / 4
    assert f"average tokens {sum(counted) / 4:.2f}" in preparation.summary(account)


def test_special_token_strings_are_counted_as_text() -> None:
    counts = preparation.token_counts(tokenizer(), ["</s>", "abcd"])
    assert counts[0] > 1


def test_without_a_tokenizer_nothing_is_measured_or_split(raw: Path, tmp_path: Path) -> None:
    account = prepare(str(raw), tmp_path / "out.jsonl")
    assert account.tokens is None
    assert account.conversations == 3
    assert "not measured" in preparation.summary(account)
    with pytest.raises(UserError, match="--split needs a tokenizer"):
        prepare(str(raw), tmp_path / "out.jsonl", switches=Switches(split=True))


def test_a_split_system_message_is_counted_in_every_piece(tmp_path: Path) -> None:
    rounds = [(turn["from"], turn["value"]) for turn in RAW[-1]["conversations"]]
    write_rows(tmp_path / "in.jsonl", [gpt(("system", "Be kind to birds."), *rounds)])
    account = prepare(
        str(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", tokenizer=tokenizer(), max_length=150
    )
    written = list(read_rows(tmp_path / "out.jsonl"))
    assert len(written) > 1
    assert {row["messages"][0]["content"] for row in written} == {"Be kind to birds."}
    contents = [m["content"] for row in written for m in row["messages"]]
    assert account.tokens == sum(preparation.token_counts(tokenizer(), contents))


def test_switches_leave_out_single_steps(raw: Path, tmp_path: Path) -> None:
    switches = Switches(dedup=False, refusals=False, short=False, alternation=False, orphans=False)
    account = prepare(str(raw), tmp_path / "out.jsonl", switches=switches)
    assert (account.kept, account.changed, account.dropped) == (7, 0, 2)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_second_run_gives_the_same_bytes(raw: Path, tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        prepare(str(raw), tmp_path / name / f"out.{suffix}", tokenizer=tokenizer())
    for file in (f"out.{suffix}", f"out.{suffix}.meta.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_killed_run_leaves_no_output_and_a_rerun_the_whole(tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_rows(source, (gpt(*ROUND, name=str(i)) for i in range(50)))
    script = (
        "import os, signal, sys; from training.data import prepare as p\n"
        "run = p.Preparer.run\n"
        "def killed(self, read):\n"
        "    if self.account.read == 30: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return run(self, read)\n"
        "p.Preparer.run = killed\n"
        "p.prepare(sys.argv[1], sys.argv[2], switches=p.Switches(dedup=False))\n"
    )
    command = [sys.executable, "-c", script, str(source), str(output)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    assert not output.exists()
    account = prepare(str(source), output, switches=Switches(dedup=False))
    assert account.kept == 50 == sum(1 for _ in read_rows(output))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["in.jsonl", "out.jsonl", "out.jsonl.meta.json"]


def test_the_meta_file_says_what_was_done(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    prepare(str(raw), output, tokenizer=tokenizer(), max_length=300)
    meta = json.loads(files.meta_path(output).read_text(encoding="utf-8"))
    assert meta["inputs"][0]["sha256"] == sha256(raw)
    assert meta["settings"]["max_length"] == 300
    assert meta["counts"]["dropped_by"]["duplicate"] == 1
    counts = meta["counts"]
    assert counts["read"] == counts["kept"] + counts["changed"] + counts["dropped"] == 9


@pytest.mark.parametrize(
    ("rows", "words"),
    [([{"question": "x", "answer": "y"}], "columns question, answer"), ([], "holds no rows")],
)
def test_wrong_data_is_an_error_and_writes_nothing(
    tmp_path: Path, rows: list[Row], words: str
) -> None:
    write_rows(tmp_path / "in.jsonl", rows)
    with pytest.raises(UserError, match=words):
        prepare(str(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", report=tmp_path / "r.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_input_is_not_overwritten(raw: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", RAW[:1])
    with pytest.raises(UserError, match="also the input"):
        prepare(str(tmp_path / "in.jsonl"), tmp_path / "in.jsonl")
    with pytest.raises(UserError, match="also the input"):
        prepare(str(tmp_path / "in.jsonl"), tmp_path / "o.jsonl", report=tmp_path / "in.jsonl")


def test_an_output_without_rows_is_an_error_and_the_report_says_why(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [gpt(("human", "q"), ("tool", "r"))] * 3)
    with pytest.raises(UserError, match=r"None of the 3 .* \(3 unreadable: role 'tool'\)"):
        prepare(str(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", report=tmp_path / "r.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "r.jsonl"]
    assert [row["reasons"] for row in read_rows(tmp_path / "r.jsonl")] == [
        ["unreadable: role 'tool'"]
    ] * 3


def test_columns_that_were_not_read_are_told(tmp_path: Path) -> None:
    rows = [{**gpt(*ROUND), "lang": "en"}, {**gpt(("human", "Hm?"), *ROUND[1:]), "lang": None}]
    write_rows(tmp_path / "in.jsonl", rows)
    account = prepare(str(tmp_path / "in.jsonl"), tmp_path / "out.jsonl")
    assert account.unread == {"lang": 1}
    assert "not read, and in how many rows: lang (1)." in preparation.summary(account)


def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    write_rows(source, (gpt(*((f, f"{v} {i % 700}") for f, v in ROUND)) for i in range(900)))
    for count in (1, 3):
        (tmp_path / str(count)).mkdir()
        prepare(
            str(source),
            tmp_path / str(count) / "out.jsonl",
            tokenizer=tokenizer(),
            processes=count,
            report=tmp_path / str(count) / "fates.jsonl",
        )
    for file in ("out.jsonl", "out.jsonl.meta.json", "fates.jsonl"):
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "3" / file).read_bytes()
    assert sum(1 for _ in read_rows(tmp_path / "1" / "out.jsonl")) == 700


def test_a_second_run_on_the_same_output_is_refused(raw: Path, tmp_path: Path) -> None:
    with row_writer(tmp_path / "out.jsonl") as first:
        with pytest.raises(UserError, match=r"Another process is writing .*out\.jsonl"):
            prepare(str(raw), tmp_path / "out.jsonl")
        first.write({"id": "of the first"})
    assert [row["id"] for row in read_rows(tmp_path / "out.jsonl")] == ["of the first"]


def _real(name: str) -> str:
    return str(Path(os.environ["CTX_REAL_DATA"]) / "sft" / name)


def _accounted(name: str, tmp_path: Path, **settings: Any) -> tuple[Any, list[Row]]:
    report = tmp_path / "fates.jsonl"
    account = prepare(_real(name), tmp_path / "out.jsonl", report=report, **settings)
    fates = list(read_rows(report))
    assert Counter(row["fate"] for row in fates) == Counter(
        {f: n for f in ("kept", "changed", "dropped") if (n := getattr(account, f))}
    )
    assert all(row["reasons"] for row in fates if row["fate"] != "kept")
    outputs = [name for row in fates for name in row["outputs"]]
    assert outputs == [row["id"] for row in read_rows(tmp_path / "out.jsonl")]
    return account, fates


@pytest.mark.realdata
def test_all_250_sharegpt_conversations_are_accounted_for(tmp_path: Path) -> None:
    account, fates = _accounted("sharegpt_sample.json", tmp_path)
    rows = json.loads(Path(_real("sharegpt_sample.json")).read_text(encoding="utf-8"))
    assert [row["id"] for row in fates] == [row["id"] for row in rows]
    assert account.read == 250 == account.kept + account.changed + account.dropped
    assert account.dropped_by == {"empty turn": 4, "response without an instruction": 2}
    assert account.changed_by["response without an instruction"] == 64
    written = {row["id"]: row["messages"] for row in read_rows(tmp_path / "out.jsonl")}
    for fate, row in zip(fates, rows, strict=True):
        if fate["fate"] == "kept":
            contents = [message["content"] for message in written[row["id"]]]
            assert contents == [turn["value"] for turn in row["conversations"]]


@pytest.mark.realdata
def test_splitting_real_conversations_keeps_every_message(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = Path(os.environ["CTX_REAL_DATA"]) / "tokenizers" / "tinyllama-1.1b-chat-v1.0"
    whole, _ = _accounted("sharegpt_sample.json", tmp_path)
    split, _ = _accounted(
        "sharegpt_sample.json", tmp_path, tokenizer=AutoTokenizer.from_pretrained(folder)
    )
    assert split.instructions == whole.instructions
    assert split.conversations > whole.conversations


@pytest.mark.realdata
def test_real_ultrachat_and_evolved_pairs_are_accounted_for(tmp_path: Path) -> None:
    account, _ = _accounted("ultrachat_200k_sample.jsonl", tmp_path)
    assert (account.read, account.kept) == (2, 2)
    account, _ = _accounted("evolved_pairs_sample.json", tmp_path)
    assert (account.read, account.kept, account.dropped) == (8, 5, 3)
    assert account.dropped_by == {"empty turn": 3}
