"""What steering costs: hf on SDPA, hf-ctx at alpha 0.9, and the usual eager hook.

    python -m tests.benchmarks.steering             # prefill and decode, time and memory
    python -m tests.benchmarks.steering --whole-run # alpha = 1 against hf over whole lm_eval runs

A random model of TinyLlama's shape with 8 of its 22 layers; a prompt of 2048 tokens, 50 new ones,
float32 on a CPU (bfloat16 and 8192 tokens on a GPU). Runs are interleaved and the medians compared,
because the machine is noisy; peak memory is the growth of the resident set in a process of its own
(read as Linux tells it). Exits with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ctx_models.steering import steer
from tests import tiny

ALPHA = 0.9
NEW_TOKENS = 50
CUDA = torch.cuda.is_available()
TOKENS = 8192 if CUDA else 2048
# (measure, ratio of ours to hf at most, or eager to ours at least)
TARGETS = {"prefill": 1.10, "decode": 1.10, "eager prefill": 1.7, "memory": 0.05}


def build(layers: int = 8) -> PreTrainedModel:
    """TinyLlama-1.1B's shape with fewer layers and random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=TOKENS + NEW_TOKENS,
    )
    model = LlamaForCausalLM(config).eval()
    return model.to("cuda", torch.bfloat16) if CUDA else model


def prompt(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and user mask [1, TOKENS]: all but ten tokens at each end are the user's."""
    ids = torch.randint(3, 32000, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    user = torch.ones(1, TOKENS, dtype=torch.bool)
    user[:, :10] = user[:, -10:] = False
    return ids.to(model.device), user.to(model.device)


@contextmanager
def plain(model: PreTrainedModel, user: torch.Tensor) -> Iterator[None]:
    """hf as it is, on SDPA."""
    model.set_attn_implementation("sdpa")
    yield


@contextmanager
def ours(model: PreTrainedModel, user: torch.Tensor) -> Iterator[None]:
    """hf-ctx at alpha 0.9."""
    model.set_attn_implementation("sdpa")
    with steer(model, user, alpha=ALPHA):
        yield


@contextmanager
def eager_hook(model: PreTrainedModel, user: torch.Tensor) -> Iterator[None]:
    """The usual way: eager attention, and a hook on every layer that adds to its mask."""
    model.set_attn_implementation("eager")

    def add_bias(module, args, kwargs):
        mask = kwargs["attention_mask"].clone()
        outside = torch.ones(mask.shape[-1], dtype=torch.bool, device=mask.device)
        outside[: user.shape[1]] = ~user[0]
        mask[..., outside] += math.log(ALPHA)
        return args, {**kwargs, "attention_mask": mask}

    hooks = [
        layer.self_attn.register_forward_pre_hook(add_bias, with_kwargs=True)
        for layer in model.model.layers
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


ARMS: dict[str, Callable] = {"hf": plain, "hf-ctx": ours, "eager hook": eager_hook}


def seconds(function: Callable[[], object]) -> tuple[float, object]:
    if CUDA:
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = function()
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


@torch.no_grad()
def measure(model: PreTrainedModel, arm: str) -> tuple[float, float]:
    """Seconds of the prefill, and of one decode step."""
    ids, user = prompt(model)
    with ARMS[arm](model, user):
        cached = {tiny.cache_names()[0]: DynamicCache(config=model.config), "logits_to_keep": 1}
        prefill, output = seconds(lambda: model(input_ids=ids, use_cache=True, **cached))
        token = output.logits[:, -1:].argmax(-1)

        def decode() -> None:
            nonlocal token
            for _ in range(NEW_TOKENS):
                step = model(input_ids=token, **cached)
                token = step.logits.argmax(-1)

        return prefill, seconds(decode)[0] / NEW_TOKENS


def extra_memory(arm: str) -> float:
    """MiB that prefill and decode add to the resident set (or to CUDA's peak), in a new process."""
    command = [sys.executable, "-m", "tests.benchmarks.steering", "--memory-of", arm]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(arm: str) -> None:
    model = build()
    reset_peak()
    before = torch.cuda.memory_allocated() / 2**20 if CUDA else peak_rss()
    measure(model, arm)
    after = torch.cuda.max_memory_allocated() / 2**20 if CUDA else peak_rss()
    print(after - before)


def reset_peak() -> None:
    """Forget the peak of building the model: Linux sets VmHWM back to the present size."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_rss() -> float:
    [line] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024


def compare(rounds: int) -> bool:
    """Print the table; return whether every target is met."""
    model = build()
    times: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    measure(model, "hf")  # warm up
    for _ in range(rounds):
        for arm in ARMS:
            times[arm].append(measure(model, arm))
    del model
    memory = {arm: extra_memory(arm) for arm in ARMS}
    medians = {
        arm: [statistics.median(column) for column in zip(*rows, strict=True)]
        for arm, rows in times.items()
    }
    print(f"{TOKENS} + {NEW_TOKENS} tokens, {rounds} rounds, torch {torch.__version__}")
    print(f"{'':12}{'prefill':>16}{'decode step':>18}{'extra memory':>18}")
    for arm, (prefill, decode) in medians.items():
        print(
            f"{arm:12}{prefill:8.2f} s {ratio(prefill, medians['hf'][0])}"
            f"{decode * 1000:9.1f} ms {ratio(decode, medians['hf'][1])}{memory[arm]:13.0f} MiB"
        )
    return report(paired(times), memory)


def ratio(value: float, base: float) -> str:
    return f"({value / base:.2f})"


def paired(times: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Median over rounds of the ratios within a round."""

    def of(top: str, bottom: str, column: int) -> float:
        pairs = zip(times[top], times[bottom], strict=True)
        return statistics.median(a[column] / b[column] for a, b in pairs)

    return {
        "prefill": of("hf-ctx", "hf", 0),
        "decode": of("hf-ctx", "hf", 1),
        "eager prefill": of("eager hook", "hf-ctx", 0),
    }


def report(ratios: dict[str, float], memory: dict[str, float]) -> bool:
    """Print measured ratios beside their targets."""
    beyond_hf = max(memory["hf-ctx"] - memory["hf"], 0)
    ratios["memory"] = beyond_hf / (memory["eager hook"] - memory["hf"])
    met = True
    for name, value in ratios.items():
        good = value >= TARGETS[name] if name == "eager prefill" else value <= TARGETS[name]
        sign = ">=" if name == "eager prefill" else "<="
        print(f"{name:14} {value:.3f}  target {sign} {TARGETS[name]}  {'ok' if good else 'MISSED'}")
        met &= good
    return met


def whole_run(rounds: int) -> bool:
    """alpha = 1 through hf-ctx against hf: whole lm_eval runs on a small model."""
    from lm_eval import simple_evaluate

    from ctx_models.registry import register_model
    from tests import tiny
    from tests.ctx_models.test_lm import TASKS

    register_model()
    with tempfile.TemporaryDirectory() as folder:
        tiny.tokenizer().save_pretrained(folder)
        tiny.model(hidden_size=512, num_hidden_layers=8, intermediate_size=1024).save_pretrained(
            folder
        )

        def evaluate(model: str) -> float:
            return seconds(
                lambda: simple_evaluate(
                    model=model,
                    model_args={"pretrained": folder},
                    tasks=["toy_generate"],
                    task_manager=TASKS,
                    device="cpu",
                    apply_chat_template=True,
                    gen_kwargs={"max_gen_toks": 100},
                    bootstrap_iters=0,
                )
            )[0]

        evaluate("hf")
        pairs = [(evaluate("hf-ctx"), evaluate("hf")) for _ in range(rounds)]
    value = statistics.median(ours for ours, _ in pairs) / statistics.median(hf for _, hf in pairs)
    print(f"whole lm_eval run at alpha = 1, {rounds} rounds: {value:.3f} x hf, target <= 1.02")
    return value <= 1.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--whole-run", action="store_true")
    parser.add_argument("--memory-of", choices=ARMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print_memory(arguments.memory_of)
        return 0
    met = whole_run(arguments.rounds) if arguments.whole_run else compare(arguments.rounds)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
