"""`hf`, `hf-ctx`, `vllm` and `vllm-ctx` on the same prompts: long documents, and short questions.

Run: `PYTHONPATH=. python tests/benchmarks/engines.py [--model FOLDER] [--needles 100]
[--questions 200] [--length 2000]`, where vLLM is installed (`.ci/vllm` makes such a venv).

Each model runs in a process of its own. Without --model a random model of SmolLM2-135M's shape with
the bundled tokenizer, whose answers never end by themselves: all have the same work. "hf one" is
`hf` at the harness's default, one prompt after another. Peak memory is that of the process and its
children; on a GPU vLLM takes what it is given. On a CPU vLLM asks for tcmalloc (Debian:
libtcmalloc-minimal4): LD_PRELOAD=libtcmalloc_minimal.so.4 before the command gives it to all sides.
VLLM_CPU_KVCACHE_SPACE=8 holds the keys of all prompts, also of wider heads: with less, some wait.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KINDS = {"hf one": 1.0, "hf": 1.0, "hf-ctx": 0.9, "vllm": 1.0, "vllm-ctx": 0.9}
TARGETS = (("vllm-ctx", "vllm", 1.10), ("vllm-ctx", "hf", 0.5), ("vllm-ctx", "hf one", 0.5))
BATCH = 8


def chats(needles: int, questions: int, length: int) -> list[str]:
    """Documents of up to about `length` tokens, and questions of thirty words, mixed."""
    draw = random.Random("engines")

    def words(count: int) -> str:
        return " ".join(draw.choice(["mill", "keeper", "bridge", "lamp"]) for _ in range(count))

    long = [words(length * (one + 1) // (2 * needles)) for one in range(needles)]
    found = [*long, *(words(30) for _ in range(questions))]
    draw.shuffle(found)
    return found


def load(args: argparse.Namespace) -> Any:
    """One of the models."""
    kind, shared = args.kind, {"dtype": args.dtype, "max_length": args.length + 256}
    if kind.startswith("hf"):
        from lm_eval.models.huggingface import HFLM

        from ctx_models.lm import CtxLM

        shared |= {"batch_size": 1 if kind == "hf one" else BATCH, "device": args.device}
        if kind in ("hf", "hf one"):
            return HFLM(args.model, **shared)
        return CtxLM(args.model, alpha=KINDS[kind], **shared)
    from lm_eval.models.vllm_causallms import VLLM

    from ctx_models.engine.lm import CtxVLLM

    shared |= {"batch_size": "auto", "enforce_eager": args.eager}
    if kind == "vllm":
        return VLLM(args.model, **shared)
    return CtxVLLM(args.model, alpha=KINDS[kind], **shared)


def cache_bytes(model: Any, args: argparse.Namespace) -> int:
    """Bytes that the keys and values of a token take."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(args.model)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if args.kind == "vllm-ctx":
        [width] = model.get_model_info()["ctx"]["widened_head_size"]
    number = {"float32": 4}.get(args.dtype, 2)
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * width * number)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds, tokens a second, peak memory and cache of one model."""
    from lm_eval.api.instance import Instance

    model = load(args)
    settings = {"until": [], "max_gen_toks": args.tokens, "do_sample": False}
    asked = [
        Instance("generate_until", {}, (model.apply_chat_template([message]), settings), place)
        for place, message in enumerate(
            {"role": "user", "content": text}
            for text in chats(args.needles, args.questions, args.length)
        )
    ]
    model.generate_until(asked[:2], disable_tqdm=True)
    start = time.perf_counter()
    answers = model.generate_until(asked[2:], disable_tqdm=True)
    seconds = time.perf_counter() - start
    texts = [*(one.args[0] for one in asked[2:]), *answers]
    tokens = sum(len(model.tokenizer(text).input_ids) for text in texts)
    peak = sum(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {
        "seconds": seconds,
        "tokens": tokens / seconds,
        "peak MiB": peak / 1024,
        "KV bytes": cache_bytes(model, args),
    }


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--needles", type=int, default=100)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--length", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--eager", action="store_true", help="no compiled graphs in vLLM")
    parser.add_argument("--kind", choices=KINDS, help="of the process that runs one model")
    parser.add_argument("--file", type=Path)
    return parser.parse_args()


def apart(kind: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What a process of its own measures."""
    file = folder / f"{kind}.json"
    given = vars(args) | {"kind": kind, "file": file}
    flags = [f"--{name}={value}" for name, value in given.items() if name != "eager" and value]
    command = [sys.executable, __file__, *flags, *(["--eager"] if args.eager else [])]
    subprocess.run(command, check=True, env={**os.environ, "VLLM_LOGGING_LEVEL": "WARNING"})
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def main() -> None:
    """Measure all one after another, and compare."""
    args = arguments()
    if args.kind:
        args.file.write_text(json.dumps(measure(args)))
        return
    from tests.benchmarks.batches import smollm2_shape

    with tempfile.TemporaryDirectory() as temporary:
        args.model = args.model or smollm2_shape(Path(temporary))
        found = {kind: apart(kind, args, Path(temporary)) for kind in KINDS}
    print(
        f"{args.needles} documents up to {args.length} tokens, {args.questions} questions, ", end=""
    )
    print(
        f"{args.tokens} tokens each, {args.dtype}, {args.device}, batches of {BATCH} in hf, hf-ctx"
    )
    print(f"{'':10}" + "".join(f"{name:>12}" for name in next(iter(found.values()))))
    for kind, numbers in found.items():
        print(f"{kind:10}" + "".join(f"{value:12.1f}" for value in numbers.values()))
    for one, other, target in TARGETS:
        ratio = found[one]["seconds"] / found[other]["seconds"]
        verdict = "ok" if ratio <= target else "missed"
        print(f"{one} / {other}: {ratio:.2f}, target <= {target:.2f}  {verdict}")


if __name__ == "__main__":
    main()
