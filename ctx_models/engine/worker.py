"""What the driver asks of each worker of an engine, by `collective_rpc`."""

from __future__ import annotations

from typing import Any

import torch


class Extension:
    """Methods that vLLM adds to its worker (`worker_extension_cls`)."""

    vllm_config: Any
    model_runner: Any

    def ctx_report(self) -> dict[str, Any]:
        """What attention runs on here, which layers are not steered, and sequences at a time."""
        layers = self._ctx_layers()
        plain = [layer for layer in layers if not _is_steered(layer)]
        return {
            "attention": sorted({layer.get_attn_backend().get_name() for layer in layers}),
            "head_size": sorted({layer.ctx_own for layer in layers if _is_steered(layer)}),
            "widened": sorted({layer.head_size for layer in layers if _is_steered(layer)}),
            "dtype": str(self.vllm_config.model_config.dtype),
            "layers": len(layers),
            "sequences": self.vllm_config.scheduler_config.max_num_seqs,
            "unsteered": sorted({type(layer).__name__ for layer in plain}),
        }

    def ctx_set(self, biases: dict[str, list[float]], steer_generated: bool) -> None:
        """Be steered so, in place: CUDA graphs see it.

        Args:
            biases: logit bias of all heads of each steered layer, by its number.
            steer_generated: whether tokens without a mark are steered.
        """
        from vllm.distributed import get_tensor_model_parallel_rank
        from vllm.model_executor.models.utils import extract_layer_index

        rank = get_tensor_model_parallel_rank()
        for layer in self._ctx_layers():
            if _is_steered(layer):
                whole = biases.get(str(extract_layer_index(layer.layer_name)))
                own = slice(rank * layer.num_heads, (rank + 1) * layer.num_heads)
                _set_bias(layer, [0.0] * layer.num_heads if whole is None else whole[own])
        for name, buffer in self.model_runner.get_model().named_buffers():
            if name.endswith(".ctx_unmarked"):
                buffer.fill_(steer_generated)

    def _ctx_layers(self) -> list[Any]:
        from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

        layers = self.vllm_config.compilation_config.static_forward_context.values()
        return [layer for layer in layers if isinstance(layer, AttentionLayerBase)]


def _is_steered(layer: Any) -> bool:
    return getattr(layer, "ctx_own", None) is not None


def _set_bias(layer: Any, bias: list[float]) -> None:
    channels = layer.ctx_query
    scaled = torch.tensor(bias, dtype=torch.float64) / layer.ctx_scale
    high = scaled.to(channels.dtype)
    channels[:, 0] = high.to(channels.device)
    channels[:, 1] = (scaled - high.double()).to(channels.dtype).to(channels.device)
