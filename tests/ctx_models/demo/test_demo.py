"""`ctx-eval demo` end to end on small settings, and the sentence it computes."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from matplotlib.image import imread

from ctx_models import nano
from ctx_models.demo import run as demo
from ctx_models.demo import summary as demo_summary
from ctx_models.demo.run import BY_HEART, CHAT, COLUMNS, CONTEXT_TASKS, RAW, SETUPS, Outcome, Setup
from ctx_tasks import columns, harness, tables
from ctx_tasks.errors import UserError
from ctx_tasks.results import samples_of
from ctx_tasks.statistics import estimate_samples
from tests.commands import ctx_eval

BUNDLED = {name: nano.folder(name) for name in nano.NAMES}
SMALL = {"lengths": 2, "depths": 2, "max_length": 260, "questions": 4}


class Demo(NamedTuple):
    rows: list[Outcome]
    output: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    output = tmp_path_factory.mktemp("demo") / "ctx-demo"
    return Demo(demo.run(output, SMALL), output)


def test_the_arms_are_those_of_the_paper() -> None:
    assert len({setup.folder for setup in SETUPS}) == len(SETUPS) == 16
    begun = [setup.arm.name for setup in SETUPS if setup.arm.prefix]
    assert begun == [
        "raw, prefix",
        "chat, prefix",
        f'chat, prefix, "{demo.SENTENCE}"',
        *(f"chat, prefix, α {how}" for how in ("0.9 constant", "0.5 constant", "0.9 compound")),
        "chat, prefix",
        "chat, prefix, [IND]",
    ]
    unbegun = [setup.arm.name for setup in SETUPS[1:] if not setup.arm.prefix]
    assert unbegun == [name.replace(", prefix", "") for name in begun[1:]]


def test_every_arm_leaves_results_samples_and_a_heatmap(shown: Demo) -> None:
    kept = {path.name for path in shown.output.iterdir()}
    assert kept == {"commands.txt"} | {
        name for setup in SETUPS for name in (setup.folder, f"{setup.folder}.png")
    }
    for row in shown.rows:
        assert imread(shown.output / f"{row.setup.folder}.png").shape[0] > 500
        [results] = (shown.output / row.setup.folder).glob("results_*.json")
        written = json.loads(results.read_text(encoding="utf-8"))
        assert written["model_source"] == written["config"]["model"] == "hf-ctx"
        assert written["model_name"] == row.setup.checkpoint
        assert written["results"].keys() >= set(row.samples)
        for task in row.samples:
            [samples] = (shown.output / row.setup.folder).glob(f"samples_{task}_*.jsonl")
            assert len(samples.read_text(encoding="utf-8").splitlines()) == 4


def test_every_arm_is_run_as_its_name_says(shown: Demo) -> None:
    for row in shown.rows:
        recorded = row.results["config"]["ctx"]
        assert recorded["alpha"] == row.setup.arm.alpha
        assert recorded["schedule"] == row.setup.arm.schedule or row.setup.arm.alpha == 1
        assert recorded["indicator"] == row.setup.arm.indicator
        task = row.task("NIH recall")
        assert task is not None
        for sample in row.samples[task]:
            prompt = sample["arguments"][0][0]
            assert ("<|user|>" in prompt) == row.setup.arm.chat
            assert ("[IND]" in prompt) == bool(row.setup.arm.indicator)
            assert prompt.endswith(sample["doc"]["response_prefix"]) == row.setup.arm.prefix


def test_every_arm_keeps_its_log(shown: Demo) -> None:
    for row in shown.rows:
        log = (shown.output / row.setup.folder / "log.txt").read_text()
        assert "Running generate_until requests: 100%" in log


def test_steering_moves_answers(shown: Demo) -> None:
    answers = {
        row.setup: [sample["resps"] for task in row.samples.values() for sample in task]
        for row in shown.rows
    }
    assert any(answers[one] != answers[CHAT] for one in demo.STEERED)
    assert any(answers[one.begun] != answers[CHAT.begun] for one in demo.STEERED)


def test_the_table_fits_80_characters_and_names_every_arm(shown: Demo) -> None:
    narrow, wide = io.StringIO(), io.StringIO()
    tables.show(demo_summary.table(shown.rows), tables.console_of(80, narrow))
    lines = narrow.getvalue().splitlines()
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)
    assert " ".join(lines).count("n = 4") == len(COLUMNS)
    tables.show(demo_summary.table(shown.rows), tables.console_of(250, wide))
    assert wide.getvalue().count("±") == narrow.getvalue().count("±")
    for setup in SETUPS:
        named = (line.strip() for line in wide.getvalue().splitlines())
        line = next(line for line in named if line.startswith(f"{setup.arm.name} "))
        assert line.count("±") == (len(CONTEXT_TASKS) if setup.arm.prefix else len(COLUMNS))


def test_at_60_characters_columns_move_to_a_second_table(shown: Demo) -> None:
    file = io.StringIO()
    tables.show(demo_summary.table(shown.rows), tables.console_of(60, file))
    lines = file.getvalue().splitlines()
    assert all(len(line) <= 60 for line in lines)
    # Longer ones are folded.
    names = [setup.arm.name for setup in SETUPS if len(setup.arm.name) <= 20]
    for name in names:
        own = [line for line in lines if line.strip().startswith(f"{name} ")]
        assert len(own) == 2 * names.count(name)
    scores = sum(line.count("±") for line in lines)
    assert scores == sum(
        len(CONTEXT_TASKS) if setup.arm.prefix else len(COLUMNS) for setup in SETUPS
    )


def test_the_markdown_has_the_harness_scores_and_the_leaderboards_errors(shown: Demo) -> None:
    lines = demo_summary.markdown(shown.rows).splitlines()
    assert len(lines) == 2 + len(SETUPS)
    for line, row in zip(lines[2:], shown.rows, strict=True):
        cells = line.strip("| ").split(" | ")
        assert cells[:2] == [row.setup.checkpoint, row.setup.arm.name]
        for cell, column in zip(cells[2:], COLUMNS, strict=True):
            task = row.task(column)
            if task is None:
                assert cell == "-"
                continue
            score = row.results["results"][task]["score,none"]
            error = estimate_samples(samples_of(row.samples[task], "score"), "score").error
            assert cell == f"{score:.3f} ± {error:.3f}"


def test_the_sentence_is_one_sentence_with_the_measured_scores(shown: Demo) -> None:
    said = demo_summary.sentence(shown.rows)
    assert said.startswith("The chat template")
    assert said.endswith(").")
    assert ". " not in said
    by_setup = {row.setup: row for row in shown.rows}
    assert f"{demo_summary.context_score(by_setup[RAW.begun]):.3f} without" in said
    grouped = by_setup[RAW.begun].results["results"]["nano_context_awareness_prefix"]["score,none"]
    assert demo_summary.context_score(by_setup[RAW.begun]) == pytest.approx(grouped)


def test_commands_are_read_by_the_harness_as_the_arms_are(shown: Demo) -> None:
    lines = (shown.output / "commands.txt").read_text(encoding="utf-8").splitlines()
    for line, setup in zip(lines, SETUPS, strict=True):
        program, command, *arguments = shlex.split(line)
        assert (program, command) == ("ctx-eval", "run")
        parsed = harness.run_parser().parse_args(arguments)
        assert parsed.model_args == setup.model_args
        assert parsed.tasks == setup.tasks
        assert getattr(parsed, "apply_chat_template", False) == setup.arm.chat
        assert parsed.metadata == SMALL


@pytest.mark.slow
def test_the_command_of_an_arm_gives_its_scores(shown: Demo, tmp_path: Path) -> None:
    """nano-base's, which is the bundled model in this test as in the demo."""
    command = SETUPS[0].command(tmp_path, SMALL)
    assert ctx_eval(*shlex.split(command)[1:]).code == 0
    [written] = tmp_path.rglob("results_*.json")
    results = json.loads(written.read_text(encoding="utf-8"))
    [ours] = (shown.output / SETUPS[0].folder).glob("results_*.json")
    expected = json.loads(ours.read_text(encoding="utf-8"))
    assert results["results"] == expected["results"]
    assert results["task_hashes"] == expected["task_hashes"]
    assert written.parent.relative_to(tmp_path) == ours.parent.relative_to(shown.output)


def test_a_second_run_gives_the_same_scores_and_replaces_the_first(
    shown: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixed = next(row for row in shown.rows if row.setup.arm.prefix)
    monkeypatch.setattr(demo, "SETUPS", (prefixed.setup,))
    for _ in range(2):
        [again] = demo.run(tmp_path, SMALL)
        assert again.results["results"] == prefixed.results["results"]
    assert len(list(tmp_path.rglob("results_*.json"))) == 1
    picture = f"{prefixed.setup.folder}.png"
    assert (tmp_path / picture).read_bytes() == (shown.output / picture).read_bytes()


def test_a_missing_checkpoint_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere; reinstall"):
        demo.run(tmp_path, SMALL, {**BUNDLED, "nano-chat": tmp_path / "nowhere"})
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    output = tmp_path / "taken"
    output.write_text("mine")
    with pytest.raises(
        UserError, match="commands.txt cannot be written .a file lies where a folder should be"
    ):
        demo.run(output, SMALL)
    assert output.read_text() == "mine"


def test_help_of_the_demo_imports_no_torch() -> None:
    code = (
        "import sys; from ctx_models.cli import main\n"
        "try: main(['demo', '--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def row(setup: Setup, scores: Mapping[str, list[float]]) -> Outcome:
    """A row whose task in each column has these scores, two questions a passage."""
    task = {c: columns.begun(t) if setup.arm.prefix else t for c, t in COLUMNS.items()}
    samples = {
        task[column]: [
            {"doc_hash": str(n), "score": score, "doc": {"passage_id": str(n // 2)}}
            for n, score in enumerate(values)
        ]
        for column, values in scores.items()
        if task[column] is not None
    }
    results = {
        task: {"score,none": sum(one["score"] for one in given) / len(given)}
        for task, given in samples.items()
    }
    return Outcome(setup, {"results": results}, samples)


def made_up(**context: list[float]) -> list[Outcome]:
    """All arms; those named by `context` have these scores in every context task, others halves."""
    halves = [0.0, 1.0] * 4
    rows = []
    for setup in SETUPS:
        scores = context.get(setup.folder.replace("-", "_").replace(".", ""), halves)
        rows.append(row(setup, {**dict.fromkeys(CONTEXT_TASKS, scores), BY_HEART: halves}))
    return rows


def test_a_loss_a_gain_and_no_difference_are_called_so() -> None:
    ones, noughts = [1.0] * 8, [0.0] * 8
    loss = demo_summary.sentence(made_up(nano_chat_raw_prefix=ones))
    assert loss.startswith(
        "The chat template lowers nano-chat's context score, the answer begun (1.000 "
    )
    gain = demo_summary.sentence(made_up(nano_chat_raw_prefix=noughts))
    assert gain.startswith(
        "The chat template raises nano-chat's context score, the answer begun (0.000 "
    )
    same = demo_summary.sentence(made_up())
    assert same.startswith("The chat template makes no clear difference")
    # Eight documents without a change do not say that none ever changes.
    assert "+0.000 ± 0.143 [unclear]" in same


def test_the_best_steering_is_that_of_begun_answers_and_each_remedy_has_both_gains() -> None:
    said = demo_summary.sentence(
        made_up(
            nano_chat_chat_prefix_alpha_09_schedule_compound=[1.0] * 8,
            nano_chat_chat_alpha_05=[1.0] * 8,
            **{"nano_chat_ind_chat_indicator_[IND]": [0.0] * 8},
        )
    )
    assert "steering by +0.500 ± 0.000 and +0.000 ± 0.143 [unclear] at best (α 0.9 compo" in said
    assert "[IND] nano-chat-ind's 0.500 and 0.500 by +0.000 ± 0.143 [unclear] and -0.500" in said


def test_questions_on_one_passage_are_one_cluster() -> None:
    """Differences 1, 1 on one passage and 0, 0 on the other: 0.5, and an error as from n = 2."""
    one, other = row(CHAT, {"DROP": [1, 1, 0, 0]}), row(RAW, {"DROP": [0, 0, 0, 0]})
    found = demo_summary.difference(one, other, ["DROP"])
    assert (found.mean, found.error, found.clusters) == (0.5, 0.5, 2)


def test_rows_on_different_documents_are_not_compared() -> None:
    with pytest.raises(AssertionError):
        demo_summary.difference(row(CHAT, {"DROP": [1, 1]}), row(RAW, {"DROP": [1]}), ["DROP"])
