"""The models of ours that are loaded in this process, for tasks that were told of none.

lm-eval hands a task the model's arguments. Where the model is an object
(`simple_evaluate(model=lm)`) there are none, and where it is a bundled model's name only the model
knows the folder: the needle test, which measures lengths with the model's tokenizer, asks here.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from ctx_tasks.errors import UserError


@dataclass(frozen=True)
class Loaded:
    """Where a loaded model came from.

    Attributes:
        name: what the user called it.
        pretrained, tokenizer: as transformers finds them, or the objects themselves.
        source: `revision`, `trust_remote_code`, `subfolder`, `gguf_file`.
    """

    name: Any
    pretrained: Any
    tokenizer: Any = None
    source: dict[str, Any] = field(default_factory=dict)


_MODELS: WeakKeyDictionary[Any, Loaded] = WeakKeyDictionary()


def announce(model: Any, loaded: Loaded) -> None:
    """Note where `model` came from, for as long as it lives."""
    _MODELS[model] = loaded


def behind(name: Any) -> Loaded | None:
    """The loaded model that the user calls `name`; with None the only one there is.

    Raises:
        UserError: several different ones are loaded, and nothing says which is meant.
    """
    found = _called(name)
    if len(found) > 1:
        gc.collect()  # a model that is only waiting to be freed is not meant
        found = _called(name)
    if len(found) > 1:
        names = ", ".join(str(one.name) for one in found)
        raise UserError(
            f"Several models are loaded ({names}) and nothing says whose tokenizer measures the "
            "needle test's documents: delete the others, or pass metadata={'pretrained': NAME}."
        )
    return found[0] if found else None


def _called(name: Any) -> list[Loaded]:
    found: list[Loaded] = []
    for one in list(_MODELS.values()):
        if (name is None or one.name == name) and one not in found:
            found.append(one)
    return found
