"""Makes `--model hf-ctx` and `vllm-ctx` known to lm-eval 0.4.13, which reads no entry points.

`import ctx_models.lm` does it too, so that `lm_eval.simple_evaluate(model="hf-ctx", ...)` works
after it. The command line calls it here, which imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib.util import find_spec

from ctx_models import model_names
from ctx_tasks.errors import UserError, near

MODEL = "hf-ctx"
ON_VLLM = "vllm-ctx"
_CLASSES = {MODEL: "ctx_models.lm:CtxLM", ON_VLLM: "ctx_models.engine.lm:CtxVLLM"}
# The model types of ours: they know arms, and bundled models by name.
OURS = frozenset(_CLASSES)
NO_VLLM = (
    "vllm-ctx needs vLLM, which is not installed: pip install 'lm-eval-ctx[vllm]', or a build for "
    "your CUDA by vLLM's own instructions; hf-ctx needs none."
)


def register_model() -> None:
    """Make our model types known to the harness of this process; again, it changes nothing.

    `lm_eval.models` must come first: registering before its own registration would leave `hf` and
    all other built-in models unknown.
    """
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    for name, target in _CLASSES.items():
        if name not in model_registry:
            model_registry.register(name, target=target)


def check_model(name: str, pretrained: object = None) -> None:
    """Refuse a model type that is not there, and with another than ours a name of ours.

    Raises:
        UserError: either of them.
    """
    from lm_eval.api.registry import model_registry

    register_model()
    known = list(model_registry.keys())
    if name not in known:
        meant = near(name, known) or f"choose one of {', '.join(known)}."
        raise UserError(f"--model {name} is not known: {meant}")
    if name == ON_VLLM and find_spec("vllm") is None:
        raise UserError(NO_VLLM)
    if name not in OURS and isinstance(pretrained, str) and model_names.is_ours(pretrained):
        raise UserError(
            f"pretrained={pretrained} is a model of ours, which {name} does not know: use --model "
            f"{MODEL}, which without further arguments answers as hf does."
        )
