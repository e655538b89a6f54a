"""Test-wide settings: offline, and no cache outside the temporary folder."""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# lm_eval writes --cache_requests into its own package folder otherwise.
os.environ.setdefault("LM_HARNESS_CACHE_PATH", tempfile.mkdtemp(prefix="lm-eval-requests-"))
