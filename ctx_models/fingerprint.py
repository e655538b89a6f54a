"""What identifies a run, so that an answer cache is never read by another one.

lm-eval's `--use_cache` keys an answer by the request alone: two alphas or two checkpoints on one
path would silently share answers. A fingerprint row in the cache says who wrote it.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ctx_tasks.errors import UserError

_ROW = "lm_eval_ctx_fingerprint"
_WEIGHTS = (
    *("*.safetensors", "*.bin", "*.gguf"),
    *("config.json", "adapter_config.json", "tokenizer.json"),
)
# Tuning moves every tensor, so a sample of the bytes tells two checkpoints apart in milliseconds.
_BLOCKS, _BLOCK_BYTES = 16, 65_536


def short_hash(text: str) -> str:
    """The first 16 hex digits of the SHA-256 of `text`."""
    return sha256(text.encode()).hexdigest()[:16]


def checkpoint_fingerprint(
    pretrained: str, revision: str | None, peft: str | None, delta: str | None
) -> dict[str, Any]:
    """Name, revision and adapter of a checkpoint; for local folders a hash of their contents."""
    return {
        "pretrained": pretrained,
        "weights": folder_hash(pretrained),
        "revision": revision,
        "peft": peft,
        "peft_weights": folder_hash(peft) if peft else None,
        "delta": delta,
    }


def folder_hash(folder: str) -> str | None:
    """Hash of a model folder: sizes and a sample of the bytes of each file; None for a hub name."""
    if not Path(folder).is_dir():
        return None
    digest = sha256()
    for path in sorted(path for pattern in _WEIGHTS for path in Path(folder).glob(pattern)):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for block in range(_BLOCKS):
                file.seek(block * max(size - _BLOCK_BYTES, 0) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]


def files_hash(folder: str) -> str:
    """Hash of a folder of task files: the names and contents of what YAML and Python lies in it."""
    digest = sha256()
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix in (".yaml", ".yml", ".py") and path.is_file():
            digest.update(f"{path.relative_to(folder)}\0".encode("utf-8", "surrogateescape"))
            digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def check_cache(cache: MutableMapping[str, Any], fingerprint: dict[str, Any]) -> None:
    """Sign an empty cache with `fingerprint`; refuse one that another run wrote.

    Raises:
        UserError: the cache is signed with other values, or holds unsigned answers.
    """
    signed = cache.get(_ROW)
    if signed is None and len(cache):
        raise UserError(
            f"--use_cache holds {len(cache)} answers of a run that left no fingerprint (another "
            "model type, such as hf); give another path or delete that file."
        )
    if signed is None:
        cache[_ROW] = json.dumps(fingerprint)
        return
    before = json.loads(signed)
    changed = [key for key in fingerprint if before.get(key) != fingerprint[key]]
    if changed:
        key = changed[0]
        others = f" (and {', '.join(changed[1:])})" if changed[1:] else ""
        raise UserError(
            f"--use_cache was written with {key}={before.get(key)!r} but this run has "
            f"{key}={fingerprint[key]!r}{others}; give each run its own cache path."
        )
