"""`ctx-eval attention`: shares, the closed form of steering, the ranking of heads, the files."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from peft import LoraConfig, get_peft_model

from ctx_models import nano
from ctx_models.allocation import run as allocation_run
from ctx_models.allocation.figure import draw
from ctx_models.allocation.run import plan, run
from ctx_models.allocation.shares import _prompt, heads_json, lines
from ctx_models.lm import CtxLM
from ctx_models.spans import Segment
from ctx_models.steering import read_heads
from ctx_tasks.errors import UserError
from tests import commands, tiny
from tests.commands import as_process, ctx_eval

GRID = {"max_length": 300, "lengths": 2, "depths": 2}
TWO = ["--model_args", "pretrained=nano-chat"] * 2


def measured(folder, *model_args: str, **options):
    return run(plan(model_args, GRID), folder, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("measured")


@pytest.fixture(scope="module")
def plain(folder):
    [(found, ranking)] = measured(folder, "pretrained=nano-chat")
    assert ranking == []
    return found


def test_shares_are_the_models_own_attention(plain):
    """Against `output_attentions` of the eager model in float64, last row, summed by segment."""
    lm = CtxLM("nano-chat", device="cpu")
    lm.model.double().set_attn_implementation("eager")
    [job] = plan(["pretrained=nano-chat"], GRID)
    row = job.rows[-1]
    for condition in ("raw", "chat"):
        tokens = lm._tokens(_prompt(lm, row, chat=condition == "chat"))
        assert lm.tokenizer.decode(tokens.input_ids).endswith(row["response_prefix"])
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


def test_steering_follows_the_closed_form_in_the_first_layer(plain, folder):
    [(steered, _)] = measured(folder, "pretrained=nano-chat,alpha=0.5")
    user = plain.shares["chat"][:, 0, :, Segment.USER]
    expected = user / (user + 0.5 * (1 - user))
    np.testing.assert_allclose(steered.shares["chat"][:, 0, :, Segment.USER], expected, atol=1e-5)


def test_the_head_is_the_one_with_the_largest_user_share(plain):
    layer, head = plain.head
    means = (plain.shares["raw"] + plain.shares["chat"]).mean(axis=0)[..., Segment.USER]
    assert means[layer, head] == means.max()


def test_the_head_may_be_of_one_layer_and_chosen_without_the_template(plain):
    users = plain.shares["raw"][..., Segment.USER].mean(axis=0)
    for layer in range(len(users)):
        chosen = replace(plain, layer=layer, head_by="raw")
        assert chosen.head == (layer, users[layer].argmax())


def test_a_name_with_dollars_is_drawn_as_it_is_and_equal_numbers_give_equal_files(plain, tmp_path):
    named = [replace(line, name="pretrained=a$b^{$c,alpha=0.5") for line in lines(plain)]
    for name in ("one.svg", "two.svg"):
        draw(named, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "pretrained=a$b^{$c" in (tmp_path / "one.svg").read_text()
    with pytest.raises(UserError, match=r"end its name in \.png or \.svg"):
        draw(named, tmp_path / "one.gif")


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
    [(_, ranking)] = measured(tmp_path / "measured", "pretrained=nano-chat", by_head=True)
    assert len(ranking) == 12
    assert [rank.mean for rank in ranking] == sorted((r.mean for r in ranking), reverse=True)
    assert all(rank.error > 0 and rank.n == 4 for rank in ranking)
    # nano's induction heads, which copy, are those of layer 1.
    assert {rank.layer for rank in ranking[:2]} == {1}
    path = tmp_path / "heads.json"
    path.write_text(heads_json(ranking, 3))
    assert sum(len(heads) for heads in read_heads(path).values()) == 3
    steered = CtxLM("nano-chat", device="cpu", alpha=0.5, heads=str(path))
    assert steered.steering.heads == read_heads(path)
    with pytest.raises(UserError, match="--by-head 13 is out of range: this model has 12 heads"):
        heads_json(ranking, 13)


def test_arms_of_a_checkpoint_share_one_load_and_are_what_they_are_alone(monkeypatch, tmp_path):
    loads = []

    class Counted(CtxLM):
        def __init__(self, *arguments, **keywords):
            loads.append(keywords["pretrained"])
            super().__init__(*arguments, **keywords)

    arms = ["pretrained=nano-chat-ind", "pretrained=nano-chat-ind,alpha=0.5,indicator=[IND]"]
    alone = [measured(tmp_path / str(number), arm)[0][0] for number, arm in enumerate(arms)]
    monkeypatch.setattr(allocation_run, "CtxLM", Counted)
    together = measured(tmp_path / "all", arms[1], "pretrained=nano-chat", arms[0])
    assert loads == [str(nano.folder(name)) for name in ("nano-chat-ind", "nano-chat")]
    names = [one.name for one, _ in together]
    assert names == [arms[1], "pretrained=nano-chat", arms[0]]
    for expected, (found, _) in zip(alone, (together[2], together[0]), strict=True):
        for condition, shares in expected.shares.items():
            np.testing.assert_array_equal(found.shares[condition], shares)


def test_nothing_is_measured_twice_and_a_half_written_prompt_is(monkeypatch, tmp_path):
    [(first, _)] = measured(tmp_path, "pretrained=nano-chat")
    [kept] = tmp_path.glob("*.jsonl")
    content = kept.read_bytes()
    kept.write_bytes(content[: len(content) * 5 // 8])
    count = []
    measure = allocation_run.prompt_shares

    def counted(lm, row):
        count.append(row)
        return measure(lm, row)

    monkeypatch.setattr(allocation_run, "prompt_shares", counted)
    [(second, _)] = measured(tmp_path, "pretrained=nano-chat")
    assert len(count) == 2
    assert kept.read_bytes() == content
    np.testing.assert_array_equal(second.shares["chat"], first.shares["chat"])
    monkeypatch.setattr(allocation_run, "CtxLM", None)
    measured(tmp_path, "pretrained=nano-chat")
    assert len(count) == 2


def test_an_adapter_is_measured_with_its_own_tokenizer(tmp_path):
    lm = CtxLM("nano-chat-ind", device="cpu")
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    get_peft_model(lm.model, config).save_pretrained(tmp_path / "adapter")
    lm.tokenizer.save_pretrained(tmp_path / "adapter")
    base = "pretrained=nano-chat-ind,indicator=[IND]"
    found = measured(tmp_path / "measured", base, f"{base},peft={tmp_path / 'adapter'}")
    (plain, _), (adapted, _) = found
    assert np.abs(plain.shares["chat"] - adapted.shares["chat"]).max() > 0.01


def test_the_command_writes_figures_and_numbers_of_several_models(tmp_path):
    words = ["--model_args", "pretrained=nano-chat"]
    words += ["--model_args", "pretrained=nano-chat-ind,indicator=[IND]"]
    words += ["--max_length", "300", "--lengths", "2", "--depths", "2", "--per-head", "--per-layer"]
    done = ctx_eval("attention", *words, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "chat - raw" in done.out
    assert imread(tmp_path / "out" / "attention.png").shape[0] > 300
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
    done = ctx_eval("attention", *words, "--depths", "2", "--by-head", "2", "-o", tmp_path)
    assert done.code == 0, done.err
    strongest = {layer: len(heads) for layer, heads in read_heads(tmp_path / "heads.json").items()}
    assert strongest == {1: 2}
    with (tmp_path / "needle_heads.csv").open() as file:
        ranking = list(csv.DictReader(file))
    assert [ranking[0][key] for key in ("layer", "n")] == ["1", "2"]
    assert len(ranking) == 12


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_files(tmp_path):
    """SIGKILL once some prompts are kept; the second run measures the others only."""
    words = ["--model_args", "pretrained=nano-chat", "--max_length", "1000", "--lengths", "2"]
    words += ["--depths", "15", "--by-head", "2", "-o"]
    assert ctx_eval("attention", *words, tmp_path / "whole").code == 0
    line = commands.words("ctx_models.cli", "attention", *words, tmp_path / "cut")
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, start_new_session=True)
    kept = tmp_path / "cut" / ".measured"
    while not any(path.stat().st_size > 1500 for path in kept.glob("*.jsonl")):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "attention.json").exists()
    done = as_process("ctx_models.cli", "attention", *words, tmp_path / "cut")
    assert done.code == 0, done.err
    first = re.search(r"pretrained=nano-chat shares: +\d+%\D+(\d+)/30", done.err)
    assert int(first[1]) > 0
    for name in ("attention.json", "attention.csv", "heads.json", "needle_heads.csv"):
        whole, cut = (tmp_path / side / name for side in ("whole", "cut"))
        assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model_args", "pretrained=nano-chat,alpha=2"], "alpha=2"),
        (["--model_args", "pretrained=PLAIN"], "no chat template"),
        (["--max_length", "5000"], "5000"),
        ([*TWO, "--by-head", "2"], "give one --model_args"),
        (["--haystack", "nowhere.txt"], "nowhere.txt"),
        (["--by-head", "0"], "by-head"),
        ([*TWO[:2], "--model_args", "pretrained=nano-base,indicator=[IND]"], "one added token"),
        ([*TWO[:2], "--model_args", "pretrained=nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_measured(words, message, tmp_path):
    tiny.tokenizer(chat_template=None).save_pretrained(tmp_path / "plain")
    tiny.model().save_pretrained(tmp_path / "plain")
    words = [word.replace("PLAIN", str(tmp_path / "plain")) for word in words]
    done = ctx_eval("attention", *words, "-o", tmp_path / "out")
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_a_layer_that_a_model_lacks_is_told_before_it_loads(tmp_path):
    options = ("--lengths", 1, "--depths", 1, "--max-length", 300, "--layer", 9, "--device", "cpu")
    done = ctx_eval(
        *("attention", "--haystack", "nano", "--model_args", "pretrained=nano-chat"),
        *(*options, "-o", tmp_path / "out"),
    )
    assert done.code == 2
    assert re.search(r"--layer 9 is out of range: pretrained=nano-chat has \d layers", done.err)


def test_the_command_draws_the_head_of_the_later_version(tmp_path):
    done = ctx_eval(
        *("attention", "--haystack", "nano", "--model_args", "pretrained=nano-chat"),
        *("--lengths", 1, "--depths", 2, "--max-length", 300, "--device", "cpu"),
        *("--layer", 0, "--head-by", "raw", "-o", tmp_path),
    )
    assert done.code == 0, done.err
    [model] = json.loads((tmp_path / "attention.json").read_text())["models"]
    assert model["head"][0] == 0
