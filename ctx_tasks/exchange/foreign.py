"""Results files of other tools beside the harness's: told apart by what they hold, read as its own.

The one place that knows which tools are read. Nothing in their files is executed or trusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctx_tasks.exchange import lighteval, logs
from ctx_tasks.result_files import files_below, load, results_files, samples_file


def found_below(folder: Path) -> list[Path]:
    """All results files in a folder, those of other tools too."""
    return results_files(folder) + [file for file in files_below(folder) if logs.is_name(file.name)]


def opened(path: Path) -> Any:
    """What a results file holds, as the harness would have recorded it.

    Raises:
        UserError: it is not JSON, or a file of another tool that lacks what is needed.
    """
    content = load(path)
    if logs.is_log(content):
        return logs.as_results(path, content)
    if lighteval.is_results(content):
        return lighteval.as_results(path, content)
    return content


def is_foreign(path: Path) -> bool:
    """Whether a results file is another tool's."""
    content = load(path)
    return logs.is_log(content) or lighteval.is_results(content)


def samples_of(path: Path, content: Mapping[str, Any], task: str) -> Path | None:
    """Where the documents of a task lie; None where they were not logged.

    Args:
        content: what `opened` gave.
    """
    if content["config"].get("model") == lighteval.TOOL:
        return lighteval.details_file(path, task)
    places = (samples_file(path, task), logs.samples_file(path))
    return next((file for file in places if file.is_file()), None)


def texts(path: Path, task: str) -> Iterator[bytes]:
    """The documents of a task as lines of a sample file of the harness."""
    if logs.is_samples(path):
        yield from logs.texts(path, task)
    elif lighteval.is_details(path):
        yield from lighteval.texts(path)
    else:
        with path.open("rb") as file:
            yield from file


def told(runs: Sequence[tuple[Path, Mapping[str, Any]]]) -> str:
    """What files, given with their `config`, do not say of how a model was run; "" if nothing."""
    untold = list(dict.fromkeys(path for path, config in runs if logs.UNTOLD in config))
    if not untold:
        return ""
    more = f" and {len(untold) - 1} more files" if len(untold) > 1 else ""
    return (
        f"{untold[0]}{more} did not record whether a chat template was applied: shown as chat, "
        "with no tax and no gain."
    )
