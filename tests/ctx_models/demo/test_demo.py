"""`ctx-eval demo` end to end on small settings, and the sentence it computes."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from matplotlib.image import imread

from ctx_models import nano
from ctx_models.demo import run as demo
from ctx_models.demo import summary as demo_summary
from ctx_models.demo.families import NANO, REAL, SENTENCE, Family, Setup
from ctx_models.demo.run import Outcome
from ctx_tasks import columns, harness, tables
from ctx_tasks.arm import Arm
from ctx_tasks.errors import UserError
from ctx_tasks.results import samples_of
from ctx_tasks.statistics import estimate_samples
from tests.commands import ctx_eval

SETUPS, COLUMNS, CONTEXT_TASKS = NANO.setups, NANO.columns, list(NANO.context_tasks)
BY_HEART = columns.BY_HEART.heading
RAW, CHAT = NANO.raw, NANO.chat
SMALL = {"lengths": 2, "depths": 2, "max_length": 260, "questions": 4}


class Demo(NamedTuple):
    rows: list[Outcome]
    output: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    output = tmp_path_factory.mktemp("demo") / "ctx-demo"
    return Demo(demo.run(NANO, output, SMALL), output)


def test_the_arms_are_those_of_the_paper() -> None:
    assert len({setup.folder for setup in SETUPS}) == len(SETUPS) == 16
    begun = [setup.arm.name for setup in SETUPS if setup.arm.prefix]
    assert begun == [
        "raw, prefix",
        "chat, prefix",
        f'chat, prefix, "{SENTENCE}"',
        *(f"chat, prefix, α {how}" for how in ("0.9 constant", "0.5 constant", "0.9 compound")),
        "chat, prefix",
        "chat, prefix, [IND]",
    ]
    unbegun = [setup.arm.name for setup in SETUPS[1:] if not setup.arm.prefix]
    assert unbegun == [name.replace(", prefix", "") for name in begun[1:]]


def test_every_arm_leaves_results_samples_and_a_heatmap(shown: Demo) -> None:
    kept = {str(path.relative_to(shown.output)) for path in shown.output.glob("*/*")}
    assert kept == {name for one in SETUPS for name in (one.folder, f"{one.folder}.png")}
    assert {path.name for path in shown.output.iterdir()} == {"commands.txt", *nano.NAMES}
    for row in shown.rows:
        assert imread(shown.output / f"{row.setup.folder}.png").shape[0] > 500
        [results] = (shown.output / row.setup.folder).glob("results_*.json")
        written = json.loads(results.read_text(encoding="utf-8"))
        assert written["model_source"] == written["config"]["model"] == "hf-ctx"
        assert written["config"]["checkpoint"] == row.setup.checkpoint
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
        task = row.task(COLUMNS["NIH recall"])
        assert task is not None
        for sample in row.samples[task]:
            prompt = sample["arguments"]["gen_args_0"]["arg_0"]
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
    assert any(answers[one] != answers[CHAT] for one in NANO.steered)
    assert any(answers[one.begun] != answers[CHAT.begun] for one in NANO.steered)


@pytest.mark.slow
def test_killed_it_goes_on_and_ends_as_if_nothing_had_been(shown: Demo, tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from ctx_models.demo import run;"
        "from ctx_models.demo.families import NANO; import sys, json;"
        "run.run(NANO, Path(sys.argv[1]), json.loads(sys.argv[2]))"
    )
    output = tmp_path / "ctx-demo"
    for arms in (1, 9):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(output), json.dumps(SMALL)],
            stderr=subprocess.DEVNULL,
        )
        while len(list(output.glob("*/[!.]*/cell.json"))) < arms:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in output.glob("*/[!.]*/cell.json")}
    rows = demo.run(NANO, output, SMALL)
    assert len(kept) < len(rows)
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    for row, other in zip(rows, shown.rows, strict=True):
        assert row.setup == other.setup
        assert row.samples == other.samples


def test_the_table_fits_80_characters_and_names_every_arm(shown: Demo) -> None:
    narrow, wide = io.StringIO(), io.StringIO()
    tables.show(demo_summary.table(NANO, shown.rows), tables.console_of(80, narrow))
    lines = narrow.getvalue().splitlines()
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)
    assert " ".join(lines).count("n = 4") == len(COLUMNS)
    tables.show(demo_summary.table(NANO, shown.rows), tables.console_of(250, wide))
    assert wide.getvalue().count("±") == narrow.getvalue().count("±")
    for setup in SETUPS:
        named = (line.strip() for line in wide.getvalue().splitlines())
        line = next(line for line in named if line.startswith(f"{setup.arm.name} "))
        assert line.count("±") == (len(CONTEXT_TASKS) if setup.arm.prefix else len(COLUMNS))


def test_at_60_characters_columns_move_to_a_second_table(shown: Demo) -> None:
    file = io.StringIO()
    tables.show(demo_summary.table(NANO, shown.rows), tables.console_of(60, file))
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
    lines = demo_summary.markdown(NANO, shown.rows).splitlines()
    assert len(lines) == 2 + len(SETUPS)
    for line, row in zip(lines[2:], shown.rows, strict=True):
        cells = line.strip("| ").split(" | ")
        assert cells[:2] == [row.setup.checkpoint, row.setup.arm.name]
        for cell, plain in zip(cells[2:], COLUMNS.values(), strict=True):
            task = row.task(plain)
            if task is None:
                assert cell == "-"
                continue
            score = row.results["results"][task]["score,none"]
            error = estimate_samples(samples_of(row.samples[task], "score"), "score").error
            assert cell == f"{score:.3f} ± {error:.3f}"


def test_the_sentence_is_one_sentence_with_the_measured_scores(shown: Demo) -> None:
    said = demo_summary.sentence(NANO, shown.rows)
    assert said.startswith("The chat template")
    assert said.endswith(").")
    assert ". " not in said
    by_setup = {row.setup: row for row in shown.rows}
    assert f"{demo_summary.context_score(NANO, by_setup[RAW.begun]):.3f} without" in said
    grouped = by_setup[RAW.begun].results["results"]["nano_context_awareness_prefix"]["score,none"]
    assert demo_summary.context_score(NANO, by_setup[RAW.begun]) == pytest.approx(grouped)


def test_commands_are_read_by_the_harness_as_the_arms_are(shown: Demo) -> None:
    lines = (shown.output / "commands.txt").read_text(encoding="utf-8").splitlines()
    for line, setup in zip(lines, SETUPS, strict=True):
        program, command, *arguments = shlex.split(line)
        assert (program, command) == ("ctx-eval", "run")
        parsed = harness.run_parser().parse_args(arguments)
        assert parsed.model_args == {"pretrained": setup.checkpoint, **setup.arm.model_args}
        assert parsed.tasks[0].endswith("_prefix") == setup.arm.prefix
        assert getattr(parsed, "apply_chat_template", False) == setup.arm.chat
        assert parsed.metadata == SMALL


@pytest.mark.slow
def test_the_command_of_an_arm_gives_its_scores(shown: Demo, tmp_path: Path) -> None:
    """nano-base's, which is the bundled model in this test as in the demo."""
    command = (shown.output / "commands.txt").read_text(encoding="utf-8").splitlines()[0]
    moved = command.replace(str(shown.output), str(tmp_path))
    assert ctx_eval(*shlex.split(moved)[1:]).code == 0
    [written] = tmp_path.rglob("results_*.json")
    results = json.loads(written.read_text(encoding="utf-8"))
    [ours] = (shown.output / SETUPS[0].folder).glob("results_*.json")
    expected = json.loads(ours.read_text(encoding="utf-8"))
    assert results["results"] == expected["results"]
    assert results["task_hashes"] == expected["task_hashes"]


@pytest.mark.slow
def test_a_second_run_finishes_what_a_killed_one_left(shown: Demo, tmp_path: Path) -> None:
    """Two arms are missing: one wholly, one has lost a file."""
    output = tmp_path / "ctx-demo"
    shutil.copytree(shown.output, output)
    lost, damaged = (output / one.folder for one in SETUPS[2:4])
    shutil.rmtree(lost)
    next(damaged.glob("samples_*")).unlink()
    kept = {path: path.stat().st_mtime_ns for path in output.rglob("results_*.json")}
    again = demo.run(NANO, output, SMALL)
    assert [one.results["results"] for one in again] == [
        one.results["results"] for one in shown.rows
    ]
    unchanged = {p for p, when in kept.items() if p.exists() and p.stat().st_mtime_ns == when}
    assert len(unchanged) == len(SETUPS) - 2
    for setup in SETUPS[2:4]:
        [file] = (output / setup.folder).glob("results_*.json")
        assert file not in unchanged


def test_arms_that_fail_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    nowhere = Arm(alpha=0.5, layers="99")
    arms = (replace(one, arm=replace(nowhere, chat=one.arm.chat)) for one in (RAW, CHAT))
    raw, chat = arms
    told = replace(chat, arm=replace(nowhere, layers="98"))
    family = replace(NANO, first=(), raw=raw, chat=chat, told=told, steered=(), marked=None)
    said = "5 of the demo's 5 arms failed, which the same command runs again; the first: nano-chat"
    with pytest.raises(UserError, match=said):
        demo.run(family, tmp_path / "ctx-demo", SMALL)


def test_a_missing_checkpoint_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="models are not all there: .*nowhere"):
        demo.run(NANO, tmp_path, SMALL, {"nano-chat": tmp_path / "nowhere"})
    assert not list(tmp_path.iterdir())


def test_the_real_family_has_every_setting_begun_and_unbegun_and_generated_tokens_kept() -> None:
    names = [setup.arm.name for setup in REAL.setups]
    assert len(set(names)) == len(names) == 13
    assert names[:3] == ["raw, prefix", "chat, prefix", "chat"]
    assert {name for name in names if "prompt only" in name} == {
        f"chat, {begun}α 0.9 compound prompt only" for begun in ("prefix, ", "")
    }
    assert list(REAL.columns.values()) == [
        f"prose_{task}"
        for task in ("nih_recall", "squad_contains", "quac_contains", "drop_contains")
    ]


def test_an_output_that_is_a_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    output = tmp_path / "taken"
    output.write_text("mine")
    with pytest.raises(
        UserError, match="commands.txt cannot be written .a file lies where a folder should be"
    ):
        demo.run(NANO, output, SMALL)
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


def row(family: Family, setup: Setup, scores: Mapping[str, list[float]]) -> Outcome:
    """A row whose task in each column has these scores, two questions a passage."""
    task = {c: columns.begun(t) if setup.arm.prefix else t for c, t in family.columns.items()}
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


def made_up(family: Family = NANO, **context: list[float]) -> str:
    """The sentence on all arms; those named by `context` have these scores in every context task,
    others halves.
    """
    halves = [0.0, 1.0] * 4
    rows = []
    for setup in family.setups:
        name = re.sub(r"[-/]", "_", setup.folder).replace(".", "")
        scores = dict.fromkeys(family.columns, halves)
        scores |= dict.fromkeys(family.context_tasks, context.get(name, halves))
        rows.append(row(family, setup, scores))
    return demo_summary.sentence(family, rows)


def test_a_loss_a_gain_and_no_difference_are_called_so() -> None:
    ones, noughts = [1.0] * 8, [0.0] * 8
    loss = made_up(nano_chat_raw_prefix=ones)
    assert loss.startswith(
        "The chat template lowers nano-chat's context score, the answer begun (1.000 "
    )
    gain = made_up(nano_chat_raw_prefix=noughts)
    assert gain.startswith(
        "The chat template raises nano-chat's context score, the answer begun (0.000 "
    )
    same = made_up()
    assert same.startswith("The chat template makes no clear difference")
    # Eight documents without a change do not say that none ever changes.
    assert "+0.000 ± 0.143 [unclear]" in same


def test_the_best_steering_is_that_of_begun_answers_and_each_remedy_has_both_gains() -> None:
    said = made_up(
        nano_chat_chat_prefix_alpha_09_schedule_compound=[1.0] * 8,
        nano_chat_chat_alpha_05=[1.0] * 8,
        **{"nano_chat_ind_chat_indicator_[IND]": [0.0] * 8},
    )
    assert "steering by +0.500 ± 0.000 and +0.000 ± 0.143 [unclear] at best (α 0.9 compo" in said
    assert "[IND] nano-chat-ind's 0.500 and 0.500 by +0.000 ± 0.143 [unclear] and -0.500" in said


def test_the_real_familys_sentence_names_the_setting_and_neither_indicator_nor_heart() -> None:
    best = "smollm2_135m_instruct_chat_prefix_alpha_09_schedule_compound_steer_generated_False"
    said = made_up(REAL, **{best: [1.0] * 8})
    assert said.startswith("The chat template makes no clear difference to smollm2-135m-instruct's")
    assert "and steering by +0.500 ± 0.000 and +0.000 ± 0.143 [unclear] at best" in said
    assert said.endswith("(α 0.9 compound, prompt only of 4 settings).")


def test_questions_on_one_passage_are_one_cluster() -> None:
    """Differences 1, 1 on one passage and 0, 0 on the other: 0.5, and an error as from n = 2."""
    one, other = (
        row(NANO, setup, {"DROP": scores})
        for setup, scores in ((CHAT, [1, 1, 0, 0]), (RAW, [0, 0, 0, 0]))
    )
    found = demo_summary.difference(one, other, [COLUMNS["DROP"]])
    assert (found.mean, found.error, found.clusters) == (0.5, 0.5, 2)


def test_rows_on_different_documents_are_not_compared() -> None:
    with pytest.raises(AssertionError):
        demo_summary.difference(
            row(NANO, CHAT, {"DROP": [1, 1]}), row(NANO, RAW, {"DROP": [1]}), [COLUMNS["DROP"]]
        )
