"""`ctx-train` as a user types it: most through `main` here, the plain path as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ctx_tasks.row_writer import write_rows
from ctx_tasks.rows import read_rows
from tests.commands import Done, as_process, ctx_train
from tests.tiny import model, tokenizer

COMMANDS = ("prepare", "score", "agreement", "select", "sft", "merge")


Call = Callable[..., Done]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """`ctx-train ARGUMENTS` in `tmp_path`, without a new process."""
    return partial(ctx_train, cwd=tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str, call: Call) -> None:
    code, out, _ = call(command, "--help")
    assert code == 0
    assert f"ctx-train {command} " in out
    assert "Example:" in out


def test_help_and_commands_import_no_torch() -> None:
    script = (
        "import sys; from training import cli; from training.data import prepare\n"
        "from training.dependency import select\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_mistake_shows_no_traceback_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = as_process("training.cli", "prepare", "nowhere.jsonl", "-o", "out.jsonl", cwd=tmp_path)
    assert done.code == 2
    assert "nowhere.jsonl, which does not exist" in done.err
    assert done.err.count("\n") == 1


def test_prepare_and_select_in_a_row(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path / "tok")
    pairs = [{"instruction": f"Name bird {i}.", "output": f"Bird {i}."} for i in range(5)]
    write_rows(tmp_path / "raw.jsonl", [*pairs, pairs[0], {"instruction": "x", "output": ""}])
    first = as_process(
        *("training.cli", "prepare", "raw.jsonl", "-o", "chats.jsonl", "--report", "fates.jsonl"),
        *("--tokenizer", "tok"),
        cwd=tmp_path,
    )
    assert first.code == 0, first.err
    assert "7 conversations read: 5 kept, 0 changed, 2 dropped." in first.out
    assert "Table 1: 5 conversations, 5 instructions, average tokens" in first.out
    assert sum(1 for _ in read_rows(tmp_path / "fates.jsonl")) == 7

    chats = read_rows(tmp_path / "chats.jsonl")
    scored = ({**row, "context_dependency": [i / 5]} for i, row in enumerate(chats))
    write_rows(tmp_path / "scored.parquet", scored)
    chosen = ("select", "scored.parquet", "-o", "marked.jsonl", "--beta", "0.5")
    second = ctx_train(*chosen, cwd=tmp_path)
    assert second.code == 0, second.err
    assert "Table 1: 2 of 5 scored turns selected (40.0 %)" in second.out
    assert (tmp_path / "marked.jsonl.lengths.png").exists()
    assert (tmp_path / "marked.jsonl.meta.json").exists()
    contents = [r["messages"][0]["content"] for r in read_rows(tmp_path / "marked.jsonl")]
    assert [content.endswith(" [IND]") for content in contents] == [False] * 3 + [True] * 2


def test_score_feeds_select_and_agreement_reads_the_same_dataset(
    tmp_path: Path, call: Call
) -> None:
    tokenizer().save_pretrained(tmp_path / "seed")
    model().save_pretrained(tmp_path / "seed")
    pairs = [{"instruction": f"Name bird {i}.", "output": f"Bird {i}."} for i in range(6)]
    write_rows(tmp_path / "raw.jsonl", pairs)
    seed = ("--model", "seed", "--device", "cpu")
    for command in (
        ("prepare", "raw.jsonl", "-o", "chats.jsonl"),
        ("score", "chats.jsonl", "-o", "scored.jsonl", *seed),
        ("agreement", "chats.jsonl", "-o", "layers.csv", "--share", "0.5", *seed),
    ):
        code, _, err = call(*command)
        assert code == 0, err
    assert (tmp_path / "layers.png").exists()
    _, out, _ = call("select", "scored.jsonl", "-o", "marked.jsonl", "--top", "0.5")
    assert "Table 1: 3 of 6 scored turns selected (50.0 %)" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("prepare", "nowhere.jsonl", "-o", "out.jsonl"),
            "nowhere.jsonl, which does not exist",
        ),
        (("prepare", "in.jsonl", "-o", "out.txt"), "must end in .jsonl or .parquet"),
        (("prepare", "in.jsonl", "-o", "in.jsonl"), "also the input"),
        (("prepare", "in.jsonl", "-o", "out.jsonl", "--split"), "--split needs a tokenizer"),
        (
            ("prepare", "in.jsonl", "-o", "out.jsonl", "--tokenizer", "./none"),
            "No tokenizer could be loaded from './none'",
        ),
        (("select", "in.jsonl", "-o", "out.jsonl"), "run ctx-train score"),
        (("select", "in.jsonl", "-o", "out.jsonl", "--beta", "6"), "--beta 6.0 is outside"),
        (("select", "in.jsonl", "-o", "o.jsonl", "--beta", "0.6", "--top", "0.1"), "exactly one"),
        (("sft", "norecipe.yaml"), "norecipe.yaml"),
        (("merge", ".", "-o", "merged"), "holds no adapter"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    tmp_path: Path, call: Call, arguments: tuple[str, ...], words: str
) -> None:
    row = {"id": "a", "messages": [{"role": "user", "content": "x"}]}
    write_rows(tmp_path / "in.jsonl", [row])
    code, _, err = call(*arguments)
    assert code == 2
    assert words in err.strip().splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_steps_are_switched_on_the_command_line(tmp_path: Path, call: Call) -> None:
    refusal = {"instruction": "Please do it.", "output": "I cannot help with that."}
    (tmp_path / "in.json").write_text(json.dumps([refusal]))
    code, _, err = call("prepare", "in.json", "-o", "a.jsonl")
    assert code == 2
    assert "None of the 1 conversations is left (1 refusal)" in err
    kept = call("prepare", "in.json", "-o", "b.jsonl", "--no-refusals")
    assert "1 kept, 0 changed, 0 dropped" in kept[1]


@pytest.mark.realdata
def test_the_sharegpt_sample_through_the_command_line(tmp_path: Path) -> None:
    folder = Path(os.environ["CTX_REAL_DATA"])
    done = ctx_train(
        *("prepare", folder / "sft" / "sharegpt_sample.json", "-o", tmp_path / "out.parquet"),
        *("--tokenizer", folder / "tokenizers" / "tinyllama-1.1b-chat-v1.0"),
    )
    assert done.code == 0, done.err
    assert "250 conversations read" in done.out
    assert "Table 1: 318 conversations, 847 instructions, average tokens" in done.out
