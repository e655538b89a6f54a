"""One of 120 documents that cannot be segmented: `accelerate launch -m` this with the checkpoint.

Prints, in process 0, the share of all documents that is missing.
"""

from __future__ import annotations

import sys

from tests.ctx_models.test_unsegmented import evaluate

if __name__ == "__main__":
    found = evaluate(sys.argv[1], "generate_until", (7,))
    if found:
        print(f"missing {found['results']['many_generate_until']['unsegmented,none']}", flush=True)
