"""Pretrain `nano-base`: from copying short random text to reading the world's documents.

One pass of stages, short sequences first; every batch has the same number of tokens. A stage names
its sequence length, its tokens, and the share of sequences that are nothing but random copying.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ctx_tasks.files import move_into, whole_file
from training.nano import model as shape
from training.nano import tokenizer as vocabulary
from training.nano.corpus import Corpus, Rows
from training.nano.world import World

BATCH_TOKENS = 4608
PEAK_RATE = 2e-3
LAST_RATE = 1e-4
WARM_UP = 50


@dataclass(frozen=True)
class Stage:
    """`tokens` (millions) of sequences of `length` tokens, the share `copying` of them random."""

    length: int
    tokens: float
    copying: float


STAGES = (
    Stage(128, 0.5, 1.0),
    Stage(256, 0.9, 0.4),
    Stage(512, 1.6, 0.2),
    Stage(1152, 1.8, 0.12),
)
# A second pass at half the rate, after RoPE is stretched: what is far away takes longest to learn.
SECOND_PASS = (Stage(1152, 1.6, 0.1),)


def make_base(folder: Path, *, seed: int = 0, checkpoint: Path | None = None) -> None:
    """Make world, tokenizer and `nano-base` from `seed` and write the model into `folder`.

    Bit for bit repeatable on one machine with one number of torch threads.
    """
    world = World(seed)
    tokenizer = vocabulary.train(world, seed)
    corpus = Corpus(world, tokenizer)
    model = pretrain(corpus, seed=seed, checkpoint=checkpoint)
    model = pretrain(
        corpus,
        seed=seed + 1,
        stages=SECOND_PASS,
        peak=PEAK_RATE / 2,
        start=shape.stretch(model),
        checkpoint=checkpoint,
    )
    save(model, tokenizer, folder)


def pretrain(
    corpus: Corpus,
    *,
    seed: int = 0,
    stages: tuple[Stage, ...] = STAGES,
    peak: float = PEAK_RATE,
    checkpoint: Path | None = None,
    start: LlamaForCausalLM | None = None,
) -> LlamaForCausalLM:
    """Train a model on `corpus` through `stages`.

    Args:
        corpus: draws the batches.
        seed: of the starting weights and of every batch.
        stages: what is trained on, in order; the learning rate is one cosine over all of them.
        peak: the highest learning rate.
        checkpoint: a folder where weights and loss are kept every few minutes; None for none.
        start: weights to go on from, instead of new ones.
    """
    model = start or shape.build(seed)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.0)
    lengths = [s for s in stages for _ in range(round(s.tokens * 1e6 / BATCH_TOKENS))]
    saved = time.monotonic()
    progress = tqdm(lengths, desc="pretraining nano-base", unit="batch", mininterval=20)
    for step, stage in enumerate(progress):
        rng = Random(f"nano pretraining {seed} {step}")
        rows = corpus.rows(rng, BATCH_TOKENS // stage.length, stage.length, stage.copying)
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, len(lengths), peak)
        loss = weighted_loss(model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            progress.write(json.dumps({"step": step, "length": stage.length, "loss": loss.item()}))
        if checkpoint and time.monotonic() - saved > 180:
            save_weights(model, checkpoint)
            saved = time.monotonic()
    return model.eval()


def weighted_loss(model: LlamaForCausalLM, rows: Rows) -> torch.Tensor:
    """Mean cross-entropy of the next token over the tokens with a weight, by that weight."""
    ids = torch.from_numpy(rows.ids)
    weights = torch.from_numpy(rows.weights)[:, 1:]
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    read = weights > 0
    losses = torch.nn.functional.cross_entropy(
        model.lm_head(hidden[read]), ids[:, 1:][read], reduction="none"
    )
    return (losses * weights[read]).sum() / weights[read].sum()


def save_weights(model: LlamaForCausalLM, folder: Path) -> None:
    """Write the weights as a checkpoint."""
    with whole_file(folder / "weights.pt") as partial:
        torch.save(model.state_dict(), partial)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model (16-bit safetensors) and tokenizer into `folder`, every file complete or not.

    The configuration names float32: half the disk, but loaded and computed in full precision.
    """
    half = copy.deepcopy(model)
    torch.nn.Module.to(half, torch.float16)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as temporary:
        half.save_pretrained(temporary)
        half.config.dtype = torch.float32
        half.config.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for path in Path(temporary).iterdir():
            path.chmod(0o644)
        move_into(folder, Path(temporary))


def _rate(step: int, steps: int, peak: float) -> float:
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    share = (step - WARM_UP) / max(1, steps - WARM_UP)
    return LAST_RATE + (peak - LAST_RATE) * (1 + math.cos(math.pi * share)) / 2
