"""`python -m tests.training.tuning.load_adapter BASE ADAPTER OUT PROMPT`: what is loaded again.

A process of its own, loading as `ctx-eval run` does: nothing of the training is in memory. Writes
both embeddings as they act and the logits of PROMPT, with the indicator, to the file OUT.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from safetensors.torch import save_file


def with_hf_ctx(base: str, adapter: str, prompt: str) -> tuple[Any, list[int]]:
    from ctx_models.lm import CtxLM

    lm = CtxLM(
        pretrained=base,
        peft=adapter,
        indicator="[IND]",
        device="cpu",
        dtype="float32",
        batch_size=1,
    )
    text = lm.apply_chat_template([{"role": "user", "content": prompt}])
    return lm.model, lm.tok_encode(str(text))


def main(base: str, adapter: str, out: str, prompt: str) -> None:
    model, ids = with_hf_ctx(base, adapter, prompt)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    tensors = {
        "input": model.get_input_embeddings().weight,
        "output": model.get_output_embeddings().weight,
        "ids": torch.tensor(ids),
        "logits": logits,
    }
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
