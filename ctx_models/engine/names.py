"""Every private name of vLLM that we replace or call; none is promised to its next version.

Asked for in the driver, where a missing one is a sentence: in a worker it would be the end of an
engine without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from importlib import import_module
from typing import Any, Final

from ctx_tasks.errors import UserError

PRIVATE: Final[Mapping[str, Sequence[str]]] = {
    "vllm.config.model": ("ModelConfig.get_head_size",),
    "vllm.lora.layers.vocab_parallel_embedding": ("VocabParallelEmbeddingWithLoRA.forward",),
    "vllm.model_executor.custom_op": ("PluggableLayer.register_oot",),
    "vllm.model_executor.layers.attention.attention": ("Attention.forward",),
    "vllm.model_executor.layers.attention_layer_base": ("AttentionLayerBase.get_attn_backend",),
    "vllm.model_executor.layers.vocab_parallel_embedding": ("VocabParallelEmbedding.forward",),
    "vllm.model_executor.models.utils": ("extract_layer_index",),
    "vllm.v1.attention.selector": ("get_attn_backend",),
    "vllm.v1.request": ("Request.from_engine_core_request",),
    "vllm.v1.sample.sampler": ("Sampler.gather_logprobs",),
    "vllm.v1.worker.gpu.sample.prompt_logprob": ("get_prompt_logprobs_token_ids",),
}


def require() -> None:
    """Refuse a vLLM that lacks one of them.

    Raises:
        UserError: naming the version and the first that is missing.
    """
    import vllm

    for module, names in PRIVATE.items():
        for name in names:
            if not _is_there(module, name):
                raise UserError(
                    f"vllm-ctx cannot steer vLLM {vllm.__version__}, which has no {module}.{name}: "
                    "install a version that is known (0.32), or use hf-ctx."
                )


def _is_there(module: str, name: str) -> bool:
    try:
        found: Any = reduce(getattr, name.split("."), import_module(module))
    except (ImportError, AttributeError):
        return False
    return callable(found)


def require_backend(named: Any, own: int) -> None:
    """Refuse an attention backend that the user names and whose heads are not wide enough.

    Raises:
        UserError: naming it.
    """
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    from .heads import narrowest

    if not named:
        return
    try:
        backend = AttentionBackendEnum[str(named).upper()].get_class()
    except (ValueError, ImportError, AssertionError):
        return  # It is not there at all, which vLLM says itself.
    if narrowest(own, backend.supports_head_size) is None:
        raise UserError(
            f"attention_backend={named} takes no head between {own} and twice that, which the bias "
            "needs: leave it out, so that vLLM chooses another, or run with alpha=1."
        )
