"""vLLM on a small machine: one process, little memory, short logs. Set before it is imported."""

from __future__ import annotations

import os

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
# Threads bound to all cores wait for each other where a core is busy with something else.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
