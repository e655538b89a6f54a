"""Answers of `vllm-ctx` are kept as they come."""

from __future__ import annotations

from pathlib import Path

import pytest
from lm_eval.api.instance import Instance

from ctx_models.kept import kept_in
from tests.commands import as_process
from tests.ctx_models.engine import asking
from tests.ctx_models.engine.asking import IN_PROCESS, generations, log_likelihoods, put
from tests.ctx_models.killed_runs import kill, lines, written

pytestmark = pytest.mark.vllm


def command(output: Path, *flags: str) -> list[object]:
    engine = {**IN_PROCESS, "pretrained": "nano-chat", "alpha": 0.5}
    del engine["batch_size"]
    return [
        *("run", "--model", "vllm-ctx"),
        *("--model_args", ",".join(f"{name}={value}" for name, value in engine.items())),
        *("--tasks", "nano_nih_recall,nano_by_heart", "--apply_chat_template"),
        *("--metadata", '{"lengths": 4, "depths": 4, "max_length": 400, "questions": 12}'),
        *("--batch_size", "4", "--log_samples", "--output_path", output, *flags),
    ]


def test_killed_it_goes_on_and_ends_to_the_byte_as_if_nothing_had_been(tmp_path):
    done = as_process("ctx_models.cli", *command(tmp_path / "whole"))
    assert done.code == 0, done.err
    assert "Answers are kept in" in done.err
    kill(command(tmp_path / "killed"), tmp_path / "killed", 3)
    kept = lines(tmp_path / "killed")
    done = as_process("ctx_models.cli", *command(tmp_path / "killed"))
    assert done.code == 0, done.err
    assert f"{4 * (kept - 1)} answers of an unfinished run" in done.err
    assert written(tmp_path / "killed") == written(tmp_path / "whole")
    assert not (tmp_path / "killed" / ".answers").exists()


class TestInOneEngine:
    @pytest.fixture(scope="class")
    def engine(self):
        from ctx_models.engine.lm import CtxVLLM

        return CtxVLLM("nano-chat", steerable=True, **IN_PROCESS)

    @pytest.fixture
    def runs(self, engine, monkeypatch) -> list[int]:
        """Filled with how many rows the engine is given at a time."""
        found: list[int] = []
        plain = engine._engines.generate

        def counted(rows, *arguments):
            found.append(len(rows))
            return plain(rows, *arguments)

        monkeypatch.setattr(engine._engines, "generate", counted)
        return found

    def test_auto_keeps_as_many_as_the_engine_holds_and_arms_share_nothing(
        self, engine, runs, tmp_path
    ):
        texts, held = asking.questions(), IN_PROCESS["max_num_seqs"]
        answers = ["The", "No"] * 25
        said = []
        for _ in range(2):
            for alpha in (0.5, 0.1):
                put(engine, alpha=alpha)
                with kept_in(tmp_path, {}, written=lambda: False):
                    said.append(generations(engine, texts))
                    said.append(log_likelihoods(engine, texts, answers))
        assert runs == 4 * [held, held, held, len(texts) - 3 * held]
        assert said[:4] == said[4:]
        assert said[0] != said[2]
        assert said[1] != said[3]
        put(engine, alpha=0.5)
        assert generations(engine, texts) == said[0]
        assert runs[-1] == len(texts)

    def test_a_batch_that_runs_again_finds_what_it_found(self, engine, tmp_path):
        """An empty prefix cache, whatever ran before."""
        put(engine, alpha=0.3)
        texts = asking.questions()[:20]
        found = []
        for folder in ("one", "other"):
            with kept_in(tmp_path / folder, {}):
                found.append(log_likelihoods(engine, texts, ["The"] * 20))
        assert found[0] == found[1]

    def test_sampled_answers_are_not_kept_and_those_beside_them_are(self, engine, runs, tmp_path):
        put(engine, alpha=0.5)
        texts = asking.questions()
        drawn = {**asking.SETTINGS, "do_sample": True, "temperature": 0.7}
        asked = [
            Instance("generate_until", {}, (prompt, settings), place)
            for settings, some in ((asking.SETTINGS, texts[:7]), (drawn, texts[7:12]))
            for place, prompt in enumerate(asking.prompts(engine, some))
        ]
        for _ in range(2):
            with kept_in(tmp_path, {}, written=lambda: False):
                said = engine.generate_until(asked, disable_tqdm=True)
        assert runs == [7, 5, 5]
        assert said[:7] == generations(engine, texts[:7])
