"""Documents whose prompt cannot be segmented: counted, listed and scored as missing.

A text that the chat template rewrites beyond recognition is one document's misfortune, not the end
of a run of thousands. Its prompt is an `Unsegmented`, which is never run: the answer is empty and
says so (`ctx_tasks.answers`). More than 1 % of such documents are no misfortune: they end the run,
before anything is generated.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ctx_tasks.answers import Note
from ctx_tasks.errors import UserError

logger = logging.getLogger(__name__)

# The largest share of documents that may be missing.
MOST = 0.01

MISSING = Note(unsegmented=True)


class Unsegmented(str):
    """Why a prompt could not be segmented, in the place of its text, so that samples show it."""


def unsegmented(requests: Sequence[Any]) -> set[int]:
    """The places of the requests whose prompt could not be segmented.

    Args:
        requests: the harness's, which know their task and document.

    Raises:
        UserError: more than 1 % of the documents; names the first.
    """
    places = {place for place, one in enumerate(requests) if isinstance(one.args[0], Unsegmented)}
    if not places:
        return places
    first = requests[min(places)]
    reason = str(first.args[0])
    missing = dict.fromkeys(_document(requests[place]) for place in sorted(places))
    total = len({_document(one) for one in requests})
    if len(missing) == total:
        raise UserError(reason)
    if len(missing) > MOST * total:
        raise UserError(
            f"{len(missing)} of {total} documents cannot be segmented, more than {MOST:.0%}; the "
            f"first, {_document(first)}: {reason}"
        )
    logger.warning(
        "%d of %d documents cannot be segmented and are scored as missing: %s. The first: %s",
        *(len(missing), total, ", ".join(missing), reason),
    )
    return places


def _document(request: Any) -> str:
    return f"document {request.doc_id} of {request.task_name}"
