"""What says which documents samples are of: hashes, clusters, a digest of the prompts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence

from ctx_tasks.sample_lines import Doc


class Distinct:
    """Tells hashes of equal documents apart: the second has "#2" appended, and so on."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def key(self, doc_hash: str) -> str:
        """The hash of the next line."""
        self._seen[doc_hash] += 1
        occurrence = self._seen[doc_hash]
        return doc_hash if occurrence == 1 else f"{doc_hash}#{occurrence}"


def distinct(hashes: Iterable[str]) -> list[str]:
    """The hashes of a whole file, told apart."""
    seen = Distinct()
    return [seen.key(doc_hash) for doc_hash in hashes]


def of_part(task: str, key: str) -> str:
    """A hash or cluster of a task in a group, in which two tasks may have the same."""
    return hashlib.sha256(f"{task} {key}".encode()).hexdigest()


def clusters(docs: Sequence[Doc], hashes: Sequence[str]) -> list[str]:
    """Passage; else the needle where a needle test has several; else the document itself."""
    several = len({doc.needle_id for doc in docs}) > 1
    found = []
    for doc, doc_hash in zip(docs, hashes, strict=True):
        needle = doc.needle_id if several else None
        shared = needle if doc.passage_id is None else doc.passage_id
        found.append(doc_hash if shared is None else str(shared))
    return found


def digest(hashes: Sequence[str], prompts: Sequence[str | None]) -> str | None:
    """Of all documents and their prompts, in any order; None where a prompt is not known."""
    if None in prompts:
        return None
    pairs = sorted(zip(hashes, prompts, strict=True))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]
