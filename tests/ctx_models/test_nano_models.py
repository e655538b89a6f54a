"""Bundled models by name: the same in Python, in `ctx-eval run`, and for the needle test."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctx_models import model_names, nano
from ctx_models.commands import run
from ctx_models.commands.preflight import Given
from ctx_models.lm import CtxLM
from ctx_tasks import harness
from ctx_tasks.errors import UserError


def model_args(*arguments: str) -> dict[str, object] | None:
    """The model arguments that the harness gets from `ctx-eval run`."""
    parsed = harness.run_parser().parse_args(arguments)
    given = Given.of(parsed, run.config_file(parsed))
    found: dict[str, object] | None = run.bundled_model(parsed, given)
    return found


def test_a_bundled_name_is_its_folder_and_any_other_path_itself() -> None:
    assert model_names.resolve("nano-base") == str(nano.folder("nano-base"))
    assert model_names.resolve("someone/else") == "someone/else"
    assert model_names.resolve(None) == str(nano.folder("nano-chat"))
    assert model_names.resolve("someone/nano-chat") == "someone/nano-chat"
    with pytest.raises(UserError, match=r"'nano-chta' is neither .*\(did you mean nano-chat\?\)"):
        model_names.resolve("nano-chta")


def test_a_folder_of_that_name_here_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano-base").mkdir()
    assert model_names.resolve("nano-base") == "nano-base"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="nano-base, nano-chat, nano-chat-ind"):
        nano.folder("../nano-base")


def test_run_without_a_model_takes_nano_chat_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert model_args("--model", "hf-ctx") == {"pretrained": str(nano.folder("nano-chat"))}
    assert capsys.readouterr().err == (
        "ctx-eval: no `pretrained` given; using the bundled nano-chat.\n"
    )


def test_run_keeps_other_arguments_and_other_models(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--model_args", "pretrained=nano-chat-ind,alpha=0.5")
    expected = {"pretrained": str(nano.folder("nano-chat-ind")), "alpha": 0.5}
    assert model_args("--model", "hf-ctx", *given) == expected
    assert model_args("--model", "hf", "--model_args", "pretrained=nano-chat") == {
        "pretrained": "nano-chat"
    }
    assert model_args("--tasks", "nano_by_heart") is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("written", ["{alpha: 0.5}", "alpha=0.5"])
def test_run_takes_nano_chat_where_a_config_file_names_no_model(
    tmp_path: Path, written: str
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f'model: hf-ctx\nmodel_args: "{written}"\n'.replace('"{', "{").replace('}"', "}")
    )
    found = model_args("--config", str(config))
    assert found == {"alpha": 0.5, "pretrained": str(nano.folder("nano-chat"))}


def test_the_harness_model_without_a_model_warns_and_loads_the_default(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nano, "DEFAULT", "nano-base")
    model = CtxLM(device="cpu")
    assert model.max_length == 1280
    assert "this is the bundled nano-base" in caplog.text
