"""`vllm-ctx` in this process, on vLLM's CPU engine in float32, against `hf-ctx`."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ctx_models import model_names
from ctx_models.arm import read_arm
from ctx_models.lm import CtxLM
from ctx_models.thinking import Thinking
from ctx_tasks.answers import notes
from ctx_tasks.arm import Arm
from ctx_tasks.errors import UserError
from ctx_tasks.results import read_documents, read_runs
from tests.commands import ctx_eval
from tests.ctx_models.engine import asking
from tests.ctx_models.engine.asking import HF, IN_PROCESS, generations, log_likelihoods, put

pytestmark = pytest.mark.vllm

ARMS: dict[str, dict[str, Any]] = {
    "0.9": {"alpha": 0.9},
    "0.5": {"alpha": 0.5},
    "0.1": {"alpha": 0.1},
    "compound": {"alpha": 0.5, "schedule": "compound"},
    "paper": {"alpha": 0.5, "schedule": "compound", "steer_generated": False},
    "not generated": {"alpha": 0.1, "steer_generated": False},
    "one layer": {"alpha": 0.1, "layers": "1"},
    "heads": {"alpha": 0.1, "heads": "heads.json"},
    "unsteered": {},
}


@pytest.fixture(scope="module")
def questions() -> list[str]:
    found = asking.questions()
    assert len(found) == 50
    return found


def start(pretrained: str = "nano-chat", **arguments: Any) -> Any:
    from ctx_models.engine.lm import CtxVLLM

    return CtxVLLM(pretrained, **{**IN_PROCESS, **arguments})


@pytest.fixture(scope="module")
def engine() -> Any:
    return start(steerable=True)


@pytest.fixture(scope="module")
def hf() -> CtxLM:
    return CtxLM("nano-chat", **HF)


@pytest.fixture
def arm(request, tmp_path) -> dict[str, Any]:
    """The settings of an arm, its file of heads written."""
    settings = dict(ARMS[request.param])
    if "heads" in settings:
        settings["heads"] = str(tmp_path / "heads.json")
        (tmp_path / "heads.json").write_text(json.dumps({"0": [1], "2": [0, 3]}))
    return settings


def outputs(model: Any, texts: list[str]) -> list[Any]:
    """vLLM's own outputs, which say what came out of the prefix cache."""
    from vllm import SamplingParams

    rows = [model._row(one, asking.SETTINGS) for one in asking.prompts(model, texts)]
    params = [SamplingParams(temperature=0, max_tokens=4, logprobs=0) for _ in rows]
    found: list[Any] = model._run(rows, params)
    return found


def cached(model: Any, texts: list[str]) -> int:
    return sum(one.num_cached_tokens for one in outputs(model, texts))


@pytest.mark.parametrize("arm", ARMS, indirect=True)
def test_says_what_hf_ctx_says(engine, hf, questions, arm):
    said = generations(put(engine, **arm), questions)
    assert said == generations(put(hf, **arm), questions)
    assert len(set(said)) > 10
    # A second time from the prefix cache, and one by one.
    assert generations(engine, questions[::10]) == said[::10]
    assert [generations(engine, [one])[0] for one in questions[::25]] == said[::25]


def test_steering_changes_what_is_said(engine, questions):
    arms = [ARMS[name] for name in ("unsteered", "0.1", "paper")]
    said = {tuple(generations(put(engine, **arm), questions[::5])) for arm in arms}
    assert len(said) == len(arms)


@pytest.mark.parametrize("arm", ["0.5", "paper", "heads"], indirect=True)
def test_finds_answers_as_likely_as_hf_ctx(engine, hf, questions, arm):
    texts, answers = questions[::3], ["The", "The best ware of Shire", "No\n"] * 5 + ["The", "A"]
    ours = log_likelihoods(put(engine, **arm), texts, answers)
    theirs = log_likelihoods(put(hf, **arm), texts, answers)
    for (found, greedy), (expected, also) in zip(ours, theirs, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
        assert greedy == also
    plain = log_likelihoods(put(hf), texts, answers)
    assert max(abs(a[0] - b[0]) for a, b in zip(plain, theirs, strict=True)) > 0.01


def test_several_sequences_of_a_prompt_are_all_steered(engine, hf, questions):
    from vllm import SamplingParams

    put(engine, alpha=0.1)
    rows = [engine._row(one, asking.SETTINGS) for one in asking.prompts(engine, questions[:4])]
    twice = SamplingParams(n=2, top_k=1, max_tokens=24, stop=["\n\n"], skip_special_tokens=False)
    found = engine._run(rows, [twice] * 4)
    expected = generations(put(hf, alpha=0.1), questions[:4])
    for one, text in zip(found, expected, strict=True):
        assert one.outputs[0].text == one.outputs[1].text
        assert one.outputs[0].text.startswith(text)


class TestPrefixCache:
    def test_is_shared_within_an_arm_and_never_between_two(self, engine, questions):
        # Asked by no other test.
        texts = [f"Read: {questions[-1]} {word}" for word in ("Now.", "Then.")]
        arms = [
            {"alpha": 0.7},
            {"alpha": 0.6},
            {"alpha": 0.7, "schedule": "compound"},
            {"alpha": 0.7, "layers": "1"},
            {"alpha": 0.7, "steer_generated": False},
            {},
        ]
        for one in arms:
            assert cached(put(engine, **one), texts[:1]) == 0, one
            assert cached(engine, texts[:1]) > 0, one
            assert cached(engine, texts[1:]) > 0, one
        assert cached(put(engine, **arms[0]), texts) > 0

    def test_is_not_shared_between_two_masks_of_the_same_ids(self, engine, questions):
        from vllm import SamplingParams

        from ctx_models.engine.rows import Row

        put(engine, alpha=0.55)
        [row] = [
            engine._row(one, asking.SETTINGS) for one in asking.prompts(engine, questions[-1:])
        ]
        params = SamplingParams(temperature=0, max_tokens=1)
        other = Row.of(row, [False, *row.user[1:-2], True, True])
        first = Row.of(row, [not row.user[0], *row.user[1:]])
        found = [
            engine._run([one], [params])[0].num_cached_tokens for one in (row, row, other, first)
        ]
        assert found[0] == 0
        # The mask of the last tokens leaves the blocks before them alike.
        assert found[1] == found[2] > 0
        assert found[3] == 0


class TestSelfTest:
    def test_passes_in_every_arm(self, engine):
        from ctx_models.engine.selftest import require_steering

        require_steering(engine._engines, *engine._shape, engine._text_config.vocab_size)

    def test_says_so_where_the_core_has_no_plugin(self, engine, monkeypatch):
        from vllm.v1.request import Request

        from ctx_models.engine.selftest import require_steering

        plain = Request.from_engine_core_request.__func__.args[0]
        monkeypatch.setattr(Request, "from_engine_core_request", classmethod(plain))
        with pytest.raises(UserError, match="Steering does not reach the keys of engine 0"):
            require_steering(engine._engines, *engine._shape, engine._text_config.vocab_size)

    def test_says_so_where_a_layer_does_not_see_the_flags(self, engine, monkeypatch):
        from ctx_models.engine.selftest import require_steering

        layers = engine.model.llm_engine.vllm_config.compilation_config.static_forward_context
        for layer in layers.values():
            monkeypatch.setattr(layer, "ctx_flags", layer.ctx_flags.clone())
        with pytest.raises(UserError, match="Steering does not reach the keys"):
            require_steering(engine._engines, *engine._shape, engine._text_config.vocab_size)

    def test_names_layers_that_are_not_steered(self, engine, monkeypatch):
        from ctx_models.engine.selftest import require_steering

        layers = engine.model.llm_engine.vllm_config.compilation_config.static_forward_context
        monkeypatch.setattr(next(iter(layers.values())), "ctx_own", None)
        with pytest.raises(UserError, match=r"layers \(Attention\) that are not"):
            require_steering(engine._engines, *engine._shape, engine._text_config.vocab_size)


class TestRefused:
    def test_a_log_likelihood_without_a_user_turn(self, engine):
        from lm_eval.api.instance import Instance

        put(engine, alpha=0.5)
        for method, arguments in (
            ("loglikelihood", ("", "word")),
            ("loglikelihood_rolling", ("word",)),
        ):
            with pytest.raises(UserError, match="no user turn to steer towards"):
                getattr(engine, method)([Instance(method, {}, arguments, 0)])

    def test_a_penalty(self, engine, questions):
        put(engine, alpha=0.5)
        with pytest.raises(UserError, match=r"repetition_penalty=1.2 counts token ids"):
            generations(engine, questions[:1], repetition_penalty=1.2)
        assert generations(put(engine), questions[:1], repetition_penalty=1.2)

    def test_a_vllm_whose_names_moved(self, monkeypatch):
        from vllm.v1.sample.sampler import Sampler

        monkeypatch.delattr(Sampler, "gather_logprobs")
        with pytest.raises(UserError, match=r"0.32.0, which has no vllm.*Sampler.gather_logprobs"):
            start(alpha=0.5)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"alpah": 0.5}, "alpah=0.5 is not a model argument of vllm-ctx: did you mean alpha?"),
            ({"peft": "adapter"}, "give vllm-ctx lora_local_path"),
            ({"worker_extension_cls": "mine.Mine"}, "worker_extension_cls is vllm-ctx's own"),
            ({"alpha": 0.5, "layers": "7"}, r"layers=\[7\] is out of range"),
            ({"indicator": "[IND]"}, "is not one added token of this tokenizer"),
            ({"enable_thinking": True}, "needs think_end_token"),
            ({"pretrained": "/nowhere"}, "could not be loaded"),
            ({"alpha": 0.5, "attention_backend": "FLASHMLA"}, "takes no head between 64"),
        ],
    )
    def test_before_an_engine_starts(self, arguments, message):
        with pytest.raises(UserError, match=message):
            start(**{"pretrained": "nano-chat", **arguments})


@pytest.fixture(scope="module")
def restarted() -> Any:
    """Another engine: a short window, and so few key blocks that sequences are preempted."""
    return start(
        "nano-chat-ind",
        alpha=0.5,
        indicator="[IND]",
        max_model_len=256,
        num_gpu_blocks_override=11,
        block_size=32,
    )


class TestRestarted:
    def test_answers_alike_however_often_it_is_preempted_and_whatever_it_cuts(
        self, restarted, questions, monkeypatch
    ):
        scheduler = restarted.model.llm_engine.engine_core.engine_core.scheduler
        preempted: list[Any] = []
        plain = scheduler._preempt_request

        def preempt(request: Any, *arguments: Any, **named: Any) -> Any:
            preempted.append(request)
            return plain(request, *arguments, **named)

        monkeypatch.setattr(scheduler, "_preempt_request", preempt)
        hf = CtxLM("nano-chat-ind", alpha=0.5, indicator="[IND]", **{**HF, "max_length": 256})
        for cut in ("left", "frame"):
            monkeypatch.setattr(restarted, "cut", cut)
            hf.cut = cut
            ours, theirs = generations(restarted, questions), generations(hf, questions)
            assert ours == theirs
            assert notes(ours) == notes(theirs)
            assert any(note.cut for note in notes(ours))
            assert any(note.unfinished for note in notes(ours))
        assert preempted

    def test_leaves_out_and_refuses_what_is_too_long(self, restarted, questions, monkeypatch):
        monkeypatch.setattr(restarted, "overlength", "skip")
        found = notes(generations(restarted, questions))
        assert {note.skipped for note in found} == {True, False}
        assert all(note.skipped == (note.cut > 0) for note in found)

    def test_thinks_before_it_answers(self, restarted, questions, monkeypatch):
        hf = CtxLM(
            "nano-chat-ind",
            alpha=0.5,
            think_end_token=" is",
            think_tokens=30,
            **{**HF, "max_length": 256},
        )
        thinking = Thinking(restarted.tokenizer, " is", 30)
        monkeypatch.setattr(restarted, "thinking", thinking)
        monkeypatch.setattr(restarted._ledger, "_stripped", True)
        short = questions[:12]
        for steered in (True, False):
            for one in (restarted, hf):
                put(one, alpha=0.5, steer_thought=steered)
            ours, theirs = (generations(one, short, until=[" of"]) for one in (restarted, hf))
            assert ours == theirs
            assert notes(ours) == notes(theirs)
        assert any(ours)


def test_an_adapter_is_steered(questions, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_names.resolve("nano-chat"))
    targets = ["q_proj", "v_proj", "embed_tokens"]
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(tmp_path)
    ours = start(alpha=0.5, lora_local_path=str(tmp_path))
    theirs = CtxLM("nano-chat", peft=str(tmp_path), alpha=0.5, **HF)
    texts = questions[::4]
    assert generations(ours, texts) == generations(theirs, texts)
    plain = generations(put(theirs), texts)
    assert plain != generations(put(CtxLM("nano-chat", **HF)), texts)


def test_a_sweep_runs_all_arms_of_a_checkpoint_on_one_engine(tmp_path, hf):
    engine = {**IN_PROCESS}
    engine.pop("batch_size")
    plan = {
        "checkpoints": [
            {
                "name": "vllm",
                "model": "vllm-ctx",
                "model_args": {"pretrained": "nano-chat", **engine},
            },
            {"name": "hf", "model_args": {"pretrained": "nano-chat", "dtype": "float32"}},
        ],
        "arms": ["chat", {"alpha": 0.3}, {"alpha": 0.1, "steer_generated": False}],
        "begun": False,
        "tasks": ["nano_squad_contains"],
        "metadata": {"questions": 6},
        "batch_size": "auto",
        "output": str(tmp_path / "out"),
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(plan))
    done = ctx_eval("sweep", tmp_path / "sweep.yaml")
    assert done.code == 0, done.err
    said: dict[str, dict[str, Any]] = {"vllm": {}, "hf": {}}
    for run in read_runs([tmp_path / "out"]):
        [result] = run.tasks.values()
        said[run.checkpoint][run.arm.name] = [one["resps"] for one in read_documents(result)]
        recorded = json.loads(run.path.read_text())["config"]
        assert recorded["model_dtype"] == "torch.float32"
        if run.checkpoint == "vllm":
            ctx = recorded["ctx"]
            assert ctx["engine"].startswith("vllm 0.")
            assert (ctx["attention"], ctx["widened_head_size"]) == ("CPU_ATTN", [80])
            assert ctx["alpha"] == run.arm.alpha
    assert len(said["hf"]) == 3
    assert said["vllm"] == said["hf"]
    logs = list((tmp_path / "out" / "vllm").rglob("log.txt"))
    assert len(logs) == 3


def test_an_engine_that_was_not_started_for_it_is_not_steered(engine):
    plain = engine.steerable
    try:
        engine.steerable = False
        with pytest.raises(UserError, match=r"alpha=0.5 needs an engine .* steerable=True"):
            engine.set_arm(read_arm(Arm(alpha=0.5)))
    finally:
        engine.steerable = plain


def test_the_bias_is_exact_where_half_precision_rounds_it():
    import torch

    from ctx_models.engine.worker import _set_bias

    class Layer:
        ctx_query, ctx_scale = torch.zeros(1, 8, dtype=torch.bfloat16), 0.125

    bias = 30 * math.log(0.9)
    _set_bias(Layer, [bias])
    found = Layer.ctx_query.double().sum() * Layer.ctx_scale
    assert float(found) == pytest.approx(bias, rel=2e-5)
    assert float(Layer.ctx_query[0, 0]) * 0.125 != pytest.approx(bias, rel=2e-5)


@pytest.mark.parametrize(
    ("amx", "dtype", "own", "width"),
    [
        (True, "bfloat16", 64, 96),
        (False, "bfloat16", 64, 80),
        (True, "float32", 64, 80),
        # One of 80 has no such kernel to keep, one of 96 has.
        (True, "bfloat16", 80, 96),
        (True, "bfloat16", 96, 128),
    ],
)
def test_a_wider_head_keeps_the_processor_s_own_kernel(monkeypatch, amx, dtype, own, width):
    import torch
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.v1.attention.backend import AttentionType

    from ctx_models.engine import worker_patch

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch, "get_default_dtype", lambda: getattr(torch, dtype))
    layer = {
        "head_size": own,
        "cache_config": SimpleNamespace(
            block_size=128,
            cache_dtype="auto",
            sliding_window=None,
            user_specified_block_size=False,
        ),
        "per_layer_sliding_window": None,
        "extra_impl_args": {},
        "attn_type": AttentionType.DECODER,
    }
    config = SimpleNamespace(model_config=SimpleNamespace(is_mm_prefix_lm=False))
    with set_current_vllm_config(VllmConfig()):
        assert worker_patch._widened(config, layer) == width


def test_half_precision_is_as_near_to_hf_ctx_as_unsteered(hf, questions):
    """What bfloat16 rounds is the model's; the bias adds nothing to it."""
    import torch

    half = start(steerable=True, dtype="bfloat16")
    [width] = half.get_model_info()["ctx"]["widened_head_size"]
    assert width == (96 if torch.cpu._is_amx_tile_supported() else 80)
    texts, answers = questions[::3], ["The", "The best ware of Shire", "No\n"] * 5 + ["The", "A"]
    apart = {}
    for name, arm in (("plain", {}), ("steered", {"alpha": 0.1})):
        ours = log_likelihoods(put(half, **arm), texts, answers)
        theirs = log_likelihoods(put(hf, **arm), texts, answers)
        apart[name] = max(abs(a - b) for (a, _), (b, _) in zip(ours, theirs, strict=True))
    assert apart["plain"] > 1e-3
    assert apart["steered"] < 2 * apart["plain"]
    moved = [
        a - b for (a, _), (b, _) in zip(ours, log_likelihoods(put(hf), texts, answers), strict=True)
    ]
    assert max(map(abs, moved)) > 4 * apart["steered"]


def test_a_graph_compiled_for_heads_of_another_width_is_not_taken(engine, monkeypatch):
    """Processors with and without AMX may share the folder where vLLM keeps its graphs."""
    config = engine.model.llm_engine.vllm_config
    widened, before = config.additional_config["ctx_widened"], config.compute_hash()
    assert widened == {"64": 80}
    monkeypatch.setitem(widened, "64", 96)
    assert config.compute_hash() != before
