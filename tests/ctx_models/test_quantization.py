"""`hf-ctx` with weights in 4 and 8 bits: loaded as transformers loads them, steered, swept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from lm_eval.api.instance import Instance
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ctx_models import nano
from ctx_models.lm import CtxLM
from ctx_models.sweep import plan as sweep_plan
from ctx_models.sweep.run import run
from ctx_tasks.errors import UserError
from ctx_tasks.results import read_runs
from tests import tiny

# bitsandbytes has the other kind of 4 bits, the default, on a CPU in its latest releases only.
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
KINDS = {
    "4 bits": (NF4, Linear4bit),
    "8 bits": ({"load_in_8bit": True}, Linear8bitLt),
    "as QLoRA": (
        {
            **NF4,
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
        },
        Linear4bit,
    ),
}
QUESTION = [{"role": "user", "content": "The lamp is near the harbour. Where is the lamp?"}]


def likelihood(model: CtxLM) -> float:
    """Of one answer to one question in the chat template."""
    prompt = model.apply_chat_template(QUESTION)
    asked = [Instance("loglikelihood", {}, (prompt, " Near the harbour."), 0)]
    [(found, _)] = model.loglikelihood(asked, disable_tqdm=True)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_weights_are_quantized_as_asked_and_the_model_is_steered(name):
    asked, layer = KINDS[name]
    model = CtxLM("nano-chat", device="cpu", **asked)
    steered = CtxLM("nano-chat", device="cpu", alpha=0.5, **asked)
    assert isinstance(model.model.model.layers[0].self_attn.q_proj, layer)
    same = AutoModelForCausalLM.from_pretrained(
        nano.folder("nano-chat"), quantization_config=BitsAndBytesConfig(**asked), device_map="cpu"
    )
    for alpha, ours in ((1.0, model), (0.5, steered)):
        theirs = CtxLM(same, tokenizer=model.tokenizer, alpha=alpha)
        assert likelihood(ours) == likelihood(theirs)
    assert likelihood(steered) != likelihood(model)
    assert steered.settings()["quantization"] == {key: str(value) for key, value in asked.items()}


def test_an_adapter_runs_on_four_bit_weights(tmp_path):
    tokenizer = tiny.tokenizer()
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model = tiny.model(vocab_size=len(tokenizer), intermediate_size=128)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(adapter)
    arguments: dict[str, Any] = {"device": "cpu", "alpha": 0.5, **NF4}
    tuned = CtxLM(str(base), peft=str(adapter), **arguments)
    assert likelihood(tuned) != likelihood(CtxLM(str(base), **arguments))


@pytest.mark.slow
def test_a_sweep_runs_a_quantized_checkpoint_in_every_arm(tmp_path):
    plan = {
        "checkpoints": [{"name": "four", "model_args": {"pretrained": "nano-chat", **NF4}}],
        "arms": ["chat", {"alpha": 0.5}],
        "tasks": ["nano_squad_contains"],
        "metadata": {"questions": 2},
        "device": "cpu",
        "output": str(tmp_path / "out"),
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(plan))
    assert run(sweep_plan.read(tmp_path / "sweep.yaml")) == {}
    runs = read_runs([tmp_path / "out"])
    assert {"chat", "chat, α 0.5 constant"} <= {one.arm.name for one in runs}
    for one in runs:
        assert one.config["ctx"]["quantization"] == {
            "load_in_4bit": "True",
            "bnb_4bit_quant_type": "nf4",
        }


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "both": ({"load_in_4bit": True, "load_in_8bit": True}, "load_in_4bit.*cannot be read"),
    "no switch": ({"bnb_4bit_quant_type": "nf4"}, "bnb_4bit_quant_type needs load_in_4bit=True"),
    "no truth": ({"load_in_4bit": "yes"}, "load_in_4bit='yes': choose true or false"),
    "no dtype": ({"load_in_4bit": True, "bnb_4bit_compute_dtype": "half16"}, "cannot be read"),
    "nearly": ({"load_in_4bits": True}, "did you mean load_in_4bit"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_meant_is_told_in_one_sentence(name):
    arguments, message = WRONG[name]
    with pytest.raises(UserError, match=message) as caught:
        CtxLM("nano-chat", device="cpu", **arguments)
    assert "\n" not in str(caught.value)


def test_switched_off_it_is_the_model_as_stored():
    model = CtxLM("nano-chat", device="cpu", load_in_4bit=False)
    assert model.settings()["quantization"] is None
    assert type(model.model.model.layers[0].self_attn.q_proj) is torch.nn.Linear
