"""`vllm-ctx` in processes of its own: `python -m tests.ctx_models.engine.processes KIND FILE`.

Writes what it answers to the first questions as JSON. Kinds:
    plain      alpha 1 beside the harness's `vllm`, and what of ours the process has imported
    tensors    two tensor parallel workers
    replicas   two engines in Ray actors
    unplugged  an engine whose processes do not load our plugin
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ctx_models.kept import kept_in
from tests.ctx_models.engine import asking
from tests.ctx_models.engine.asking import ENGINE, IN_PROCESS, generations, put

COUNT = 8
ARMS: tuple[dict[str, Any], ...] = (
    {"alpha": 0.3},
    {"alpha": 0.1, "schedule": "compound", "steer_generated": False},
)


def main(kind: str, file: Path) -> None:
    """Run one kind."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    os.environ["VLLM_LOGGING_LEVEL"] = "WARNING"
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if kind == "plain" else "1"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "0|1" if kind == "tensors" else "nobind"
    if kind == "unplugged":
        os.environ["VLLM_PLUGINS"] = "another"
    found = plain() if kind == "plain" else steered(kind, file.parent / "answers")
    file.write_text(json.dumps(found))


def plain() -> dict[str, Any]:
    from lm_eval.models.vllm_causallms import VLLM

    from ctx_models import model_names
    from ctx_models.engine.lm import CtxVLLM

    texts = asking.questions()[::7]
    ours = generations(CtxVLLM("nano-chat", **IN_PROCESS), texts)
    theirs = generations(VLLM(model_names.resolve("nano-chat"), **IN_PROCESS), texts)
    return {
        "ours": ours,
        "theirs": theirs,
        "patched": "ctx_models.engine.worker_patch" in sys.modules,
    }


def steered(kind: str, folder: Path) -> list[list[str]]:
    """Its answers, kept in a folder: between batches the engines are told to forget."""
    from ctx_models.engine.lm import CtxVLLM

    arguments = {**ENGINE, "batch_size": 5}
    if kind == "tensors":
        arguments["tensor_parallel_size"] = 2
    if kind == "replicas":
        import ray

        # Stand-ins: each actor asks for a GPU.
        ray.init(num_cpus=2, num_gpus=2, include_dashboard=False)
        arguments["data_parallel_size"] = 2
    model = CtxVLLM("nano-chat", alpha=0.5, **arguments)
    texts = asking.questions()[:: 50 // COUNT]
    with kept_in(folder, {}):
        return [generations(put(model, **arm), texts) for arm in ARMS]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
