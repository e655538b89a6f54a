"""A dataset's scores do not depend on how they ran: killed, over processes, in another format."""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from ctx_tasks.errors import UserError
from ctx_tasks.row_writer import write_rows
from ctx_tasks.rows import read_rows
from tests import tiny
from tests.commands import as_process, words
from tests.training.dependency.conversations import CONVERSATIONS, conversation, turn
from training import files
from training.dependency.equation import score_batch, score_conversation
from training.dependency.parts import Parts
from training.dependency.score import ScoreSummary, score, summary


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("seed model")
    tiny.model(max_position_embeddings=256).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """60 conversations of 1 to 5 turns, some beyond the window of 256, one without any response."""
    rows = [
        {"id": f"row {n}", "messages": conversation(n, 1 + n % 5, words=20), "extra": {"n": n}}
        for n in range(59)
    ]
    rows.insert(17, {"id": "open", "messages": [turn("user", "Hello?")], "extra": None})
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    write_rows(path, rows)
    return path


@pytest.fixture(scope="module")
def scored(tmp_path_factory, data, checkpoint) -> tuple[Path, str]:
    """The file of an undisturbed run, and what it printed."""
    output = tmp_path_factory.mktemp("scored") / "scored.jsonl"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        score(**arguments(data, output, checkpoint))
    return output, printed.getvalue()


def arguments(data, output, checkpoint, **more) -> dict:
    given = {"source": data, "output": output, "model": checkpoint, "batch_tokens": 512}
    return {key: str(v) if isinstance(v, Path) else v for key, v in {**given, **more}.items()}


def command(keywords) -> list[str]:
    """`ctx-train score` and its arguments, for a process of its own."""
    options = [
        f"--{key.replace('_', '-')}={value}" for key, value in keywords.items() if key != "source"
    ]
    return ["training.cli", "score", keywords["source"], *options]


def test_a_dataset_gets_a_column_and_keeps_the_rest(scored, data, checkpoint):
    output, _ = scored
    model, tokenizer = tiny.model(max_position_embeddings=256), tiny.tokenizer()
    before, after = list(read_rows(data)), list(read_rows(output))
    assert len(after) == 60
    nulls = 0
    for old, new in zip(before, after, strict=True):
        found = new.pop("context_dependency")
        assert new == old
        expected = score_conversation(model, tokenizer, old["messages"], layer=2)
        assert found == pytest.approx(expected, abs=1e-5)
        nulls += found.count(None)
    assert nulls > 0
    assert after[17]["messages"] == before[17]["messages"]


def test_every_turn_is_accounted_for(scored, checkpoint):
    output, printed = scored
    rows = list(read_rows(output))
    scores = [score for row in rows for score in row["context_dependency"]]
    counts = json.loads(files.meta_path(output).read_text())["counts"]
    assert counts["conversations"] == 60
    assert counts["turns"] == len(scores)
    assert counts["scored"] == len(scores) - scores.count(None)
    assert counts["cut"] + counts["beyond"] == scores.count(None)
    assert counts["empty"] == counts["refused"] == 0
    known = [score for score in scores if score is not None]
    assert counts["quantiles"][2] == pytest.approx(statistics.median(known), abs=1e-6)
    assert counts["above_beta"] == sum(score > 0.6 for score in known)
    assert "Scoring layer 2 of 3" in printed
    said = summary(ScoreSummary(**counts))
    assert f"{counts['quantiles'][2]:.3f} (50%)" in said
    assert f"{counts['above_beta']} above 0.6" in said


def test_a_finished_output_is_not_computed_again(scored, capsys, data, checkpoint):
    output, _ = scored
    time_before = output.stat().st_mtime_ns
    account = score(**arguments(data, output, checkpoint))
    assert account.conversations == 60
    assert output.stat().st_mtime_ns == time_before
    assert "finished already" in capsys.readouterr().out
    assert not parts_of(output).exists()


def test_a_finished_output_of_other_settings_is_refused(scored, data, checkpoint):
    output, _ = scored
    before = output.read_bytes()
    with pytest.raises(UserError, match=r"a finished run with other settings: layers \[2\] \(now"):
        score(**{**arguments(data, output, checkpoint), "layer": 1})
    assert output.read_bytes() == before
    assert not parts_of(output).exists()


def test_a_part_line_without_scores_is_a_sentence(monkeypatch, tmp_path, data, checkpoint):
    output = tmp_path / "scored.jsonl"
    parts_with_one_batch(monkeypatch, output, arguments(data, output, checkpoint))
    with (parts_of(output) / "0.jsonl").open("ab") as part:
        part.write(b'{"rows": [5, 9]}\n')
    with pytest.raises(UserError, match=r"0\.jsonl holds a line without the scores of its rows"):
        score(**arguments(data, output, checkpoint))


def test_a_model_without_a_template_is_told_the_options_there_are(tmp_path, data, checkpoint):
    bare = tiny.tokenizer()
    bare.chat_template = None
    bare.save_pretrained(tmp_path / "bare")
    keywords = arguments(data, tmp_path / "o.jsonl", checkpoint)
    with pytest.raises(UserError, match=r"no chat template.*one's tokenizer with --tokenizer"):
        score(**{**keywords, "tokenizer": str(tmp_path / "bare")})


def test_parquet_gives_the_same_scores(scored, tmp_path, data, checkpoint):
    source, output = tmp_path / "chats.parquet", tmp_path / "scored.parquet"
    rows = [{k: v for k, v in row.items() if k != "extra"} for row in read_rows(data)]
    write_rows(source, rows)
    score(**arguments(source, output, checkpoint))
    found = [row["context_dependency"] for row in read_rows(output)]
    assert found == [row["context_dependency"] for row in read_rows(scored[0])]


def parts_of(output: Path) -> Path:
    return output.with_name(f".{output.name}.parts")


def lines(output: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in parts_of(output).glob("*.jsonl"))


def kill_after(keywords, output, count) -> None:
    """Start a run and kill it once it has finished `count` batches."""
    process = subprocess.Popen(words(*command(keywords)), stdout=subprocess.DEVNULL)
    while lines(output) < count:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.001)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bytes(scored, tmp_path, data, checkpoint):
    output = tmp_path / "scored.jsonl"
    keywords = arguments(data, output, checkpoint)
    kill_after(keywords, output, 2)
    assert not output.exists()
    with (parts_of(output) / "0.jsonl").open("ab") as part:
        part.write(b'{"rows": [5, 9], "scor')
    score(**keywords)
    assert output.read_bytes() == scored[0].read_bytes()
    assert meta_without_output(output) == meta_without_output(scored[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "scored.jsonl",
        "scored.jsonl.meta.json",
    ]


def meta_without_output(output):
    meta = json.loads(files.meta_path(output).read_text())
    return {key: value for key, value in meta.items() if key != "output"}


def test_finished_batches_are_not_computed_again(monkeypatch, scored, tmp_path, data, checkpoint):
    output = tmp_path / "scored.jsonl"
    keywords = arguments(data, output, checkpoint)
    ran = []

    def counted(model, batch, **more):
        if len(ran) == 4:
            raise KeyboardInterrupt
        ran.append(len(batch))
        return score_batch(model, batch, **more)

    monkeypatch.setattr("training.dependency.run.score_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        score(**keywords)
    first = sum(ran)
    ran = [0] * 5
    score(**keywords)
    assert 0 < first < 60
    assert sum(ran) == 60 - first
    assert output.read_bytes() == scored[0].read_bytes()


@pytest.mark.parametrize("change", [{"layer": 1}, {"max_length": 100}, {"batch_tokens": 64}])
def test_parts_of_another_run_are_refused(monkeypatch, tmp_path, data, checkpoint, change):
    output = tmp_path / "scored.jsonl"
    parts_with_one_batch(monkeypatch, output, arguments(data, output, checkpoint))
    with pytest.raises(UserError, match=r"unfinished run with other settings: (layers|max|batch)"):
        score(**{**arguments(data, output, checkpoint), **change})


def test_parts_of_other_data_are_refused(monkeypatch, tmp_path, data, checkpoint):
    output, other = tmp_path / "scored.jsonl", tmp_path / "other.jsonl"
    write_rows(other, [{"messages": conversation(1, 1)}])
    parts_with_one_batch(monkeypatch, output, arguments(data, output, checkpoint))
    with pytest.raises(UserError, match="source_sha256"):
        score(**arguments(other, output, checkpoint))


def parts_with_one_batch(monkeypatch, output, keywords) -> None:
    batches = iter([score_batch])
    with monkeypatch.context() as patch:
        patch.setattr("training.dependency.run.score_batch", lambda *a, **k: next(batches)(*a, **k))
        with pytest.raises((StopIteration, RuntimeError)):
            score(**keywords)
    assert lines(output) == 1


def test_a_conversation_the_template_refuses_is_null_and_counted(tmp_path, capsys, checkpoint):
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    )
    tiny.tokenizer(template).save_pretrained(tmp_path / "strict")
    rows = [{"messages": CONVERSATIONS[name]} for name in ("system", "several turns", "system")]
    write_rows(tmp_path / "chats.jsonl", rows)
    account = score(
        tmp_path / "chats.jsonl",
        tmp_path / "scored.jsonl",
        model=str(checkpoint),
        tokenizer=str(tmp_path / "strict"),
    )
    found = [row["context_dependency"] for row in read_rows(tmp_path / "scored.jsonl")]
    assert [scores.count(None) for scores in found] == [2, 0, 2]
    assert (account.scored, account.refused) == (4, 4)
    assert capsys.readouterr().out.count("no system") == 1


def test_mistakes_are_told_before_the_model_loads(monkeypatch, tmp_path, data, checkpoint):
    monkeypatch.setattr("training.dependency.run.Seed.load_model", lambda *_: pytest.fail("loaded"))
    tiny.tokenizer(None).save_pretrained(tmp_path / "plain")
    write_rows(tmp_path / "raw.jsonl", [{"conversations": []}])
    good = arguments(data, tmp_path / "scored.jsonl", checkpoint)
    mistakes = {
        "layer 3 is not in this model: use one of 0 to 2": {"layer": 3},
        "max_length is 300: use 1 to 256": {"max_length": 300},
        "batch_tokens is 0": {"batch_tokens": 0},
        "dtype is 'half'": {"dtype": "half"},
        "quantize is '2bit'": {"quantize": "2bit"},
        "has no chat template": {"tokenizer": str(tmp_path / "plain")},
        r"Row 1 of .*raw.jsonl \(columns conversations\)": {"source": tmp_path / "raw.jsonl"},
        "must end in .jsonl or .parquet": {"output": tmp_path / "scored.csv"},
        "is also the input": {"output": data},
        "No model could be loaded": {"model": str(tmp_path / "absent")},
    }
    for message, change in mistakes.items():
        with pytest.raises(UserError, match=message):
            score(**{**good, **change})
    assert not (tmp_path / "scored.jsonl").exists()


def test_scores_that_are_no_numbers_are_refused(tmp_path, data):
    broken = tiny.model(max_position_embeddings=256)
    broken.model.layers[0].mlp.down_proj.weight.data[:] = float("nan")
    broken.save_pretrained(tmp_path / "broken")
    tiny.tokenizer().save_pretrained(tmp_path / "broken")
    with pytest.raises(UserError, match="not numbers"):
        score(data, tmp_path / "scored.jsonl", model=str(tmp_path / "broken"))


@pytest.mark.parametrize(
    "change", [{"dtype": "bfloat16"}, {"quantize": "4bit"}, {"quantize": "8bit"}]
)
def test_lower_precision_stays_near(tmp_path, data, change):
    # The CPU kernel of 4 bit wants widths in multiples of 64.
    checkpoint = tmp_path / "seed model"
    shape = {"intermediate_size": 128, "initializer_range": 0.1}
    tiny.model(max_position_embeddings=256, **shape).save_pretrained(checkpoint)
    tiny.tokenizer().save_pretrained(checkpoint)

    def scores(output, **more):
        score(**arguments(data, output, checkpoint, **more))
        rows = read_rows(output)
        return [s for row in rows for s in row["context_dependency"] if s is not None]

    exact, found = scores(tmp_path / "a.jsonl"), scores(tmp_path / "b.jsonl", **change)
    assert found == pytest.approx(exact, abs=0.1)
    assert found != exact


# accelerate starts several processes on a CPU only through its launcher for GPUs.
TWO_PROCESSES = [
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m"),
]


@pytest.mark.slow
def test_two_processes_write_the_file_of_one(scored, tmp_path, data, checkpoint):
    output = tmp_path / "scored.jsonl"
    done = as_process(*TWO_PROCESSES, *command(arguments(data, output, checkpoint)))
    assert done.code == 0, done.err
    assert output.read_bytes() == scored[0].read_bytes()
    assert done.out.count("in 2 process(es)") == done.out.count("60 conversations") == 1


@pytest.mark.slow
def test_one_process_finishes_what_two_began(scored, tmp_path, data, checkpoint):
    """Both workers are killed; their launcher sees it and ends."""
    output = tmp_path / "scored.jsonl"
    keywords = arguments(data, output, checkpoint)
    line = words(*TWO_PROCESSES, *command(keywords))
    launched = subprocess.Popen(line, stderr=subprocess.DEVNULL)
    while not all((parts_of(output) / f"{rank}.jsonl").exists() for rank in (0, 1)):
        assert launched.poll() is None, "the run ended before it could be killed"
        time.sleep(0.001)
    for worker in psutil.Process(launched.pid).children(recursive=True):
        worker.kill()
    assert launched.wait() != 0
    assert not output.exists()
    score(**keywords)
    assert output.read_bytes() == scored[0].read_bytes()


def test_a_part_that_is_being_written_is_not_taken(tmp_path):
    parts = Parts(tmp_path / "scored.jsonl")
    parts.claim({"layer": 1})
    with parts.writer(0) as part, Parts(tmp_path / "scored.jsonl").writer(1):
        batch = {"rows": [1], "scores": [[[0.5]]], "fates": {"scored": 1}}
        part.add(batch)
        with (
            pytest.raises(UserError, match="Another process is writing"),
            Parts(tmp_path / "scored.jsonl").writer(0),
        ):
            pytest.fail("two writers")
    assert list(parts.read()) == [batch]
