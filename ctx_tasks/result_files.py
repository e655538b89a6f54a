"""Where the harness's files lie, and which of them belong together.

`--output_path FOLDER` gives `results_DATE.json`, `--output_path my.json` gives `my_DATE.json`; the
answers lie beside either as `samples_TASK_DATE.jsonl`, and where a sweep measured it, where the
answers looked as `attention_TASK_DATE.jsonl`. What the judge writes has a hash behind the
date.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctx_tasks.errors import UserError

_OURS = "results_"
_DATED = re.compile(r".+_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d[^_/]*\.json")


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder, those behind linked folders too, each folder once, sorted.

    A folder with a dot in front holds what is still being written, and is left out.
    """
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def results_files(folder: Path) -> list[Path]:
    """The results files below a folder."""
    return sorted(file for file in files_below(folder) if _is_results(file.name))


def load(path: Path, step: str = "remove it or make it again") -> Any:
    """What a file that must be JSON holds.

    Raises:
        UserError: it is not, or cannot be read; says where, and the next step.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not JSON (line {error.lineno}, column {error.colno}: {error.msg}); {step}."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


def date_of(results: Path) -> str:
    """The end of a results file's name, which its sample files share."""
    name = results.stem
    return name.removeprefix(_OURS) if name.startswith(_OURS) else name.rpartition("_")[2]


def samples_file(results: Path, task: str) -> Path:
    """Where the samples of a task lie if they were logged."""
    return results.parent / f"samples_{task}_{date_of(results)}.jsonl"


def attention_file(samples: Path, task: str) -> Path:
    """Where a sweep writes where the answers in a sample file looked."""
    date = samples.stem.removeprefix(f"samples_{task}_")
    return samples.with_name(f"attention_{task}_{date}.jsonl")


def results_of(samples: Path, task: str) -> Path:
    """The results file that a sample file lies beside; `results_DATE.json` where there is none."""
    end = samples.stem.removeprefix(f"samples_{task}_")
    beside = sorted(samples.parent.glob("*.json"))
    usual = samples.with_name(f"{_OURS}{end}.json")
    return next((file for file in beside if _is_results(file.name) and date_of(file) == end), usual)


def _is_results(name: str) -> bool:
    return (name.startswith(_OURS) and name.endswith(".json")) or bool(_DATED.fullmatch(name))
