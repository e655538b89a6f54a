"""The attention mass on segments or on keys, measured in the pass that computes the attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from ctx_models.spans import Segment
from ctx_tasks.errors import UserError

from .intervention import Intervention, MassRequest, active_intervention, intervening
from .paths import Call, blockwise, run, weights


class EnoughLayers(Exception):
    """Ends a forward pass once the last requested layer has been measured."""


def measure(call: Call, request: MassRequest, layer: int) -> torch.Tensor:
    """Attention output of a measured layer; its mass goes to `request.found[layer]`.

    Measured in float32 whatever the model's dtype: a mass is a sum of thousands of weights.
    """
    measured = Call(**vars(call))
    measured.query, measured.key = call.query.float(), call.key.float()
    output = None
    if request.last_tokens is not None:
        measured.query = measured.query[:, :, -request.last_tokens :]
        measured.mask = call.mask.last_rows(request.last_tokens)
    if request.segments is None:
        request.found[layer] = weights(measured, 0, measured.query.shape[2]).mean(dim=1)
    elif request.last_tokens is not None:
        measured.value = _columns(call, request.segments)
        request.found[layer] = blockwise(measured)
    else:
        columns = _columns(call, request.segments)
        measured.value = torch.cat([call.value.float(), columns], dim=-1)
        joined = run(measured, set())
        output, request.found[layer] = joined.split([call.value.shape[-1], len(Segment)], dim=-1)
    if len(request.found) == len(request.layers):
        raise EnoughLayers
    return run(call, set()) if output is None else output.to(call.value.dtype)


def _columns(call: Call, segments: torch.Tensor) -> torch.Tensor:
    """1 where a key is of a segment: float32 [batch, key heads, keys, len(Segment)]."""
    indicator = functional.one_hot(segments.to(call.query.device).long(), len(Segment))
    if call.keys.padded is not None:
        indicator = indicator * ~call.keys.padded[..., None]
    return indicator[:, None].expand(-1, call.key.shape[1], -1, -1).float()


@torch.no_grad()
def segment_mass(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    segments: torch.Tensor,
    *,
    layers: Sequence[int],
    attention_mask: torch.Tensor | None = None,
    last_tokens: int | None = None,
) -> torch.Tensor:
    """Attention of each query token on each segment (the inner sum of eq. 2, for every segment).

    Runs the layers up to the last one named and no LM head. Inside `steer` the mass is that of the
    steered attention.

    Args:
        model: a causal language model, on any device, in any dtype.
        input_ids: int [batch, tokens].
        segments: int [batch, tokens], values of `Segment`; padding may hold any of them.
        layers: layer indices, from 0.
        attention_mask: int or bool [batch, tokens], 0 on padding.
        last_tokens: measure only that many last query rows (the others cost nothing extra).

    Returns:
        float32 [batch, layers, heads, tokens (or last_tokens), len(Segment)]. Rows sum to 1, less
        what an attention sink takes; rows of padding tokens mean nothing.

    Raises:
        UserError: a layer out of range, or shapes that do not fit.
    """
    _check_layers(model, layers)
    if segments.shape != input_ids.shape:
        raise UserError(
            f"segments has shape {tuple(segments.shape)} but input_ids {tuple(input_ids.shape)}; "
            "they must be equal."
        )
    request = MassRequest(frozenset(layers), segments, last_tokens)
    return _measured(model, request, layers, input_ids, attention_mask)


@torch.no_grad()
def key_mass(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    *,
    layers: Sequence[int],
    last_tokens: int,
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of the last query tokens on each key, the mean over heads; as `segment_mass` else.

    One more row of weights a query and head, one layer at a time; never tokens x tokens.

    Returns:
        float32 [batch, layers, last_tokens, tokens]. Rows sum to 1, less what an attention sink
        takes; rows of padding tokens mean nothing.

    Raises:
        UserError: a layer out of range.
    """
    _check_layers(model, layers)
    request = MassRequest(frozenset(layers), None, last_tokens)
    return _measured(model, request, layers, input_ids, attention_mask)


def _measured(
    model: PreTrainedModel,
    request: MassRequest,
    layers: Sequence[int],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
) -> torch.Tensor:
    """What a request finds, [batch, layers, ...]."""
    running = active_intervention(model)
    if running is not None:
        _forward(model, running, request, input_ids, attention_mask)
    else:
        with intervening(model, Intervention()) as intervention:
            _forward(model, intervention, request, input_ids, attention_mask)
    device = input_ids.device
    return torch.stack([request.found[layer].to(device) for layer in layers], dim=1)


def _forward(
    model: PreTrainedModel,
    intervention: Intervention,
    request: MassRequest,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
) -> None:
    intervention.mass = request
    try:
        model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    except EnoughLayers:
        pass
    finally:
        intervention.mass = None


def _check_layers(model: PreTrainedModel, layers: Sequence[int]) -> None:
    count = model.config.get_text_config().num_hidden_layers
    wrong = [layer for layer in layers if not 0 <= layer < count]
    if wrong or not layers:
        raise UserError(
            f"layers={list(layers)} is not in this model: name at least one of 0 to {count - 1}."
        )
