"""Documents whose prompt cannot be segmented: counted, listed and scored as missing.

A text that the chat template rewrites beyond recognition is one document's misfortune, not the end
of a run of thousands. Its prompt is an `Unsegmented`, which is never run: the answer is empty and
says so (`ctx_tasks.answers`). More than 1 % of such documents are no misfortune: they end the run,
before anything is generated.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from ctx_tasks.answers import Answer, LogLikelihood, Note
from ctx_tasks.errors import UserError

from .launched import everyone

logger = logging.getLogger(__name__)

# The largest share of documents that may be missing.
MOST = 0.01

MISSING = Note(unsegmented=True)
Made = TypeVar("Made")
Score = tuple[float, bool]


class Unsegmented(str):
    """Why a prompt could not be segmented, in the place of its text, so that samples show it."""


def texts(lm: Any, requests: list[Any], run: Callable[[list[Any]], list[str]]) -> list[str]:
    """Texts that a harness model generates, an empty one to prompts without segments."""
    keep = partial(lm.cache_hook.add_partial, "generate_until")
    return _where_segmented(lm, requests, run, Answer.of("", MISSING), keep)


def scores(lm: Any, requests: list[Any], run: Callable[[list[Any]], list[Score]]) -> list[Score]:
    """Log-likelihoods of a harness model, minus infinity for prompts without segments."""
    keep = partial(lm.cache_hook.add_partial, "loglikelihood")
    return _where_segmented(lm, requests, run, LogLikelihood.of((-math.inf, False), MISSING), keep)


def _where_segmented(
    lm: Any,
    requests: list[Any],
    run: Callable[[list[Any]], list[Made]],
    missing: Made,
    keep: Callable[[Any, Made], None],
) -> list[Made]:
    """`run` of the requests, with `missing` for those whose prompt could not be segmented.

    Another stands in for each of these: a sharded model has to be called equally often by all.

    Args:
        keep: what is missing, by its arguments: a killed run that goes on counts the rest alone.
    """
    places = _unsegmented(lm, requests)
    if not places:
        return run(requests)
    for place in places:
        keep(requests[place].args, missing)
    if len(places) == len(requests):
        raise UserError("A process has no document that can be segmented: start fewer processes.")
    other = next(one for place, one in enumerate(requests) if place not in places)
    found = run([other if place in places else one for place, one in enumerate(requests)])
    return [missing if place in places else one for place, one in enumerate(found)]


def _unsegmented(lm: Any, requests: Sequence[Any]) -> set[int]:
    """The places of the requests whose prompt could not be segmented.

    Raises:
        UserError: more than 1 % of the documents of all processes; names the first.
    """
    places = {place for place, one in enumerate(requests) if isinstance(one.args[0], Unsegmented)}
    here = {_document(requests[place]): str(requests[place].args[0]) for place in sorted(places)}
    missing = dict(everyone(lm, list(here.items())))
    if not missing:
        return places
    first, reason = next(iter(missing.items()))
    total = sum(everyone(lm, [len({_document(one) for one in requests})]))
    if len(missing) == total:
        raise UserError(reason)
    if len(missing) > MOST * total:
        raise UserError(
            f"{len(missing)} of {total} documents cannot be segmented, more than {MOST:.0%}; the "
            f"first, {first}: {reason}"
        )
    logger.warning(
        "%d of %d documents cannot be segmented and are scored as missing: %s. The first: %s",
        *(len(missing), total, ", ".join(missing), reason),
    )
    return places


def _document(request: Any) -> str:
    return f"document {request.doc_id} of {request.task_name}"
