"""Makes `--model hf-ctx` known to lm-eval 0.4.13, which reads no entry points.

`import ctx_models.lm` does it too, so that `lm_eval.simple_evaluate(model="hf-ctx", ...)` works
after it. The command line calls it here, which imports neither torch nor transformers.
"""

from __future__ import annotations

from ctx_models import model_names
from ctx_tasks.errors import UserError, near

MODEL = "hf-ctx"


def register_model() -> None:
    """Make `--model hf-ctx` known to the harness of this process; again, it changes nothing.

    `lm_eval.models` must come first: registering before its own registration would leave `hf` and
    all other built-in models unknown.
    """
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    if MODEL not in model_registry:
        model_registry.register(MODEL, target="ctx_models.lm:CtxLM")


def check_model(name: str, pretrained: object = None) -> None:
    """Refuse a model type that nobody registered, and with another than ours a name of ours.

    Raises:
        UserError: either of them.
    """
    from lm_eval.api.registry import model_registry

    register_model()
    known = list(model_registry.keys())
    if name not in known:
        meant = near(name, known) or f"choose one of {', '.join(known)}."
        raise UserError(f"--model {name} is not known: {meant}")
    if name != MODEL and isinstance(pretrained, str) and model_names.is_ours(pretrained):
        raise UserError(
            f"pretrained={pretrained} is a model of ours, which {name} does not know: use --model "
            f"{MODEL}, which without further arguments answers as hf does."
        )
