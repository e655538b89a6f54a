"""`[IND]` and the pad token in a model: rows that start at the mean and, under LoRA, train alone.

Appendix of arXiv 2411.02688: both tokens are added and their embedding rows start at the mean of
the old ones. Divergence from the released code: there the `[IND]` row of a QLoRA run stays at that
mean, because nothing trains the embedding; here `trainable_token_indices` trains exactly the new
rows of the input and of the output embedding, a few kilobytes instead of both matrices.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn

from ctx_models.indicator import add_indicator
from ctx_tasks.errors import UserError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What `add_tokens` did: ids below `known` were there before; `new` start at the mean.

    `trained` are the rows LoRA trains: the new ones, and the indicator's where it was there before.
    """

    known: int
    new: list[int]
    trained: list[int]


def add_tokens(tokenizer: Any, *, indicator: str | None, pad_token: str) -> Vocabulary:
    """Adds the indicator, and a pad token where the tokenizer has none, each once and as one token.

    Changes `tokenizer` in place; a second call adds nothing.
    """
    known = len(tokenizer)
    if tokenizer.pad_token is None:
        token = AddedToken(pad_token, special=True, normalized=False)
        tokenizer.add_special_tokens({"pad_token": token})
    trained = set(range(known, len(tokenizer)))
    if indicator is not None:
        trained.add(add_indicator(tokenizer, indicator))
    return Vocabulary(known, list(range(known, len(tokenizer))), sorted(trained))


def fit_embeddings(model: Any, tokenizer: Any, vocabulary: Vocabulary) -> None:
    """Gives `model` a row for every token; the new rows are the mean of the tokenizer's old rows.

    Some models have more rows than their tokenizer has tokens: they are not resized, and their
    unused rows do not count in the mean.
    """
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        _start_at_mean(module.weight, vocabulary)
        if getattr(module, "bias", None) is not None:
            _start_at_mean(module.bias, vocabulary)


@torch.no_grad()
def _start_at_mean(rows: torch.Tensor, vocabulary: Vocabulary) -> None:
    if vocabulary.new:
        rows[vocabulary.new] = rows[: vocabulary.known].float().mean(0).to(rows.dtype)


def trainable_rows(model: Any, vocabulary: Vocabulary) -> dict[str, list[int]] | None:
    """`LoraConfig.trainable_token_indices` for this model: embedding module name -> row indices.

    Tied embeddings are named once; PEFT then keeps the output in step with the input.

    Raises:
        UserError: an output embedding with a bias, which PEFT's token rows leave out.
    """
    if not vocabulary.trained:
        return None
    source, head = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise UserError(
            f"{type(model).__name__} has an output embedding with a bias, which LoRA cannot train "
            f"for the new tokens {vocabulary.trained}: fine-tune in full (`lora=null`)."
        )
    modules = [source] if head.weight is source.weight else [source, head]
    names = {module: name for name, module in model.named_modules()}
    return {names[module]: vocabulary.trained for module in modules}


def expose_bias(model: Any) -> None:
    """Lets TRL's fused loss read `lm_head.bias` through PEFT's wrapper of the output embedding.

    TRL 1.16 asks the output embedding for `weight` and `bias`; the wrapper of PEFT 0.21 answers for
    `weight` alone. `trainable_rows` has made sure that there is no bias.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) and "bias" not in head._parameters:
        head.register_parameter("bias", None)
