"""`ctx-eval attention`: shares, the closed form of steering, the ranking of heads, the files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from ctx_models import nano
from ctx_models.allocation import heads_json, lines, measure, needle_ranking
from ctx_models.lm import CtxLM
from ctx_models.spans import Segment
from ctx_models.steering import read_heads
from ctx_tasks.errors import UserError
from tests import tiny

GRID = {"max_length": 300, "lengths": 2, "depths": 2}
SETTINGS = {"pretrained": str(nano.folder("nano-chat")), **GRID}


def model(**arguments) -> CtxLM:
    return CtxLM("nano-chat", device="cpu", **arguments)


@pytest.fixture(scope="module")
def plain():
    return measure(model(), "plain", SETTINGS)


def test_shares_are_the_models_own_attention(plain):
    """Against `output_attentions` of the eager model in float64, last row, summed by segment."""
    lm = model()
    lm.model.double().set_attn_implementation("eager")
    from ctx_models.allocation import _prompt, _rows

    rows, _ = _rows(SETTINGS)
    for condition in ("raw", "chat"):
        tokens = lm._tokens(_prompt(lm, rows[-1], chat=condition == "chat"))
        assert lm.tokenizer.decode(tokens.input_ids).endswith(rows[-1]["response_prefix"])
        with torch.no_grad():
            found = lm.model(torch.tensor([tokens.input_ids]), output_attentions=True).attentions
        last = torch.stack(found)[:, 0, :, -1]
        segments = torch.tensor(tokens.segments)
        for segment in Segment:
            expected = last[..., segments == segment].sum(-1).numpy()
            np.testing.assert_allclose(
                plain.shares[condition][-1, ..., segment], expected, atol=1e-5
            )


def test_rows_sum_to_one_and_raw_has_no_template(plain):
    for found in plain.shares.values():
        np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    assert plain.shares["raw"][..., Segment.TEMPLATE].max() == 0
    assert plain.shares["chat"][..., Segment.TEMPLATE].max() > 0


def test_steering_follows_the_closed_form_in_the_first_layer(plain):
    steered = measure(model(alpha=0.5), "steered", SETTINGS)
    user = plain.shares["chat"][:, 0, :, Segment.USER]
    expected = user / (user + 0.5 * (1 - user))
    np.testing.assert_allclose(steered.shares["chat"][:, 0, :, Segment.USER], expected, atol=1e-5)


def test_the_head_is_the_one_with_the_largest_user_share(plain):
    layer, head = plain.head
    means = (plain.shares["raw"] + plain.shares["chat"]).mean(axis=0)[..., Segment.USER]
    assert means[layer, head] == means.max()


def test_lines_are_means_changes_and_renormalised_shares(plain):
    found = {(x.share, x.condition, x.segment): x for x in lines(plain)}
    layer, head = plain.head
    raw, chat = (plain.shares[c][:, layer, head, Segment.USER] for c in ("raw", "chat"))
    change = found["absolute", "chat - raw", "user"]
    assert change.mean == pytest.approx((chat - raw).mean())
    assert change.error == pytest.approx((chat - raw).std(ddof=1) / 2)
    assert change.n == 4
    relative = [x.mean for key, x in found.items() if key[0] != "absolute" and key[1] == "chat"]
    assert sum(relative) == pytest.approx(1)


def test_the_strongest_heads_are_written_as_hf_ctx_reads_them(tmp_path):
    ranking = needle_ranking(model(), SETTINGS)
    assert len(ranking) == 12
    assert [rank.mean for rank in ranking] == sorted((r.mean for r in ranking), reverse=True)
    assert all(rank.error > 0 and rank.n == 4 for rank in ranking)
    # nano's induction heads, which copy, are those of layer 1.
    assert {rank.layer for rank in ranking[:2]} == {1}
    path = tmp_path / "heads.json"
    path.write_text(heads_json(ranking, 3))
    assert sum(len(heads) for heads in read_heads(path).values()) == 3
    assert model(alpha=0.5, heads=str(path)).steering.heads == read_heads(path)
    with pytest.raises(UserError, match="--by-head 13 is out of range: this model has 12 heads"):
        heads_json(ranking, 13)


def attention(*arguments):
    """The command as in the README: without a --device."""
    command = [sys.executable, "-m", "ctx_models.cli", "attention", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_writes_figures_and_numbers_of_several_models(tmp_path):
    words = ["--model_args", "pretrained=nano-chat"]
    words += ["--model_args", "pretrained=nano-chat-ind,indicator=[IND]"]
    words += ["--max_length", "300", "--lengths", "2", "--depths", "2", "--per-head", "--per-layer"]
    done = attention(*words, "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "chat - raw" in done.stdout
    assert imread(tmp_path / "out" / "attention.png").shape[0] > 500
    assert (tmp_path / "out" / "attention.svg").read_text().startswith("<?xml")
    content = json.loads((tmp_path / "out" / "attention.json").read_text())
    assert [one["data"]["lengths"] for one in content["models"]] == [2, 2]
    with (tmp_path / "out" / "attention.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(content["shares"]) == 2 * (15 + 9)
    with (tmp_path / "out" / "heads.csv").open() as file:
        heads = list(csv.DictReader(file))
    with (tmp_path / "out" / "layers.csv").open() as file:
        layers = list(csv.DictReader(file))
    assert len(heads) == 2 * 2 * 12 * 5
    layer = [row for row in layers if row["layer"] == "1" and row["segment"] == "user"]
    parts = [row for row in heads if row["layer"] == "1" and row["segment"] == "user"]
    assert np.mean([float(row["mean"]) for row in parts]) == pytest.approx(
        np.mean([float(row["mean"]) for row in layer])
    )
    assert {row["n"] for row in heads + layers} == {"4"}


def test_the_command_ranks_the_heads(tmp_path):
    words = ["--model_args", "pretrained=nano-chat", "--max_length", "300", "--lengths", "1"]
    done = attention(*words, "--depths", "2", "--by-head", "2", "-o", str(tmp_path))
    assert done.returncode == 0, done.stderr
    strongest = {layer: len(heads) for layer, heads in read_heads(tmp_path / "heads.json").items()}
    assert strongest == {1: 2}
    with (tmp_path / "needle_heads.csv").open() as file:
        ranking = list(csv.DictReader(file))
    assert [ranking[0][key] for key in ("layer", "n")] == ["1", "2"]
    assert len(ranking) == 12


@pytest.mark.slow
def test_mistakes_are_one_sentence(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    tiny.model().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    two = ["--model_args", "pretrained=nano-chat"] * 2
    for words, message in [
        (["--model_args", "pretrained=nano-chat,alpha=2"], "alpha=2"),
        (["--model_args", f"pretrained={tmp_path}"], "no chat template"),
        (["--max_length", "5000"], "5000"),
        ([*two, "--by-head", "2"], "give one --model_args"),
        (["--haystack", "nowhere.txt"], "nowhere.txt"),
    ]:
        done = attention(*words)
        assert done.returncode == 2, message
        assert message in done.stderr
        assert "Traceback" not in done.stderr
