"""The gate: each verdict, its exit code, the baseline file, and the formats for CI."""

from __future__ import annotations

import json
import math
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from ctx_models.cli import main
from ctx_models.commands import gate as command
from ctx_tasks.gate import baseline as baselines
from ctx_tasks.gate.loss import paired_loss
from ctx_tasks.gate.margin import Margin
from tests.commands import as_process, ctx_eval
from tests.ctx_tasks.result_files import hits, lines, sample, write_run

N = 400
TASK = "squad_contains"


def write(folder, scores, task=TASK, **settings):
    write_run(folder, {task: lines(scores)}, **settings)
    # Another answer than the baseline's, whatever its score.
    for file in folder.glob("samples_*"):
        file.write_text(file.read_text().replace("answer", f"answer of {folder.name}"))
    return folder


def gate(*arguments):
    """Exit code, standard output and error of the command."""
    return ctx_eval("gate", *arguments)


@pytest.fixture
def baseline(tmp_path):
    folder = write(tmp_path / "main", hits(300))
    file = tmp_path / "baseline.json"
    assert gate("--save", file, folder)[0] == 0
    return file


@pytest.mark.parametrize(
    ("scores", "code", "said"),
    [
        (hits(300), 0, "pass: the loss is at most 0.00675"),
        (hits(240), 1, "regression: the loss is beyond 0.01"),
        (hits(296), 2, "inconclusive: the loss is between +0.001 and +0.022"),
        (hits(380), 0, "the gain of 0.199 is suspiciously large"),
    ],
)
def test_verdicts_have_their_exit_codes(tmp_path, baseline, scores, code, said):
    found, out, _ = gate("--baseline", baseline, write(tmp_path / "new", scores))
    assert found == code
    assert said in " ".join(out.split())


@pytest.mark.parametrize(("count", "code"), [(300, 0), (240, 1)])
def test_a_process_of_its_own_ends_with_the_code_of_the_verdict(tmp_path, baseline, count, code):
    arguments = ("gate", "--baseline", baseline, write(tmp_path / "new", hits(count)))
    done = as_process("ctx_models.cli", *arguments)
    assert done == ctx_eval(*arguments)
    assert done.code == code


def test_another_dtype_is_an_error_but_not_one_that_nobody_recorded(tmp_path, baseline):
    half, whole = ({"config": {"model_dtype": f"torch.{one}"}} for one in ("bfloat16", "float32"))
    new = write(tmp_path / "new", hits(300), **half)
    assert gate("--baseline", baseline, new)[0] == 0
    code, out, err = gate("--baseline", write(tmp_path / "old", hits(300), **whole), new)
    assert code == 3
    assert 'dtype is "float32" in the baseline but "bfloat16"' in " ".join((out + err).split())


def test_a_baseline_of_another_harness_is_made_again(tmp_path):
    old, new = (
        write(tmp_path / name, hits(300), lm_eval_version=name) for name in ("0.4.12", "0.4.13")
    )
    file = tmp_path / "baseline.json"
    assert gate("--save", file, old)[0] == 0
    code, out, err = gate("--baseline", file, new)
    assert code == 3
    said = " ".join((out + err).split())
    assert "made with lm-eval 0.4.12, and this is 0.4.13" in said
    assert "ctx-eval gate --save" in said


def test_a_baseline_of_another_minor_version_of_ours_is_made_again(tmp_path, baseline):
    content = json.loads(baseline.read_text())
    content["versions"]["lm-eval-ctx"] = "0.0.7"
    baseline.write_text(json.dumps(content))
    code, out, err = gate("--baseline", baseline, write(tmp_path / "new", hits(300)))
    assert code == 3
    assert "was made with lm-eval-ctx 0.0, and this is" in " ".join((out + err).split())


def test_the_same_answers_pass_however_few(tmp_path):
    folder = write(tmp_path / "a", hits(3, 5))
    again = shutil.copytree(folder, tmp_path / "again")
    code, out, _ = gate("--baseline", folder, again)
    assert (code, "every answer is the baseline's" in out) == (0, True)
    code, out, _ = gate("--baseline", folder, write(tmp_path / "b", hits(3, 5)))
    assert (code, "documents would settle it" in " ".join(out.split())) == (2, True)


def test_a_margin_is_absolute_relative_or_by_task(tmp_path, baseline):
    new = write(tmp_path / "new", hits(280))
    assert gate("--baseline", baseline, new, "--margin", "0.1")[0] == 0
    assert gate("--baseline", baseline, new, "--margin", "15%")[0] == 0
    assert gate("--baseline", baseline, new)[0] == 1
    margins = tmp_path / "margins.yaml"
    margins.write_text(f"{TASK}: 15%\n")
    assert gate("--baseline", baseline, new, "--margins", margins)[0] == 0


def test_lower_is_better_where_the_task_says_so(tmp_path):
    high = write(tmp_path / "high", hits(300), higher_is_better=False)
    low = write(tmp_path / "low", hits(200), higher_is_better=False)
    assert gate("--baseline", high, low)[0] == 0
    assert gate("--baseline", low, high)[0] == 1


def test_what_is_missing_is_an_error_not_a_pass(tmp_path, baseline):
    cases = {
        "the results lack this task": write(tmp_path / "a", hits(300), task="quac_contains"),
        "100 documents of the baseline are missing": write(tmp_path / "b", hits(300, 300)),
        "1 documents of the results have no score": write(tmp_path / "c", [*hits(300)[:-1], None]),
        "the baseline has the metric score": write_run(
            tmp_path / "d", {TASK: [sample(1.0, i, "recall") for i in range(N)]}, metric="recall"
        ),
        "task version is 1.0 in the baseline but 2.0": write(
            tmp_path / "e", hits(300), versions={TASK: 2.0}
        ),
        'chat template is null in the baseline but "abc"': write(
            tmp_path / "f", hits(300), chat=True
        ),
        "limit is null in the baseline but 9": write(
            tmp_path / "g", hits(300), config={"limit": 9}
        ),
    }
    for said, folder in cases.items():
        code, out, _ = gate("--baseline", baseline, folder)
        assert code == 3, said
        assert said in " ".join(out.split())


def test_answers_without_a_verdict_are_an_error(tmp_path):
    """A judge's result file counts them in `missing`."""
    folder = write(tmp_path / "a", hits(300))
    path = next(folder.glob("results_*"))
    content = json.loads(path.read_text())
    content["results"][TASK]["missing,none"] = 2
    path.write_text(json.dumps(content))
    file = next(folder.glob("samples_*"))
    rows = [json.loads(line) | {"missing": 0.0} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = gate("--baseline", folder, shutil.copytree(folder, tmp_path / "again"))
    assert (code, "2 documents of the baseline have no score" in out) == (3, True)


def test_every_run_is_judged_or_named(tmp_path, baseline):
    """The folder of the results holds the baseline's run, and a candidate that fell."""
    write(tmp_path / "results" / "main", hits(300))
    write(tmp_path / "results" / "new", hits(80), model="org/candidate")
    code, _, err = gate("--baseline", baseline, tmp_path / "results")
    assert (code, "left over: org/candidate, raw (" in err) == (3, True)


def test_a_task_that_the_baseline_lacks_is_an_error(tmp_path, baseline):
    new = write(tmp_path / "new", hits(300))
    write(new, hits(10), task="quac_contains", stamp="2026-11-25T00-00-00.000000")
    code, out, _ = gate("--baseline", baseline, new)
    assert code == 3
    assert "quac_contains: error: the baseline lacks this task" in " ".join(out.split())


def test_a_baseline_is_saved_on_pass_alone_and_never_judged_against_itself(tmp_path, baseline):
    kept = baseline.read_text()
    worse, same = write(tmp_path / "worse", hits(100)), write(tmp_path / "same", hits(300))
    assert gate("--baseline", baseline, "--save", baseline, worse)[0] == 1
    assert baseline.read_text() == kept
    unclear = write(tmp_path / "unclear", hits(296))
    options = ["--baseline", baseline, "--save", baseline, "--inconclusive-passes"]
    code, _, err = gate(*options, unclear)
    assert (code, "is not written" in err) == (0, True)
    assert baseline.read_text() == kept
    assert gate("--baseline", baseline, "--save", baseline, same)[0] == 0
    assert baseline.read_text() != kept
    code, _, err = gate("--baseline", same, same)
    assert (code, "is the baseline itself" in err) == (3, True)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_crash_is_no_regression(tmp_path, baseline, monkeypatch, error):
    def fail(*_):
        raise error

    new = write(tmp_path / "new", hits(300))
    monkeypatch.setattr(baselines, "read", fail)
    code, _, err = gate("--baseline", baseline, new)
    assert (code, error.__name__ in err) == (3, True)
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [-5, "a", 10**12, 1.0, True])
def test_cluster_numbers_of_a_baseline_are_checked(tmp_path, baseline, number):
    content = json.loads(baseline.read_text())
    content["runs"][0]["tasks"][TASK]["clusters"][0] = number
    baseline.write_text(json.dumps(content))
    code, _, err = gate("--baseline", baseline, write(tmp_path / "new", hits(300)))
    assert (code, "clusters are not numbered from 0" in err) == (3, True)


@pytest.mark.parametrize("score", [1e308, -1e200, pytest.param(10**400, id="1e400"), "1", math.nan])
def test_a_score_that_nothing_can_be_reckoned_with_is_none(tmp_path, baseline, score):
    content = json.loads(baseline.read_text())
    content["runs"][0]["tasks"][TASK]["scores"][0] = score
    baseline.write_text(json.dumps(content))
    code, out, _ = gate("--baseline", baseline, write(tmp_path / "new", hits(300)))
    assert (code, "1 documents of the baseline have no" in " ".join(out.split())) == (3, True)
    [file] = write(tmp_path / "old", hits(300)).glob("samples_*")
    first, rest = file.read_text().split("\n", 1)
    changed = {key: score if key == "score" else old for key, old in json.loads(first).items()}
    file.write_text(f"{json.dumps(changed)}\n{rest}")
    code, _, err = gate("--baseline", tmp_path / "old", tmp_path / "new")
    assert (code, "not foreseen" in err) == (3, False)


def test_a_sample_file_cut_at_a_line_end_is_an_error(tmp_path):
    folder = write(tmp_path / "a", hits(300))
    new = write(tmp_path / "b", hits(300))
    for cut in (folder, new):
        file = next(cut.glob("samples_*"))
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:350]))
    code, out, _ = gate("--baseline", folder, new)
    assert (code, "cut off: it holds 350 of 400 documents" in " ".join(out.split())) == (3, True)


def test_prompts_that_changed_under_one_version_are_an_error(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, prompts in zip(folders, ("p", "p", "q"), strict=True):
        rows = [line | {"prompt_hash": prompts * 8} for line in lines(hits(300))]
        write_run(folder, {TASK: rows})
    assert gate("--baseline", folders[0], folders[1])[0] == 0
    code, out, _ = gate("--baseline", folders[0], folders[2])
    assert (code, "the prompts differ" in out) == (3, True)


@pytest.mark.parametrize("margin", ["5", "1", "100%"])
def test_a_margin_that_tolerates_every_loss_is_refused(tmp_path, baseline, margin):
    new = write(tmp_path / "new", hits(0))
    code, _, err = gate("--baseline", baseline, "--margin", margin, new)
    assert (code, "tolerates every loss" in " ".join(err.split())) == (3, True)


def test_a_few_clusters_are_said_to_be_no_sample(tmp_path):
    rows = {
        name: [sample(1.0, i, passage_id=i // 50) | {"filtered_resps": [name]} for i in range(400)]
        for name in ("a", "b")
    }
    for name, found in rows.items():
        write_run(tmp_path / name, {TASK: found})
    _, out, _ = gate("--baseline", tmp_path / "a", tmp_path / "b")
    assert "the documents lie in 8 clusters" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wrong"], "No such option"),
        (["RESULTS"], "give --baseline FILE"),
        (["RESULTS", "--baseline", "nowhere"], "does not exist"),
        (["RESULTS", "--baseline", "BROKEN"], "is no baseline"),
        (["RESULTS", "--baseline", "CUT"], "cut.json is not JSON (line 2, column "),
        (["RESULTS", "--baseline", "EMPTY"], "empty.json is not JSON (line 1, column 1: "),
        (["RESULTS", "--baseline", "AGAIN", "--margin", "much"], "margin 'much' must be a loss"),
        (["RESULTS", "--baseline", "AGAIN", "--margin", "-1"], "must be a loss"),
        (["RESULTS", "--baseline", "AGAIN", "--metric", "f1"], "--metric f1: no task has it"),
        (["RESULTS", "--baseline", "AGAIN", "--margins", "OTHER"], "There is a margin for mmlu"),
    ],
)
def test_mistakes_exit_with_3_in_one_sentence(tmp_path, arguments, said):
    write(tmp_path / "results", hits(3, 5))
    shutil.copytree(tmp_path / "results", tmp_path / "again")
    (tmp_path / "broken.json").write_text('{"format": "lm-eval-ctx baseline 2", "runs": [{}]}')
    (tmp_path / "cut.json").write_text('{"format": "lm-eval-ctx baseline 2", "runs":\n[{, ')
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "margins.yaml").write_text("mmlu: 0.1\n")
    places = {
        "RESULTS": "results",
        "AGAIN": "again",
        "BROKEN": "broken.json",
        "CUT": "cut.json",
        "EMPTY": "empty.json",
        "OTHER": "margins.yaml",
    }
    code, _, err = gate(*(tmp_path / places[a] if a in places else a for a in arguments))
    assert code == 3
    assert said in " ".join(err.replace("│", "").split())


def test_several_runs_are_matched_by_arm(tmp_path):
    for name, counts in (("old", (300, 200)), ("new", (300, 100))):
        write(tmp_path / name / "raw", hits(counts[0]))
        write(tmp_path / name / "chat", hits(counts[1]), chat=True)
    code, out, _ = gate("--baseline", tmp_path / "old", tmp_path / "new")
    assert code == 1
    assert out.count("gate: pass") == out.count("gate: regression") == 1
    code, _, err = gate("--baseline", tmp_path / "old", tmp_path / "new" / "raw")
    assert (code, "matches 0 of the results" in err) == (3, True)


def test_a_baseline_is_small_and_gives_the_same_verdict(tmp_path):
    scores = [float(x) for x in np.random.default_rng(0).integers(0, 2, 10_000)]
    folder, new = write(tmp_path / "a", scores), write(tmp_path / "b", scores[::-1])
    file = tmp_path / "baseline.json"
    gate("--save", file, folder)
    assert file.stat().st_size < 1_000_000
    content = json.loads(file.read_text())
    assert content["versions"]["lm-eval"]
    assert gate("--baseline", file, new) == gate("--baseline", folder, new)


def test_a_saved_baseline_is_counted_and_not_replaced_unasked(tmp_path, baseline):
    folder = tmp_path / "main"
    before = baseline.read_bytes()
    code, out, err = gate("--save", baseline, folder)
    assert (code, out) == (3, "")
    assert "baseline.json is there already: name another file, or add --force." in err
    assert baseline.read_bytes() == before
    code, out, _ = gate("--save", baseline, "--force", folder)
    assert (code, out) == (0, f"Saved 1 run as a baseline: {baseline}\n")


def test_a_crash_is_an_error_and_never_a_regression(tmp_path, monkeypatch, capsys):
    """Exit code 1 means that the checkpoint got worse."""

    def crash(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(command, "_gate", crash)
    with pytest.raises(SystemExit) as ended:
        main(["gate", "--baseline", "a", "b"])
    assert ended.value.code == 3
    assert "ctx-eval gate: error: RuntimeError: out of memory" in capsys.readouterr().err


def test_a_saved_baseline_keeps_every_digit_of_a_recall(tmp_path):
    """The same answers pass only where no score moved, not even in its last digit."""
    folder = write(tmp_path / "a", [1 / 3, 2 / 3, 0.1 + 0.2] * 2)
    file = tmp_path / "baseline.json"
    gate("--save", file, folder)
    code, out, _ = gate("--baseline", file, folder)
    assert (code, "every answer is the baseline's" in out) == (0, True)


def test_p_is_corrected_over_all_runs_of_the_gate(tmp_path):
    """A loss that one run alone shows is not shown among five runs."""
    for number in range(5):
        model = f"org/model-{number}"
        write(tmp_path / "old" / str(number), hits(300), model=model)
        write(tmp_path / "new" / str(number), hits(289 if number == 0 else 300), model=model)
    alone = gate("--baseline", tmp_path / "old" / "0", tmp_path / "new" / "0")
    together = gate("--baseline", tmp_path / "old", tmp_path / "new")
    assert (alone[0], together[0]) == (1, 2)


def test_the_verdict_is_readable_beside_a_long_name(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    long = "a_group_of_my_own_with_a_long_name_squad_contains_reworded"
    old, new = (write(tmp_path / name, hits(300), task=long) for name in ("old", "new"))
    _, out, _ = gate("--baseline", old, new)
    [row] = [line for line in out.splitlines() if "0.750" in line]
    assert row.rstrip().endswith("pass")
    assert len(row) <= 80


def test_reports_for_ci_are_well_formed_and_escaped(tmp_path):
    name = "<b>|`x`\u0001</b>"
    old = write(tmp_path / "a", hits(300), model=name)
    new = write(tmp_path / "b", hits(100), model=name)
    files = [tmp_path / f"out.{kind}" for kind in ("xml", "md", "json")]
    options = zip(("--junit", "--markdown", "--json"), files, strict=True)
    code, _, _ = gate("--baseline", old, new, *(part for pair in options for part in pair))
    assert code == 1
    xml, md, plain = (file.read_text() for file in files)
    [suite] = ElementTree.fromstring(xml)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "1", "0")
    assert suite.get("name") == "<b>|`x`</b>, raw"
    assert r"\<b\>\|\`x\`" in md
    assert "| regression |" in md
    [case] = suite
    assert case.get("classname") == "ctx-eval.gate.<b>|`x`</b>, raw"
    assert float(case.get("time")) == float(suite.get("time")) >= 0
    content = json.loads(plain)
    assert (content["format"], content["level"]) == ("lm-eval-ctx gate 1", 0.05)
    assert content["baseline"] == str(old)
    [found] = content["runs"]
    assert (found["verdict"], found["exit_code"]) == ("regression", 1)
    assert found["tasks"][0]["loss"]["n"] == N


def test_the_bounds_are_those_of_student_with_half_a_document_added():
    losses = np.array([1.0] * 30 + [-1.0] * 10 + [0.0] * 60)
    loss = paired_loss(losses, np.arange(100), 0.01)
    mean = 20 / 102
    assert loss.mean == pytest.approx(mean)
    squares = 100 / 99 * ((losses - mean) ** 2).sum() + 1
    error = np.sqrt(squares) / 102
    assert loss.error == pytest.approx(error)
    assert loss.low == pytest.approx(mean - stats.t.ppf(0.95, 99) * error)
    assert loss.high == pytest.approx(mean + stats.t.ppf(0.95, 99) * error, abs=0.005)
    assert loss.p == pytest.approx(stats.t.sf((mean - 0.01) / error, 99))


def test_documents_on_one_passage_widen_the_bounds():
    losses = np.repeat([1.0, 0.0, 0.0, 0.0, 0.0], 20)
    apart = paired_loss(losses, np.arange(100), 0.01)
    together = paired_loss(losses, np.arange(100) // 20, 0.01)
    assert together.high - together.low > 4 * (apart.high - apart.low)
    assert (apart.p < 0.05, together.p < 0.05) == (True, False)


def test_margins_are_read():
    assert Margin.read("5%").of(0.4) == pytest.approx(0.02)
    assert Margin.read(0.03).of(0.4) == 0.03
