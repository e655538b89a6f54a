"""What a cell's log holds, and what is told above the bar."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import lm_eval
import pytest
from tqdm import tqdm

from ctx_models import logs
from ctx_tasks import harness


@pytest.fixture
def told() -> list[str]:
    return []


def test_all_that_libraries_print_is_in_the_log_and_not_on_the_terminal(tmp_path, told, capfd):
    """Also what a process of the harness's prints: it asks git for a commit."""
    with logs.recorded(tmp_path / "log.txt", told.append):
        subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('fatal\\n')"])
        print("a note", file=sys.stderr)
    print("bar", file=sys.stderr)
    assert capfd.readouterr().err == "bar\n"
    assert (tmp_path / "log.txt").read_text().splitlines() == ["fatal", "a note"]
    assert told == []


def test_warnings_are_logged_and_told_in_one_line_each(tmp_path, told):
    silent = logging.getLogger("transformers.silent")
    with logs.recorded(tmp_path / "log.txt", told.append):
        logging.getLogger("somewhere").warning("Left truncation:\n  %d tokens", 40)
        silent.error("It went on.")
        logging.getLogger("somewhere").warning(harness.HINTS[0])
        logging.getLogger("somewhere").info("nothing")
        warnings.warn("this changes", UserWarning, stacklevel=1)
    assert told[:2] == ["warning: Left truncation: 40 tokens", "error: It went on."]
    assert "UserWarning: this changes" in told[2]
    assert len(told) == 3
    log = (tmp_path / "log.txt").read_text()
    assert "WARNING somewhere: Left truncation:\n  40 tokens\n" in log
    assert "ERROR transformers.silent: It went on.\n" in log
    assert f"WARNING somewhere: {harness.HINTS[0]}\n" in log


def test_a_library_with_handlers_of_its_own_is_logged_once_and_gets_them_back(tmp_path, told):
    logger = logging.getLogger("aloof")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    logger.propagate = False
    with logs.recorded(tmp_path / "log.txt", told.append):
        logger.warning("here")
    assert (tmp_path / "log.txt").read_text() == "WARNING aloof: here\n"
    assert logger.handlers == [handler]


def test_of_a_progress_bar_the_last_state_is_kept(tmp_path, told):
    with logs.recorded(tmp_path / "log.txt", told.append):
        for _ in tqdm(range(50), desc="counting", mininterval=0):
            pass
    [line] = (tmp_path / "log.txt").read_text().splitlines()
    assert line.startswith("counting: 100%")


class TestCellLog:
    def test_a_failure_leaves_its_traceback_in_the_cell_s_folder(self, tmp_path, told):
        with pytest.raises(RuntimeError), logs.cell_log(tmp_path / "cell", told.append, "loaded\n"):
            raise RuntimeError("out of memory")
        assert [path.name for path in tmp_path.iterdir()] == ["cell"]
        log = (tmp_path / "cell" / "log.txt").read_text()
        assert log.startswith("loaded\nTraceback")
        assert log.endswith("RuntimeError: out of memory\n")

    def test_a_success_goes_where_the_results_go(self, tmp_path, told):
        results = tmp_path / "cell"
        with logs.cell_log(results, told.append) as log:
            print("a note", file=sys.stderr)
            logs.keep(log, results)
        assert (results / "log.txt").read_text() == "a note\n"
        assert [path.name for path in tmp_path.iterdir()] == ["cell"]

    def test_a_killed_cell_leaves_no_log_under_its_final_name(self, tmp_path, told):
        with logs.cell_log(tmp_path / "cell", told.append) as log:
            assert log.exists()
            assert not (tmp_path / "cell").exists()


def test_hints_are_those_that_the_harness_gives():
    """Were they worded otherwise, they would be told above every bar again."""
    source = Path(lm_eval.__file__).parent
    texts = [(source / name).read_text() for name in ("api/task.py", "evaluator.py")]
    for hint in harness.HINTS:
        assert any(hint in " ".join(text.split()) for text in texts), hint
