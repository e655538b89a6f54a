"""Attention steering (eq. 1 of the paper): the user's tokens keep their weight, all others shrink.

On every layer the attention on a key outside the user's tokens is multiplied by alpha and the row
is renormalised, which is the same as adding log(alpha) to that key's logit. Paper:
arXiv 2411.02688, section 4.1, after PASTA (https://openreview.net/forum?id=xZDWO0oejD).

The authors' released code differs (schedule "compound", `steer_generated=False`): one mask is
shared by all layers and edited in place, so that layer k multiplies by alpha ** (k + 1), and tokens
generated after the prompt keep weight 1. Use these two to compare with the paper's Table 2.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import PreTrainedModel

from ctx_tasks.arm import Schedule
from ctx_tasks.errors import UserError

from .attention import Intervention, intervening, require_softmax_attention


@dataclass(frozen=True)
class Steering:
    """How strongly, where, and on which keys attention is steered.

    Args:
        alpha: weight of a key outside the user's tokens, in (0, 1]; 1 leaves the model alone.
        schedule: "constant" multiplies by alpha on every layer (eq. 1), "compound" by
            alpha ** (layer + 1) (the released code).
        steer_generated: whether tokens generated after the prompt are down-weighted (the paper) or
            keep weight 1 (the released code).
        layers: layer indices to steer, from 0; None for all.
        heads: layer index -> query heads to steer; None for all heads of `layers`.

    Raises:
        UserError: a value out of range (layers and heads are checked against the model later).
    """

    alpha: float = 1.0
    schedule: Schedule = "constant"
    steer_generated: bool = True
    layers: tuple[int, ...] | None = None
    heads: Mapping[int, tuple[int, ...]] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise UserError(
                f"alpha={self.alpha} is not allowed: choose a number above 0 and at most 1 "
                "(1 is off; the paper uses 0.9)."
            )
        if self.schedule not in get_args(Schedule):
            raise UserError(
                f"schedule={self.schedule!r} is not allowed: choose one of "
                f"{', '.join(get_args(Schedule))}."
            )
        if self.layers is not None and self.heads is not None:
            raise UserError("Give layers or heads, not both: heads already names its layers.")

    @property
    def active(self) -> bool:
        """Whether this changes the model at all."""
        return self.alpha < 1

    def biases(self, layer_count: int, head_count: int) -> dict[int, torch.Tensor]:
        """Logit bias of each steered layer's heads: layer -> float32 [head_count].

        Raises:
            UserError: a layer or head the model does not have.
        """
        chosen = self._heads_by_layer(layer_count, head_count)
        biases = {}
        for layer, heads in chosen.items():
            depth = layer + 1 if self.schedule == "compound" else 1
            biases[layer] = torch.zeros(head_count)
            biases[layer][list(heads)] = depth * math.log(self.alpha)
        return biases

    def _heads_by_layer(self, layer_count: int, head_count: int) -> dict[int, Sequence[int]]:
        if self.heads is not None:
            chosen: dict[int, Sequence[int]] = dict(self.heads)
        else:
            layers = range(layer_count) if self.layers is None else self.layers
            chosen = {layer: range(head_count) for layer in layers}
        _check_range("layers", list(chosen), layer_count)
        for layer, heads in chosen.items():
            _check_range(f"heads of layer {layer}", list(heads), head_count)
        return chosen

    def record(self) -> dict[str, Any]:
        """The settings as plain JSON values, for result files and fingerprints."""
        values = asdict(self)
        values["layers"] = None if self.layers is None else list(self.layers)
        values["heads"] = (
            None if self.heads is None else {str(k): list(v) for k, v in self.heads.items()}
        )
        return values


def _check_range(what: str, indices: Sequence[int], count: int) -> None:
    wrong = [index for index in indices if not 0 <= index < count]
    if wrong:
        raise UserError(
            f"{what}={wrong} is out of range: this model has {count}, numbered 0 to {count - 1}."
        )


def read_heads(path: str | Path) -> dict[int, tuple[int, ...]]:
    """Read a PASTA-style head list, JSON `{"layer": [heads, ...], ...}`.

    Raises:
        UserError: the file is missing or holds something else.
    """
    try:
        loaded = json.loads(Path(path).read_text(encoding="utf-8"))
        return {int(layer): tuple(int(head) for head in heads) for layer, heads in loaded.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"heads={path} could not be read ({error}); give a JSON file like "
            '{"12": [0, 5], "13": [7]} (layer: heads).'
        ) from error


@contextmanager
def steer(
    model: PreTrainedModel,
    user_mask: torch.Tensor,
    *,
    alpha: float,
    schedule: Schedule = "constant",
    steer_generated: bool = True,
    layers: Sequence[int] | None = None,
    heads: Mapping[int, Sequence[int]] | None = None,
) -> Iterator[None]:
    """Steer `model` towards the user's tokens while the context is open.

    Inside it `model(**inputs)` and `model.generate(**inputs)` are steered (cache, beams, sampling
    and padding included), whatever attention implementation the model was loaded with; that one is
    back on exit. alpha = 1 changes nothing, to the bit.

    Args:
        model: a decoder-only transformers model whose layers all have softmax attention; quantised
            weights and PEFT adapters are fine.
        user_mask: bool [batch, prompt tokens], aligned with `input_ids` (padding included), True
            on the tokens that keep their weight.
        alpha, schedule, steer_generated, layers, heads: see `Steering`.

    Raises:
        UserError: settings out of range, a model that cannot be steered, a misaligned mask.
        RuntimeError: the model is steered already (nested or concurrent use).

    Example:
        >>> with steer(model, user_mask, alpha=0.9):
        ...     output = model.generate(**inputs, max_new_tokens=50)
    """
    settings = Steering(
        alpha,
        schedule,
        steer_generated,
        None if layers is None else tuple(layers),
        None if heads is None else {layer: tuple(of) for layer, of in heads.items()},
    )
    if not settings.active:
        yield
        return
    require_softmax_attention(model)
    config = model.config.get_text_config()
    biases = settings.biases(config.num_hidden_layers, config.num_attention_heads)
    intervention = Intervention(user_mask.bool(), biases, steer_generated)
    with intervening(model, intervention):
        yield
