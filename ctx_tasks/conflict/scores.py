"""Which answer an output gives: the passage's, the one in memory, both or neither.

A question is a conflict for a model only if the model knows better, so it is asked twice: without
the passage, and with it. Only where the first answer is one of the answers in memory (and not the
passage's) does the second count. Answers are found as whole words (`metrics.contains_words`) in the
output's first sentence, under any of their names. The four rates are shares of the same questions
and sum to one: "context" is the passage's answer alone, "memory" the other alone.
"""

from __future__ import annotations

from typing import Any

from ctx_tasks import metrics


def closed_book_scores(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`memory_rate`, `context_rate`, `both`, `neither`, `score` (= memory_rate), `empty`,
    `dangling` of an answer without the passage.
    """
    answer = metrics.first_sentence(results[0])
    stated = metrics.contains_words(answer, doc["context_answers"])
    known = bool(_remembered(doc["memory_answers"], answer))
    rates = _rates(stated, known)
    empty = metrics.unanswered(answer, answered=stated or known)
    return {**rates, "score": rates["memory_rate"], **empty}


def conflict_scores(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The scores of an answer with the passage.

    Always `known` (the question is a conflict for this model), `empty` and `dangling`; for a
    conflict also `context_rate`, `memory_rate`, `both`, `neither` and `score` (= context_rate).

    Args:
        results: the answers with and without the passage.
    """
    answer, without = map(metrics.first_sentence, results)
    remembered = _remembered(doc["memory_answers"], without)
    known = bool(remembered) and not metrics.contains_words(without, doc["context_answers"])
    stated = metrics.contains_words(answer, doc["context_answers"])
    from_memory = bool(_remembered(remembered if known else doc["memory_answers"], answer))
    empty = metrics.unanswered(answer, answered=stated or from_memory)
    scores = {"known": float(known), **empty}
    if not known:
        return scores
    # Partial keys come last, so that every process of a distributed run lists them in one order.
    rates = _rates(stated, from_memory)
    return {**scores, **rates, "score": rates["context_rate"]}


def _remembered(answers: list[list[str]], text: str) -> list[list[str]]:
    return [names for names in answers if metrics.contains_words(text, names)]


def _rates(context: bool, memory: bool) -> dict[str, float]:
    return {
        "context_rate": float(context and not memory),
        "memory_rate": float(memory and not context),
        "both": float(context and memory),
        "neither": float(not context and not memory),
    }
