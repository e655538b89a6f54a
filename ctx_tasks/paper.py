"""Which version of the paper a run can be compared with: `--metadata '{"paper": "iclr2025"}'`.

arXiv 2411.02688 was measured twice: the ICLR 2025 submission (`iclr2025`, code of 2024-11) and the
NeurIPS 2025 paper (`neurips2025`, code since 2025-02). `SETTINGS` says what each version did, as
far as a task can do it; without `paper` a task does what the first version's text says. Where text
and released code differ, a version means its code, which made its tables. Of DROP's score we know
one rule of the released code, and of no change to it, so that both versions have that one; the
change of the score that the later version made is known for SQuAD and QuAC. A setting given beside
`paper` wins, with a warning; results hold both. Models, chat template and the longest needle
document are the user's to choose.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ctx_tasks.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """A key of `--metadata`, and its value by default and in each version.

    Attributes:
        decides: what it decides, for the reader.
        allowed: its values; empty where the task itself checks them.
    """

    decides: str
    default: Any
    iclr2025: Any
    neurips2025: Any
    allowed: tuple[Any, ...] = ()


_CONTAINING = ("contains", "contains_verbatim")

SETTINGS = {
    "answer_tokens": Setting("needle tasks: new tokens", 50, 50, 100),
    "prompts": Setting("needle tasks: wordings of the prompt", "paper", "paper", "four"),
    "squad_score": Setting(
        *("SQuAD: the metric that `score` repeats", "contains", "contains_verbatim", "contains"),
        _CONTAINING,
    ),
    "quac_score": Setting(
        *("QuAC: the same", "contains", "contains_verbatim", "contains"), _CONTAINING
    ),
    "drop_score": Setting(
        *("DROP: the same", "contains", "contains_released", "contains_released"),
        ("contains", "contains_released"),
    ),
    "quac_prompt": Setting(
        "QuAC: what stands before the question",
        *("context", "title_background", "title_background"),
        ("context", "title_background"),
    ),
    "mt_bench_indicator": Setting(
        *("MT-Bench: whether `[IND]` is in its prompts", False, False, True), (True, False)
    ),
}
VERSIONS = ("iclr2025", "neurips2025")


def setting(name: str, metadata: Mapping[str, Any]) -> Any:
    """The value of `name`: what `metadata` says, or its version of the paper, or the default.

    Raises:
        UserError: a version or value that there is not.
    """
    known = SETTINGS[name]
    version, given = metadata.get("paper"), metadata.get(name)
    if version is not None and version not in VERSIONS:
        raise UserError(
            f"paper is {' or '.join(VERSIONS)}, but got {version!r}; leave it out for the text of "
            f"the first version."
        )
    told = known.default if version is None else getattr(known, version)
    if given is None:
        return told
    if known.allowed and not any(
        type(given) is type(one) and given == one for one in known.allowed
    ):
        names = " or ".join(str(one).lower() for one in known.allowed)
        raise UserError(f"{name} is {names}, but got {given!r}; correct it or leave it out.")
    if version is not None and given != told:
        _say_which_wins(name, str(given), str(told), version)
    return given


def table() -> str:
    """`SETTINGS` as a Markdown table: what each version sets."""
    rows = [
        f"| `{name}` | {one.decides} | `{_shown(one.default)}` | `{_shown(one.iclr2025)}` "
        f"| `{_shown(one.neurips2025)}` |"
        for name, one in SETTINGS.items()
    ]
    head = "| setting | decides | default | `iclr2025` | `neurips2025` |"
    return "\n".join([head, "|---|---|---|---|---|", *rows]) + "\n"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@lru_cache  # once a process: loader and task both ask
def _say_which_wins(name: str, given: str, told: str, version: str) -> None:
    logger.warning(
        "%s is %s, where paper %s has %s: what is given wins, and this run can be compared with "
        "that version but for this setting.",
        *(name, given, version, told),
    )
