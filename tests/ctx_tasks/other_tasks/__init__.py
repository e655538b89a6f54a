"""Tasks in the shapes of the harness's own: documents and scores, without a download."""

from __future__ import annotations

import math
from typing import Any

from datasets import Dataset


def documents(**_: Any) -> dict[str, Dataset]:
    """Twelve questions with four choices, two thirds of them of length 4096, the rest of 8192."""
    names = ["Nistar Cave", "Tiowi Store", "Old Mill", "North Pier"]
    rows = [
        {
            "question": f"Where is thing number {n}?",
            "choices": [names[(n + k) % 4] for k in range(4)],
            "answer": n % 4,
            "page": f"Thing number {n} is in {names[n % 4]}, as everybody knows.",
            "max_length": 8192 if n % 3 == 2 else 4096,
            "group": n % 2,
        }
        for n in range(12)
    ]
    return {"test": Dataset.from_list(rows)}


def even(dataset: Dataset) -> Dataset:
    """Half of the documents."""
    return dataset.filter(lambda doc: doc["group"] == 0)


def odd(dataset: Dataset) -> Dataset:
    """The other half."""
    return dataset.filter(lambda doc: doc["group"] == 1)


def short(dataset: Dataset) -> Dataset:
    """Documents of one length."""
    return dataset.filter(lambda doc: doc["max_length"] == 4096)


def lengths(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """As RULER does: the default length always, -1 where the document has another."""
    return {"4096": -1.0, str(doc["max_length"]): float("i" in results[0])}


def measured(scores: list[float]) -> float:
    """As RULER does: the mean of those measured, -1 without any."""
    kept = [score for score in scores if score != -1]
    return sum(kept) / len(kept) if kept else -1


def instructions(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """As IFEval does: a verdict a prompt, and a list of verdicts of its instructions."""
    verdicts = [len(results[0]) > 4, "e" in results[0]]
    return {"prompt_level_strict_acc": all(verdicts), "inst_level_strict_acc": verdicts}


def of_instructions(verdicts: list[list[bool]]) -> float:
    """The share of all instructions."""
    return sum(map(sum, verdicts)) / sum(map(len, verdicts))


def f1(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """As LongBench does: one graded score under two names."""
    score = len(set(results[0]) & set(doc["page"])) / len(set(doc["page"]))
    return {"score": score, "qa_f1_score": score}


def bleu(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """As TruthfulQA does: several scores, none of a name of ours, on a scale to 100."""
    best = 100.0 * math.tanh(len(results[0]) / 20)
    return {"bleu_max": best, "bleu_acc": float(best > 50), "bleu_diff": best - 50}


def rolling(doc: dict[str, Any], results: list[float]) -> dict[str, Any]:
    """As WikiText does: log-likelihood and weight, for a perplexity of the corpus."""
    words, size = len(doc["page"].split()), len(doc["page"].encode())
    [loglikelihood] = results
    return {
        "word_perplexity": (loglikelihood, words),
        "byte_perplexity": (loglikelihood, size),
        "bits_per_byte": (loglikelihood, size),
    }
