"""Data sets of the hub: the commit that was served is recorded with every result."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import loopback_hub
from tests.ctx_tasks import mt_bench_data, reading_data

# What each loader notes of its data, and one text of it.
PROGRAMS = {
    "rajpurkar/squad": """
from ctx_tasks.reading import squad
text = squad(data_used=used)["validation"][0]["question"]
""",
    "HuggingFaceH4/mt_bench_prompts": """
from ctx_tasks.mt_bench.data import questions
text = questions(data_used=used)["test"][0]["turns"][0]
""",
    "baber/paul_graham_essays": """
from ctx_tasks.needle.inputs import load_haystack
found = load_haystack("essays")
text, used["source"] = found.texts[0], found.source
""",
}
DATA = {
    "rajpurkar/squad": ("validation", reading_data.ROWS["squad"]),
    "HuggingFaceH4/mt_bench_prompts": ("train", mt_bench_data.hub_rows()),
    "baber/paul_graham_essays": ("train", [{"text": "An essay."}]),
}
FIRST = {
    "rajpurkar/squad": reading_data.ROWS["squad"][0]["question"],
    "HuggingFaceH4/mt_bench_prompts": mt_bench_data.hub_rows()[0]["prompt"][0],
    "baber/paul_graham_essays": "An essay.",
}


QUICK, *OTHERS = PROGRAMS


@pytest.mark.parametrize(
    "name", [QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_the_commit_that_the_hub_served_is_recorded(tmp_path, name):
    split, rows = DATA[name]
    local = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), local)
    data_files = f"[{{split: {split}, path: plain_text/v-*}}]"
    card = f"---\nconfigs:\n- {{config_name: plain_text, data_files: {data_files}}}\n---\n"
    files = {"README.md": card.encode(), "plain_text/v-00000.parquet": local.read_bytes()}
    program = f"import json\nused = {{}}\n{PROGRAMS[name]}\nprint(json.dumps([used, text]))"
    # Its address is read when huggingface_hub is imported: a process of its own.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    shown = "essays" if "essays" in name else name
    with loopback_hub.serve(name, files) as url:
        for _ in ("fetched", "from the cache"):
            done = subprocess.run(
                [sys.executable, "-c", program],
                env={**kept, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home")},
                capture_output=True,
                text=True,
            )
            used, text = json.loads(done.stdout or done.stderr)
            assert used["source"] == f"{shown}@{loopback_hub.COMMIT}"
            assert text == FIRST[name]
