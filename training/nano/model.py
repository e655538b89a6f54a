"""The shape of the nano models and their starting weights.

A Llama of about one million parameters learns to copy from its context only after millions of
tokens when it starts from noise. It starts here from the circuit that copying needs (an induction
head, Olsson et al. 2022, arXiv 2209.11895), laid out roughly and in noise: two heads of the first
layer look one and two tokens back, the heads of the next look for the same two tokens earlier in
the text and repeat what followed. The idea is that of mimetic initialisation (Trockman and Kolter
2023, arXiv 2305.09828); training does the rest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

VOCABULARY = 2048
WIDTH = 128
LAYERS = 3
HEADS = 4
HEAD_WIDTH = 64
WINDOW = 1280
# The base of RoPE while the model learns to copy, and the larger one it then goes on with.
ROPE_THETA = 1e6
FINAL_ROPE_THETA = 1e7
INITIAL_SCALE = 0.08
# Of the circuit, found by measuring its attention before any training (see README.md): how sharply
# a head looks back, how loudly it writes what it found, how strongly the last token and the one
# before it count in a match, how loudly the copy is written, and what the noise is scaled by.
LOOK = 1.3
WRITE = 0.15
MATCH = (1.7, 1.1)
COPY = 0.3
QUIET = 0.1


def config(rope_theta: float = FINAL_ROPE_THETA) -> LlamaConfig:
    """Return the Llama configuration of every nano model (tied embeddings, window in tokens)."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD_WIDTH,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=True,
        initializer_range=INITIAL_SCALE,
        # the first special tokens of tokenizer.py
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )


def build(seed: int, *, circuit: bool = True) -> LlamaForCausalLM:
    """Return a model with starting weights drawn from `seed`, with or without the copy circuit."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(ROPE_THETA))
    if circuit:
        lay_copy_circuit(model, torch.Generator().manual_seed(seed))
    return model


def stretch(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Return the same weights under `FINAL_ROPE_THETA`.

    Channels that compare content turn less, so that what they match over 500 tokens they also match
    over 1000; the fast channels, which count single tokens back, hardly change.
    """
    stretched = LlamaForCausalLM(config(FINAL_ROPE_THETA))
    stretched.load_state_dict(model.state_dict())
    return stretched


@torch.no_grad()
def lay_copy_circuit(model: LlamaForCausalLM, generator: torch.Generator) -> None:
    """Write look-back heads into layer 0 and matching, copying heads into layer 1, in place.

    Channels: 0 is the same for all tokens (what a head that looks at positions only holds on to),
    1-63 hold the token, 64-95 the token before it, 96-127 the one before that.
    """
    embedding = model.model.embed_tokens.weight
    embedding[:, 0] = 0.5
    embedding[:, 1:64] *= math.sqrt(2)
    embedding[:, 64:] *= QUIET
    for layer in model.model.layers:
        # noise as strong as the circuit would drown it
        layer.mlp.down_proj.weight *= QUIET
        layer.self_attn.o_proj.weight *= QUIET
    for head, channels in enumerate((slice(64, 96), slice(96, 128))):
        _look_back(model.model.layers[0].self_attn, head, head + 1, channels)
    for head in range(HEADS):
        _match_and_copy(model.model.layers[1].self_attn, head, generator)


def _frequencies() -> Tensor:
    return ROPE_THETA ** (-torch.arange(HEAD_WIDTH // 2) / (HEAD_WIDTH // 2))


def _look_back(attention: LlamaAttention, head: int, distance: int, channels: slice) -> None:
    """Make `head` attend `distance` tokens back and write half of what it finds to `channels`."""
    rows = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
    half = HEAD_WIDTH // 2
    strength = LOOK * (torch.arange(half) < 16).float()
    angle = _frequencies() * distance
    for weight in (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight):
        weight[rows] = 0.0
    attention.q_proj.weight[rows, 0] = torch.cat([strength, 0 * strength])
    # rotated by +distance, the key of the token `distance` back meets the query in phase
    phases = torch.cat([torch.cos(angle), torch.sin(angle)])
    attention.k_proj.weight[rows, 0] = strength.repeat(2) * phases
    attention.v_proj.weight[rows, 1:33] = torch.eye(HEAD_WIDTH, 32)
    attention.o_proj.weight[:, rows] = 0.0
    attention.o_proj.weight[channels, rows] = WRITE * torch.eye(32, HEAD_WIDTH)


def _match_and_copy(attention: LlamaAttention, head: int, generator: torch.Generator) -> None:
    """Make `head` find where the last two tokens occurred before and repeat what followed."""
    rows = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
    # Slowly turning channels alone: the match must hold at any distance inside the window.
    slow = (_frequencies() * WINDOW < 1.5).repeat(2).nonzero().squeeze(1)[:32] + rows.start
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query[rows], key[rows] = 0.0, 0.0
    for strength, now, before in zip(
        MATCH,
        (slice(1, 33), slice(64, 96)),
        (slice(64, 96), slice(96, 128)),
        strict=True,
    ):
        rotation = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q[: len(slow)]
        query[slow, now] += strength * rotation
        key[slow, before] += strength * rotation
    attention.v_proj.weight[rows] = torch.eye(HEAD_WIDTH, WIDTH)
    attention.v_proj.weight[rows, 0] = 0.0
    attention.o_proj.weight[:, rows] = COPY * torch.eye(WIDTH, HEAD_WIDTH)
