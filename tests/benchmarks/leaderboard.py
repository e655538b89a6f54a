"""`ctx-eval leaderboard` over 30 rows x 4 tasks x 10,000 samples of 2 KB each.

    python -m tests.benchmarks.leaderboard

Writes 2 GB of sample files into a temporary folder, then runs the command in its own process.
Exit status 1 if a target is missed: 20 seconds, 1.5 GB of memory.
"""

from __future__ import annotations

import hashlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.ctx_tasks.result_files import sample, write_run

TASKS = ("nih_recall", "squad_contains", "quac_contains", "drop_contains")
ROWS, DOCUMENTS, PADDING = 30, 10_000, 1400
SECONDS, GIGABYTES = 20, 1.5


def lines(task: str) -> list[tuple[str, str]]:
    """What stands before and after the score in each sample line of a task."""
    found = []
    for number in range(DOCUMENTS):
        row = sample(0.5, number, passage_id=f"{task} {number // 3}", context="x" * PADDING)
        row["doc_hash"] = hashlib.sha256(f"{task} {number}".encode()).hexdigest()
        before, after = json.dumps(row).split("0.5", 1)
        found.append((before, after + "\n"))
    return found


def write(folder: Path) -> None:
    """30 checkpoints, of which each scores a little more than the one before."""
    texts = {task: lines(task) for task in TASKS}
    for row in range(ROWS):
        rng = random.Random(row)
        place = folder / str(row)
        write_run(place, {task: [sample(1.0, 0)] for task in TASKS}, model=f"org/model-{row}")
        for file in place.glob("samples_*"):
            task = next(task for task in TASKS if task in file.name)
            with file.open("w") as out:
                for before, after in texts[task]:
                    out.write(f"{before}{float(rng.random() < 0.5 + row / 100)}{after}")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        size = sum(file.stat().st_size for file in Path(folder).rglob("*")) / 1e9
        start = time.perf_counter()
        command = [sys.executable, "-m", "ctx_models.cli", "leaderboard", folder, "--format", "csv"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - start
    assert len(done.stdout.splitlines()) == ROWS + 1
    gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    print(f"{ROWS} rows x {len(TASKS)} tasks x {DOCUMENTS} samples, {size:.1f} GB of files")
    for name, value, target in (("seconds", seconds, SECONDS), ("GB", gigabytes, GIGABYTES)):
        print(f"{value:.1f} {name}  target <= {target}  {'ok' if value <= target else 'MISSED'}")
    return 0 if seconds <= SECONDS and gigabytes <= GIGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
