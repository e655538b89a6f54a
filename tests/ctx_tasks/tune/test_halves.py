"""Halves of documents: whole clusters, stable, balanced, nested."""

from __future__ import annotations

import random

import pytest

from ctx_tasks.errors import UserError
from ctx_tasks.tune.halves import halved, require_enough
from ctx_tasks.tune.halving import cost, rounds, within

CLUSTERS = [f"passage {i // 5}" for i in range(100)]


def sides(clusters: list[str]) -> tuple[set[str], set[str]]:
    half = halved({"task": clusters})["task"]
    choosing = {clusters[i] for cluster in half.choosing for i in cluster}
    return choosing, {clusters[i] for i in half.reporting}


def test_a_cluster_lies_on_one_side_as_a_whole_and_every_document_on_one():
    half = halved({"task": CLUSTERS})["task"]
    choosing, reporting = sides(CLUSTERS)
    assert len(choosing) == len(reporting) == 10
    assert not choosing & reporting
    assert sorted([*half.part(0, 1), *half.reporting]) == list(range(100))


def test_the_halves_do_not_change_with_the_order_of_the_documents_but_with_the_seed():
    shuffled = random.Random(1).sample(CLUSTERS, len(CLUSTERS))
    assert sides(CLUSTERS) == sides(shuffled)
    first, other = (halved({"task": CLUSTERS}, seed)["task"].reporting for seed in (0, 1))
    assert first != other


def test_a_passage_of_two_tasks_lies_on_one_side_in_both():
    both = halved({"squad": CLUSTERS, "quac": [*CLUSTERS[25:], *(["other"] * 5)]})
    chosen = {CLUSTERS[i] for i in both["squad"].part(0, 1)}
    quac = [*CLUSTERS[25:], *(["other"] * 5)]
    assert {quac[i] for i in both["quac"].part(0, 1)} - {"other"} <= chosen


def test_tasks_of_one_document_are_dealt_to_both_sides():
    """As the 57 subjects of MMLU under a small limit."""
    found = halved({f"task {i}": [f"document {i}"] for i in range(10)})
    assert sum(bool(one.reporting) for one in found.values()) == 5


def test_rounds_take_each_document_of_the_choosing_half_once():
    half = halved({"task": CLUSTERS[:70]})["task"]
    parts = [half.part(one.begin, one.end) for one in rounds(8)]
    assert [index for part in parts for index in part] == [
        *half.part(0, 0.25), *half.part(0.25, 0.5), *half.part(0.5, 1)
    ]  # fmt: skip
    assert sorted(index for part in parts for index in part) == list(half.part(0, 1))


def test_too_few_clusters_are_refused_in_a_sentence():
    few = halved({"nih": ["a"] * 50 + ["b"] * 50 + ["c"] * 50})["nih"]
    with pytest.raises(
        UserError, match="of nih lie in too few clusters .* in 3: .* at least 4; give it"
    ):
        require_enough("nih", [few])
    require_enough("nih", [halved({"nih": list("aabbccdd")})["nih"]])


def documents(begin: float, end: float) -> int:
    return int(100 * end) - int(100 * begin)


def test_halving_costs_half_of_trying_all_candidates_on_all_documents():
    found = rounds(16)
    assert [(one.candidates, one.end) for one in found] == [(16, 0.25), (8, 0.5), (4, 1.0)]
    assert cost(found, documents) == 16 * 25 + 8 * 25 + 4 * 50 + 100


def test_a_budget_halves_as_seldom_as_it_can_and_refuses_what_it_cannot_pay():
    assert within(None, [16], documents) == [rounds(16)]
    assert within(1700, [16], documents) == [rounds(16, 0)]
    assert within(1000, [16], documents) == [rounds(16, 2)]
    assert within(2000, [16, 16], documents) == [rounds(16, 2), rounds(16, 2)]
    with pytest.raises(UserError, match="--budget 99 is too small: 16 candidates take at least"):
        within(99, [16], documents)
