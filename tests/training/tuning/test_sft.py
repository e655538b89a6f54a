"""Fine-tuning on the CPU with tiny models: rows, adapters, 4 bits, merge, kill and continue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctx_tasks.errors import UserError
from ctx_tasks.files import sha256
from tests.ports import free_port
from tests.training.tuning import inputs as tuning
from training import files
from training.tuning import continuation, merge, recipe, sft
from training.tuning.dataset import tokenised

ROOT = Path(__file__).parents[3]
PROMPT = "What does lamp mean?"


def python(*arguments, check=True):
    """A new interpreter in the repository root."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done


TIED = pytest.param(True, marks=pytest.mark.slow, id="tied")


@pytest.fixture(scope="module", params=[pytest.param(False, id="untied"), TIED])
def tuned(request, tmp_path_factory):
    """A LoRA run, by the steps of `sft.run`, with the model as it was at its end."""
    folder = tmp_path_factory.mktemp("tuned")
    base = tuning.base(folder / "base", tied=request.param, pad=False)
    data = tuning.write_data(folder / "data.jsonl", tuning.conversations(12))
    loaded = recipe.load(tuning.recipe(folder, base, data), ["training.max_steps=6"])
    tokenizer, tokens = sft.load_tokenizer(loaded)
    dataset = tokenised(data, tokenizer, indicator="[IND]").select_columns(["input_ids", "labels"])
    model = sft.load_model(loaded)
    trainer = sft.build_trainer(loaded, model, tokenizer, tokens, dataset)
    trainer.train()
    trainer.save_model(str(folder / "adapter"))
    return folder, trainer.model.eval(), tokenizer, tokens


def effective_rows(model):
    return {
        "input": model.get_input_embeddings().weight.detach(),
        "output": model.get_output_embeddings().weight.detach(),
    }


def base_rows(folder):
    stored = load_file(folder / "base" / "model.safetensors")
    source = stored["model.embed_tokens.weight"]
    return {"input": source, "output": stored.get("lm_head.weight", source)}


def test_under_lora_the_indicator_row_moves_and_the_others_stay_to_the_bit(tuned):
    folder, model, tokenizer, tokens = tuned
    indicator = tokenizer.convert_tokens_to_ids("[IND]")
    for name, rows in effective_rows(model).items():
        old = base_rows(folder)[name]
        assert torch.equal(rows[: tokens.known], old)
        assert not torch.allclose(rows[indicator], old.mean(0), atol=1e-3)


def test_under_lora_the_two_new_rows_are_all_that_trains_beside_the_adapter(tuned):
    folder, model, _, tokens = tuned
    trained = [p for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n]
    tied = len(trained) == 1
    assert [tuple(p.shape) for p in trained] == [(len(tokens.new), 64)] * (1 if tied else 2)
    stored = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert max(tensor.numel() for tensor in stored.values()) < 1000


def test_rows_and_logits_are_found_again_in_a_new_process(tuned, tmp_path):
    folder, model, tokenizer, tokens = tuned
    out = tmp_path / "seen.safetensors"
    arguments = (folder / "base", folder / "adapter", out, PROMPT)
    python("-m", "tests.training.tuning.load_adapter", *arguments)
    seen = load_file(out)
    for name, rows in effective_rows(model).items():
        assert torch.equal(seen[name][: tokens.known], rows[: tokens.known])
        assert torch.equal(seen[name][tokens.new], rows[tokens.new])
    turn = [{"role": "user", "content": f"{PROMPT} [IND]"}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|system|>\n</s>\n")
    assert seen["ids"].tolist() == tokenizer(text)["input_ids"]
    with torch.no_grad():
        expected = model(seen["ids"][None]).logits[0]
    torch.testing.assert_close(seen["logits"], expected, rtol=1e-5, atol=1e-5)


def test_merging_keeps_rows_and_behaviour_in_16_bits(tuned, tmp_path):
    folder, model, tokenizer, tokens = tuned
    merged_folder = tmp_path / "merged"
    assert 0.9 < merge.run(folder / "adapter", merged_folder) < 1.1
    merged = AutoModelForCausalLM.from_pretrained(merged_folder, dtype="auto")
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    for name, rows in effective_rows(model).items():
        assert torch.equal(effective_rows(merged)[name], rows.bfloat16())
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    with torch.no_grad():
        before, after = model(ids).logits.float(), merged(ids).logits.float()
    torch.testing.assert_close(after, before, rtol=0.05, atol=0.05)
    again = AutoTokenizer.from_pretrained(merged_folder)
    assert again.convert_tokens_to_ids("[IND]") == tokens.new[-1]
    assert again.chat_template == tokenizer.chat_template


def test_merging_in_float32_keeps_the_whole_effect(tuned, tmp_path):
    folder, model, tokenizer, _ = tuned
    left = merge.run(folder / "adapter", tmp_path / "merged", dtype="float32")
    assert left == pytest.approx(1, abs=1e-4)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert merged.dtype is torch.float32
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)


def test_the_step_that_rounding_took_is_told():
    base, tuned = torch.zeros(2), torch.tensor([1.0, 1.0])
    assert merge.survival(base, tuned, torch.tensor([0.5, 0.4])) == pytest.approx(0.45)
    assert merge.survival(base, base, tuned) == 1
    assert "--dtype float32" in merge.summary(0.45, "bfloat16", Path("out"))
    assert "--dtype float32" not in merge.summary(0.93, "bfloat16", Path("out"))


def test_merging_refuses_what_cannot_be_merged(tuned, tmp_path):
    adapter = tuned[0] / "adapter"
    with pytest.raises(UserError, match="holds no adapter"):
        merge.run(tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="dtype='int8' is unknown; choose bfloat16"):
        merge.run(adapter, tmp_path / "out", dtype="int8")
    with pytest.raises(UserError, match="exists"):
        merge.run(adapter, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_qlora_trains_on_the_cpu_and_merges_in_16_bits(setting, tmp_path):
    folder, base, data = setting
    file = tuning.recipe(folder, base, data, quantization=tuning.NF4)
    counts = sft.run(file, ["model.dtype=bfloat16", "training.gradient_checkpointing=true"])
    assert counts["steps"] == 4
    assert counts["turns_with_indicator"] == 6
    adapter = load_file(folder / "run" / "adapter_model.safetensors")
    rows = adapter["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"]
    mean = load_file(base / "model.safetensors")["model.embed_tokens.weight"].mean(0)
    assert not torch.allclose(rows[1].float(), mean, atol=1e-3)
    merge.run(folder / "run", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert getattr(merged.config, "quantization_config", None) is None
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}


def test_full_fine_tuning_trains_everything_and_writes_a_model_with_its_tokenizer(setting):
    folder, base, data = setting
    sft.run(tuning.recipe(folder, base, data, lora=None), ["training.assistant_only_loss=true"])
    before = load_file(base / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    model = AutoModelForCausalLM.from_pretrained(folder / "run")
    tokenizer = AutoTokenizer.from_pretrained(folder / "run")
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight, before)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert tokenizer.tokenize("[IND]") == ["[IND]"]
    assert model.config.pad_token_id == tokenizer.convert_tokens_to_ids("[PAD]")


@pytest.mark.parametrize(
    "name", ["llama3-8b-sharegpt-indicator", "tinyllama-1.1b-wizardlm-indicator"]
)
def test_a_bundled_recipe_runs_on_a_tiny_model(setting, name):
    folder, base, data = setting
    changed = [
        f"model.model_name_or_path={base}",
        f"data.path={data}",
        f"training.output_dir={folder / 'run'}",
        "training.max_steps=1",
        "training.use_cpu=true",
        "training.bf16=false",
        "training.dataset_num_proc=2",
    ]
    counts = sft.run(name, changed)
    assert counts["steps"] == 1
    assert counts["final_loss"] is None  # logged every tenth step
    record = json.loads(files.meta_path(folder / "run").read_text(encoding="utf-8"))
    assert record["settings"]["training"]["warmup_steps"] == 0.1


def test_a_vanilla_packed_run_adds_only_the_pad_token(setting):
    folder, base, _ = setting
    data = tuning.write_data(folder / "vanilla.jsonl", tuning.conversations(12, indicator=None))
    file = tuning.recipe(folder, base, data, indicator=None)
    counts = sft.run(file, ["training.packing=true", "training.max_length=256"])
    assert counts["turns_with_indicator"] == 0
    added = AutoTokenizer.from_pretrained(folder / "run").get_added_vocab()
    assert "[PAD]" in added
    assert "[IND]" not in added


def test_the_record_and_the_card_say_data_recipe_beta_and_indicator(setting):
    folder, base, data = setting
    meta = {"settings": {"beta": 0.6, "indicator": "[IND]"}}
    files.meta_path(data).write_text(json.dumps(meta), encoding="utf-8")
    counts = sft.run(tuning.recipe(folder, base, data))
    card = (folder / "run" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert (head["base_model"], head["library_name"]) == (str(base), "peft")
    for fact in (str(data), sha256(data), "beta = 0.6", "`[IND]`", "recipe.yaml"):
        assert fact in card
    assert f"pretrained={base},peft=THIS_FOLDER,indicator=[IND]" in card
    record = json.loads(files.meta_path(folder / "run").read_text(encoding="utf-8"))
    assert record["counts"] == counts
    assert record["inputs"][0]["sha256"] == sha256(data)
    assert record["settings"]["training"]["seed"] == 42
    assert not list((folder / "run").glob("unfinished*"))


def test_counts_are_those_within_the_length_beside_those_of_the_data(setting, capsys):
    folder, base, data = setting
    long = [{"role": "user", "content": "lamp " * 200 + "[IND]"}, *tuning.conversations(1)[0][1:]]
    tuning.write_data(data, [*tuning.conversations(4), long, long])
    options = ["training.assistant_only_loss=true", "training.max_length=100"]
    counts = sft.run(tuning.recipe(folder, base, data), options)
    assert (counts["conversations"], counts["turns_with_indicator"], counts["cut"]) == (4, 2, 2)
    assert (counts["read"]["conversations"], counts["read"]["turns_with_indicator"]) == (6, 4)
    assert counts["tokens"] < 400 < counts["read"]["tokens"]
    assert "Trained on: 4 conversations" in capsys.readouterr().out
    card = (folder / "run" / "README.md").read_text(encoding="utf-8")
    assert "| Turns with the indicator | 2 of the 4 in the data |" in card


def test_data_without_a_token_in_the_loss_is_a_sentence(setting):
    folder, base, data = setting
    long = [{"role": "user", "content": "lamp " * 200 + "[IND]"}, *tuning.conversations(1)[0][1:]]
    file = tuning.recipe(folder, base, tuning.write_data(data, [long] * 4))
    with pytest.raises(UserError, match="in the loss within 100 tokens: raise training.max_length"):
        sft.run(file, ["training.assistant_only_loss=true", "training.max_length=100"])
    with pytest.raises(UserError, match="ends no user turn of .* within the first 100 tokens"):
        sft.run(file, ["training.max_length=100"])


def logged(folder):
    """The trainer's log of a run, from its last checkpoint."""
    state = folder / "run" / "checkpoint-4" / "trainer_state.json"
    return json.loads(state.read_text(encoding="utf-8"))["log_history"]


EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 4}


def test_a_share_is_held_out_and_evaluated_while_tuning(setting):
    folder, base, data = setting
    file = tuning.recipe(folder, base, data, training=EVALUATED)
    counts = sft.run(file, ["data.eval_share=0.25"])
    assert (counts["conversations"], counts["evaluated"]) == (9, 3)
    steps = [entry["step"] for entry in logged(folder) if "eval_loss" in entry]
    assert steps == [2, 4]


def test_context_tasks_are_asked_at_each_evaluation_and_change_nothing(setting):
    folder, base, data = setting
    lora = {**tuning.LORA, "lora_dropout": 0.1}
    file = tuning.recipe(folder, base, data, lora=lora, training=EVALUATED)
    held_out = f"data.eval_path={data}"
    sft.run(file, [held_out, f"training.output_dir={folder / 'plain'}"])
    sft.run(file, [held_out, "evaluation.tasks=[nano_squad_contains]", "evaluation.limit=2"])
    asked = [entry for entry in logged(folder) if "eval_nano_squad_contains_contains" in entry]
    assert [entry["step"] for entry in asked] == [2, 4]
    ends = [load_file(folder / run / "adapter_model.safetensors") for run in ("plain", "run")]
    assert all(torch.equal(ends[1][key], tensor) for key, tensor in ends[0].items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.eval_share=0.1"], "`training.eval_strategy` is missing"),
        (["training.eval_strategy=epoch"], "needs `data.eval_path` or `data.eval_share`"),
        (["data.eval_share=1.5", "training.eval_strategy=epoch"], "eval_share` is 1.5, expected"),
        (["data.eval_share=0.1", "data.eval_path=x"], "both given"),
        (["evaluation.limit=3"], "`evaluation.tasks` is missing"),
        (["data.eval_share=0.01", "training.eval_strategy=epoch"], "leaves one side empty"),
    ],
)
def test_what_cannot_be_evaluated_is_told(setting, overrides, message):
    with pytest.raises(UserError, match=message):
        sft.run(tuning.recipe(*setting), overrides)


def test_a_finished_run_is_not_trained_again_and_another_recipe_is_refused(setting):
    folder, base, data = setting
    file = tuning.recipe(folder, base, data)
    counts = sft.run(file)
    weights = folder / "run" / "adapter_model.safetensors"
    written = weights.stat().st_mtime_ns
    assert sft.run(file, ["training.logging_steps=3"]) == counts
    assert weights.stat().st_mtime_ns == written
    with pytest.raises(UserError, match=r"another lora, training.learning_rate; set training.out"):
        sft.run(file, ["training.learning_rate=1e-4", "lora.r=2"])
    with pytest.raises(UserError, match="holds a run already"):
        sft.run(file, resume=False)
    tuning.write_data(data, tuning.conversations(13))
    with pytest.raises(UserError, match="another data content"):
        sft.run(file)


def test_losses_go_to_tensorboard_where_the_recipe_says_so(setting, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, base, data = setting
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(folder / "events"))
    counts = sft.run(tuning.recipe(folder, base, data), ["training.report_to=tensorboard"])
    events = EventAccumulator(str(folder / "events"))
    events.Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == [1, 2, 3, 4]
    assert losses[-1].value == pytest.approx(counts["final_loss"], abs=1e-3)


def test_a_run_is_not_continued_by_another_number_of_processes(setting):
    folder, base, data = setting
    loaded = recipe.load(tuning.recipe(folder, base, data))
    continuation.claim(folder / "run", loaded, processes=2)
    (folder / "run" / "checkpoint-2").mkdir()
    continuation.claim(folder / "run", loaded, processes=2)
    with pytest.raises(UserError, match="holds a run with another number of processes"):
        continuation.claim(folder / "run", loaded, processes=1)


def test_a_run_is_not_continued_with_another_evaluation_file(setting):
    folder, base, data = setting
    held_out = tuning.write_data(folder / "held_out.jsonl", tuning.conversations(3))
    overrides = [f"data.eval_path={held_out}", "training.eval_strategy=epoch"]
    loaded = recipe.load(tuning.recipe(folder, base, data), overrides)
    continuation.claim(folder / "run", loaded)
    (folder / "run" / "checkpoint-2").mkdir()
    continuation.claim(folder / "run", loaded)
    tuning.write_data(held_out, tuning.conversations(4))
    with pytest.raises(UserError, match="holds a run with another evaluation data content"):
        continuation.claim(folder / "run", loaded)


def test_a_run_that_trained_nothing_leaves_its_folder_free(setting):
    folder, base, data = setting
    tuning.write_data(data, tuning.conversations(12, indicator=None))
    file = tuning.recipe(folder, base, data)
    with pytest.raises(UserError, match="ends no user turn"):
        sft.run(file)
    tuning.write_data(data, tuning.conversations(12))
    assert sft.run(file)["steps"] == 4


DYING = """
import os, signal, sys
from trl import SFTTrainer
from training.tuning import sft

step = SFTTrainer.training_step

def dying_step(self, *arguments, **keywords):
    if self.state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments, **keywords)

SFTTrainer.training_step = dying_step
sft.run(*sys.argv[1:2], sys.argv[2:])
"""


FULL = pytest.param(None, marks=pytest.mark.slow, id="full")


@pytest.mark.slow
@pytest.mark.parametrize("lora", [pytest.param(tuning.LORA, id="lora"), FULL])
def test_a_killed_run_continues_to_the_same_end(setting, lora):
    folder, base, data = setting
    lora = lora and {**lora, "lora_dropout": 0.1}
    training = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2}
    file = tuning.recipe(folder, base, data, lora=lora, training=training)
    killed = [file, f"training.output_dir={folder / 'killed'}"]
    done = python("-c", DYING, *killed, check=False)
    assert done.returncode == -signal.SIGKILL
    # A checkpoint that the kill had cut off: newer, and without its last file.
    (folder / "killed" / "checkpoint-6").mkdir()
    assert not files.meta_path(folder / "killed").exists()
    first = folder / "killed" / "checkpoint-2" / "trainer_state.json"
    written = first.stat().st_mtime_ns
    whole = sft.run(file, [f"training.output_dir={folder / 'whole'}"])
    continued = sft.run(killed[0], killed[1:])
    assert first.stat().st_mtime_ns == written
    assert continued["steps"] == whole["steps"] == 8
    assert continued["final_loss"] == pytest.approx(whole["final_loss"], abs=1e-4)
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    ends = [load_file(folder / run / name) for run in ("whole", "killed")]
    for key, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][key], tensor, rtol=1e-4, atol=1e-5)
    log = json.loads((folder / "killed" / "checkpoint-8" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in log["log_history"]] == list(range(1, 9))


@pytest.mark.slow
@pytest.mark.parametrize("lora", [tuning.LORA, None], ids=["lora", "full"])
def test_two_processes_learn_what_one_does(setting, lora):
    folder, base, data = setting
    file = tuning.recipe(folder, base, data, lora=lora)
    one = sft.run(file, ["training.per_device_train_batch_size=4"])
    # A process group that is left to the interpreter's end may abort there.
    script = (
        "import sys, torch; from training.tuning import sft; sft.run(sys.argv[1], sys.argv[2:]); "
        "torch.distributed.destroy_process_group()"
    )
    program = folder / "program.py"
    program.write_text(script, encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", free_port()]
    python(*launch, program, file, f"training.output_dir={folder / 'two'}")
    record = json.loads(files.meta_path(folder / "two").read_text(encoding="utf-8"))
    assert record["counts"]["final_loss"] == pytest.approx(one["final_loss"], abs=1e-4)
