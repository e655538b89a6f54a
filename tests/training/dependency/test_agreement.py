"""Figure 5: which turns layers select, how much they differ, and the files that say so."""

from __future__ import annotations

import csv
import json
import random

import numpy as np
import pytest
from matplotlib import image

from ctx_tasks.errors import UserError
from ctx_tasks.row_writer import write_rows
from ctx_tasks.rows import read_rows
from tests import tiny
from tests.training.dependency.conversations import conversation, turn
from training import files
from training.dependency.agreement import agreement, disagreement, top_turns
from training.dependency.equation import score_conversation


def test_the_top_turns_are_the_highest_scores():
    assert top_turns([0.1, 0.9, 0.3, 0.8, 0.2], 0.4) == {1, 3}


def test_of_equal_scores_the_first_are_taken():
    assert top_turns([0.5, 0.7, 0.5, 0.5], 0.5) == {1, 0}


def test_at_least_one_turn_is_selected():
    assert top_turns([0.2, 0.4], 0.1) == {1}


def test_disagreement_is_the_part_of_a_selection_the_other_layer_does_not_make():
    scores = [
        [9, 8, 7, 6, 0, 0, 0, 0],
        [9, 8, 7, 0, 6, 0, 0, 0],  # one of four differs
        [0, 0, 0, 0, 9, 8, 7, 6],  # nothing in common with the first
    ]
    expected = [[0, 0.25, 1], [0.25, 0, 0.75], [1, 0.75, 0]]
    np.testing.assert_allclose(disagreement(scores, 0.5), expected)


def test_with_the_top_90_percent_no_two_layers_differ_by_more_than_a_ninth():
    """What the released code keeps, and why its figure ends at 0.09."""
    up = list(range(100))
    np.testing.assert_allclose(disagreement([up, up[::-1]], 0.9)[0, 1], 1 / 9)


@pytest.fixture
def setting(tmp_path) -> dict:
    tiny.model(max_position_embeddings=256).save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"messages": conversation(n, 1 + n % 4)} for n in range(30)]
    write_rows(tmp_path / "chats.jsonl", rows)
    return {
        "source": str(tmp_path / "chats.jsonl"),
        "output": tmp_path / "agreement.csv",
        "model": str(tmp_path / "model"),
        "batch_tokens": 512,
    }


def table(path) -> np.ndarray:
    header, *rows = csv.reader(path.open())
    assert header == ["layer", "0", "1", "2"]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    return np.array([[float(value) for value in row[1:]] for row in rows])


def test_the_matrix_is_that_of_the_scores_of_every_layer(setting):
    account = agreement(**setting, share=0.2)
    model, tokenizer = tiny.model(max_position_embeddings=256), tiny.tokenizer()
    conversations = [row["messages"] for row in read_rows(setting["source"])]
    scores = [
        [
            round(score, 6)
            for messages in conversations
            for score in score_conversation(model, tokenizer, messages, layer=layer)
            if score is not None
        ]
        for layer in range(3)
    ]
    matrix = disagreement(scores, 0.2)
    np.testing.assert_allclose(table(setting["output"]), matrix, atol=1e-6)
    assert matrix.max() > 0
    assert (account.conversations, account.turns, account.layers) == (30, len(scores[0]), 3)
    assert account.selected == round(0.2 * len(scores[0]))
    assert account.highest == pytest.approx(matrix.max(), abs=1e-6)
    assert account.mean == pytest.approx(matrix[np.triu_indices(3, 1)].mean(), abs=1e-6)


def test_a_heatmap_is_drawn_beside_the_matrix(setting):
    agreement(**setting)
    pixels = image.imread(setting["output"].with_suffix(".png"))
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


def test_the_sample_follows_the_seed(setting, tmp_path):
    def sampled(name, seed):
        output = tmp_path / name
        account = agreement(**{**setting, "output": output, "seed": seed, "conversations": 7})
        assert account.conversations == 7
        return output.read_bytes(), output.with_suffix(".png").read_bytes(), account.turns

    first = sampled("a.csv", 0)
    assert sampled("b.csv", 0) == first
    assert any(sampled(f"c{seed}.csv", seed)[::2] != first[::2] for seed in (1, 2, 3))


def test_only_the_sampled_conversations_are_run(setting, monkeypatch):
    from training.dependency import run as scoring_run

    ran = []
    encode = scoring_run.encode
    monkeypatch.setattr(scoring_run, "encode", lambda *a: ran.append(a) or encode(*a))
    agreement(**setting, conversations=4)
    assert len(ran) == 4


def test_provenance_is_recorded(setting):
    agreement(**setting, share=0.2, seed=5)
    meta = json.loads(files.meta_path(setting["output"]).read_text())
    assert meta["settings"]["share"] == 0.2
    assert meta["settings"]["seed"] == 5
    assert meta["settings"]["layers"] == [0, 1, 2]
    assert meta["inputs"][0]["path"] == setting["source"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": 0}, "share is 0"),
        ({"share": 1.5}, "share is 1.5"),
        ({"conversations": 0}, "draw at least one"),
        ({"output": "matrix.png"}, "must end in .csv"),
    ],
)
def test_mistakes_are_told_in_one_sentence(setting, change, message):
    with pytest.raises(UserError, match=message):
        agreement(**{**setting, **change})


def test_data_without_a_scored_turn_is_refused(setting):
    write_rows(setting["source"], [{"messages": [turn("user", "Hello?")]}])
    with pytest.raises(UserError, match="None of the 1 conversations"):
        agreement(**setting)


def test_random_scores_differ_as_much_as_chance_says():
    draw = random.Random(0)
    scores = [[draw.random() for _ in range(5000)] for _ in range(2)]
    assert disagreement(scores, 0.1)[0, 1] == pytest.approx(0.9, abs=0.03)
