"""Where the harness's files lie, and which of them belong together.

`--output_path FOLDER` gives `results_DATE.json`, `--output_path my.json` gives `my_DATE.json`; the
answers lie beside either as `samples_TASK_DATE.jsonl`. What the judge writes has a hash behind the
date.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

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


def date_of(results: Path) -> str:
    """The end of a results file's name, which its sample files share."""
    name = results.stem
    return name.removeprefix(_OURS) if name.startswith(_OURS) else name.rpartition("_")[2]


def samples_file(results: Path, task: str) -> Path:
    """Where the samples of a task lie if they were logged."""
    return results.parent / f"samples_{task}_{date_of(results)}.jsonl"


def results_of(samples: Path, task: str) -> Path:
    """The results file that a sample file lies beside; `results_DATE.json` where there is none."""
    end = samples.stem.removeprefix(f"samples_{task}_")
    beside = sorted(samples.parent.glob("*.json"))
    usual = samples.with_name(f"{_OURS}{end}.json")
    return next((file for file in beside if _is_results(file.name) and date_of(file) == end), usual)


def _is_results(name: str) -> bool:
    return (name.startswith(_OURS) and name.endswith(".json")) or bool(_DATED.fullmatch(name))
