"""`python -m tests.training.score_process FUNCTION ARGUMENTS`: one scoring run, for processes.

FUNCTION is score or agreement, ARGUMENTS its keyword arguments in JSON.
"""

from __future__ import annotations

import json
import sys

from ctx_tasks.errors import UserError
from training.agreement import agreement
from training.scoring import score

if __name__ == "__main__":
    run = {"score": score, "agreement": agreement}[sys.argv[1]]
    try:
        print(run(**json.loads(sys.argv[2])))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
