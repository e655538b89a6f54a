"""The worker's half of steering: flags out of the token ids, and a bias in every attention layer.

Named as `worker_extension_cls`, so each worker of an engine that steers imports it, and thereby
patches vLLM's layers, before its model is made; no other process does. In the same process
(`VLLM_ENABLE_V1_MULTIPROCESSING=0`) later engines without `additional_config["ctx"]` run the
patched layers as vLLM wrote them.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from vllm.config import get_current_vllm_config
from vllm.config.model import ModelConfig
from vllm.lora.layers.vocab_parallel_embedding import VocabParallelEmbeddingWithLoRA
from vllm.model_executor.custom_op import PluggableLayer
from vllm.model_executor.layers.attention.attention import Attention
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.selector import get_attn_backend
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu.sample import prompt_logprob

from . import wire
from .heads import narrowest
from .worker import Extension

__all__ = ["Extension"]


def _steered_config() -> Any:
    """The configuration of the engine whose model is being made, if it is to be steered."""
    config = get_current_vllm_config()
    return config if wire.NAME in (config.additional_config or {}) else None


# ---- the embedding sees every token first --------------------------------------------------------


@dataclass
class _Flags:
    """One flag a token of the running batch, at one address for the life of an engine."""

    config: Any = None
    buffer: torch.Tensor | None = None

    def of(self, config: Any) -> torch.Tensor:
        if self.config is not config or self.buffer is None:
            size = max(
                config.scheduler_config.max_num_batched_tokens,
                config.compilation_config.max_cudagraph_capture_size or 0,
            )
            self.config = config
            self.buffer = torch.zeros(size, dtype=config.model_config.dtype)
        return self.buffer


_FLAGS = _Flags()


@PluggableLayer.register_oot(name="VocabParallelEmbedding")
class FlaggedEmbedding(VocabParallelEmbedding):
    """vLLM's embedding, which notes the flags of its ids and looks them up without."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = _steered_config()
        self.ctx_flags = None if config is None else _FLAGS.of(config)
        # Whether tokens without a mark are steered (`steer_generated`).
        self.register_buffer("ctx_unmarked", torch.tensor(True), persistent=False)

    def forward(self, input_: torch.Tensor) -> torch.Tensor:
        """Embeddings of marked ids."""
        if self.ctx_flags is None:
            return super().forward(input_)
        self.ctx_note(input_)
        return super().forward(input_ & wire.IDS)

    def ctx_note(self, input_: torch.Tensor) -> None:
        """Write the flags of marked ids."""
        assert self.ctx_flags is not None
        # Models of transformers' own code come with a batch of one.
        marks = ((input_ & wire.MARK) != 0).reshape(-1)
        self.ctx_flags[: marks.shape[0]].copy_(marks ^ self.ctx_unmarked)


def _lora_forward(plain: Callable[..., Any], self: Any, x: torch.Tensor) -> Any:
    """LoRA's embedding looks up rows of its own by id, beside the base layer."""
    if getattr(self.base_layer, "ctx_flags", None) is None:
        return plain(self, x)
    found = plain(self, x & wire.IDS)
    self.base_layer.ctx_note(x)
    return found


# ---- attention -----------------------------------------------------------------------------------


def _attention_init(plain: Callable[..., None], self: Any, *args: Any, **kwargs: Any) -> None:
    given = inspect.signature(plain).bind(self, *args, **kwargs)
    given.apply_defaults()
    config = _steered_config()
    self.ctx_own = None
    if config is None or not _can_be_steered(given.arguments):
        plain(*given.args, **given.kwargs)
        return
    own, scale = given.arguments["head_size"], given.arguments["scale"]
    given.arguments["head_size"] = width = _widened(config, given.arguments)
    plain(*given.args, **given.kwargs)
    config.model_config.ctx_head_size = width
    # Graphs are kept on disk by a hash of this, and another machine may widen otherwise.
    config.additional_config.setdefault(f"{wire.NAME}_widened", {})[str(own)] = width
    self.ctx_own, self.ctx_scale, self.ctx_flags = own, scale, _FLAGS.of(config)
    channels = torch.zeros(self.num_heads, width - own, dtype=config.model_config.dtype)
    self.register_buffer("ctx_query", channels, persistent=False)


def _can_be_steered(arguments: dict[str, Any]) -> bool:
    """Whether a bias means here what it means in softmax(q k) v; `Extension` refuses the rest."""
    return (
        arguments["attn_type"] == AttentionType.DECODER
        and not arguments["logits_soft_cap"]
        and arguments["attn_backend"] is None
        and arguments["head_size_v"] in (None, arguments["head_size"])
    )


def _widened(config: Any, arguments: dict[str, Any]) -> int:
    """The narrowest head that holds the bias too and that a backend takes, with its best kernel."""
    own, backend = arguments["head_size"], functools.partial(_backend, config, arguments)

    def kernel(width: int) -> str | None:
        return _kernel(backend(width), width, arguments["cache_config"])

    def takes(width: int) -> bool:
        return backend(width) is not None

    kept = kernel(own)
    width = narrowest(own, lambda width: takes(width) and kept in (None, kernel(width)))
    width = width or narrowest(own, takes)
    if width is None:
        raise ValueError(f"steering: no attention backend widens heads of {own}")
    return width


def _backend(config: Any, arguments: dict[str, Any], width: int) -> Any:
    """The backend that vLLM takes for a layer with heads so wide; None if none does."""
    cache = arguments["cache_config"]
    window = arguments["per_layer_sliding_window"] or (cache and cache.sliding_window)
    try:
        backend = get_attn_backend(
            width,
            torch.get_default_dtype(),
            cache.cache_dtype if cache is not None else "auto",
            has_sink=arguments["extra_impl_args"].get("sinks") is not None,
            use_mm_prefix=config.model_config.is_mm_prefix_lm,
            attn_type=arguments["attn_type"],
            has_sliding_window=window is not None,
        )
    except ValueError:
        return None
    return backend if backend.supports_head_size(width) else None


def _kernel(backend: Any, width: int, cache: Any) -> str | None:
    """The kernel of a processor's own (AMX) that vLLM's CPU backend has for heads so wide.

    None for its general kernels and for other backends. In bfloat16 a head of 80 in place of 64
    loses AMX, and a whole run takes 1.5 x the time of `vllm`; one of 96 keeps it.
    """
    # A private name on which only speed depends: not among those that names.py asks for.
    choose = getattr(sys.modules.get(getattr(backend, "__module__", "")), "_get_attn_isa", None)
    if choose is None or cache is None:
        return None
    kernel: str = choose(torch.get_default_dtype(), cache.block_size, width)
    return None if kernel.startswith("vec") else kernel


def _attention_forward(
    plain: Callable[..., torch.Tensor],
    self: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output_shape: torch.Size | None = None,
    output_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    if self.ctx_own is None:
        return plain(self, query, key, value, output_shape, output_dtype)
    count, own, extra = query.shape[0], self.ctx_own, self.head_size - self.ctx_own
    query = query.view(count, self.num_heads, own)
    query = torch.cat([query, self.ctx_query.expand(count, -1, -1)], dim=-1)
    if key is not None:
        key = key.view(count, self.num_kv_heads, own)
        flags = self.ctx_flags[:count].view(count, 1, 1).expand(-1, self.num_kv_heads, extra)
        key = torch.cat([key, flags], dim=-1)
        value = torch.nn.functional.pad(value.view(count, self.num_kv_heads, own), (0, extra))
    out = plain(self, query, key, value, None, output_dtype)
    return out.view(count, self.num_heads, own + extra)[..., :own].reshape(count, -1)


# ---- what else reads ids, or the width of a head -------------------------------------------------


def _gather_logprobs(
    plain: Callable[..., Any], logprobs: Any, num_logprobs: int, token_ids: torch.Tensor
) -> Any:
    """The targets of a prompt's log-probabilities are its ids."""
    return plain(logprobs, num_logprobs, token_ids & wire.IDS)


def _prompt_logprob_ids(plain: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
    """The same in the model runner that GPUs with Triton use."""
    return plain(*args) & wire.IDS


def _head_size(plain: Callable[..., int], self: Any) -> int:
    """Backends size their scratch memory by it."""
    return getattr(self, "ctx_head_size", None) or plain(self)


def _replace(owner: Any, name: str, ours: Callable[..., Any]) -> None:
    plain = getattr(owner, name)

    @functools.wraps(plain)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        return ours(plain, *args, **kwargs)

    static = isinstance(inspect.getattr_static(owner, name), staticmethod)
    setattr(owner, name, staticmethod(replaced) if static else replaced)


_replace(Attention, "__init__", _attention_init)
_replace(Attention, "forward", _attention_forward)
_replace(VocabParallelEmbeddingWithLoRA, "forward", _lora_forward)
_replace(Sampler, "gather_logprobs", _gather_logprobs)
_replace(prompt_logprob, "get_prompt_logprobs_token_ids", _prompt_logprob_ids)
_replace(ModelConfig, "get_head_size", _head_size)
