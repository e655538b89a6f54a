"""The gate: each verdict, its exit code, the baseline file, and the formats for CI."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from ctx_models.cli import main
from ctx_models.commands import gate as command
from ctx_tasks.gate.decision import Margin, paired_loss
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
        (hits(300), 0, "pass: the loss is at most 0.004"),
        (hits(240), 1, "regression: the loss is beyond 0.01"),
        (hits(296), 2, "inconclusive: the loss is between +0.001 and +0.019"),
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


def test_the_same_answers_pass_however_few(tmp_path):
    folder = write(tmp_path / "a", hits(3, 5))
    code, out, _ = gate("--baseline", folder, folder)
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
    code, out, _ = gate("--baseline", folder, folder)
    assert (code, "2 documents of the baseline have no score" in out) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wrong"], "No such option"),
        (["RESULTS"], "give --baseline FILE"),
        (["RESULTS", "--baseline", "nowhere"], "does not exist"),
        (["RESULTS", "--baseline", "BROKEN"], "is no baseline"),
        (["RESULTS", "--baseline", "RESULTS", "--margin", "much"], "margin 'much' must be a loss"),
        (["RESULTS", "--baseline", "RESULTS", "--margin", "-1"], "must be a loss"),
        (["RESULTS", "--baseline", "RESULTS", "--metric", "f1"], "has no metric 'f1'"),
        (["RESULTS", "--baseline", "RESULTS", "--margins", "OTHER"], "There is a margin for mmlu"),
    ],
)
def test_mistakes_exit_with_3_in_one_sentence(tmp_path, arguments, said):
    write(tmp_path / "results", hits(3, 5))
    (tmp_path / "broken.json").write_text('{"format": "lm-eval-ctx baseline 1", "runs": [{}]}')
    (tmp_path / "margins.yaml").write_text("mmlu: 0.1\n")
    places = {"RESULTS": "results", "BROKEN": "broken.json", "OTHER": "margins.yaml"}
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
    [found] = json.loads(plain)
    assert (found["verdict"], found["exit_code"]) == ("regression", 1)
    assert found["tasks"][0]["loss"]["n"] == N


def test_the_bounds_are_those_of_student_with_half_a_document_added():
    losses = np.array([1.0] * 30 + [-1.0] * 10 + [0.0] * 60)
    loss = paired_loss(losses, np.arange(100), 0.01)
    mean = 20 / 102
    assert loss.mean == pytest.approx(mean)
    squares = ((losses - mean) ** 2).sum() + 1
    error = np.sqrt(100 / 99 * squares) / 102
    assert loss.error == pytest.approx(error)
    assert loss.high == pytest.approx(mean + stats.t.ppf(0.95, 99) * error)
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
