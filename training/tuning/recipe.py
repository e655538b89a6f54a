"""A fine-tuning recipe: one YAML file, command-line overrides, every mistake reported at once.

The sections carry other libraries' own names, so that their documentation is ours:

- `model`: `model_name_or_path`, `model_revision`, `dtype`, `attn_implementation` of TRL's
  `ModelConfig`
- `lora`: `peft.LoraConfig`; `null` trains every weight
- `quantization`: `transformers.BitsAndBytesConfig`; `null` loads the weights unquantised
- `training`: `trl.SFTConfig`, and through it `transformers.TrainingArguments`

Ours are `data.path` (jsonl or parquet with a `messages` column), `data.eval_path` or
`data.eval_share` (held-out conversations), `evaluation` (context tasks at each evaluation),
`indicator` and `pad_token`.
A key is written `section.key=value` on the command line; the value is YAML.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ctx_tasks.errors import UserError

RECIPES = Path(__file__).parents[1] / "recipes"

# Keys the libraries have and a recipe must not set, with where to say it instead.
MANAGED = {
    "lora.trainable_token_indices": "it follows from `indicator` and `pad_token`",
    "lora.task_type": "it is always CAUSAL_LM",
    "training.model_init_kwargs": "write it under `model`",
    "training.pad_token": "write `pad_token` at the top level",
    "training.eos_token": "the turn ends as the chat template says",
    "training.completion_only_loss": "use `training.assistant_only_loss`",
    "training.dataset_kwargs": "conversations are tokenised before the trainer sees them",
    "training.dataset_text_field": "the column is always `messages`",
    "training.padding_free": "use `training.packing`",
    "training.resume_from_checkpoint": "a run continues by itself from its last checkpoint",
}
REQUIRED = ("model.model_name_or_path", "data.path", "training.output_dir")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One fine-tuning run, checked. `lora` None: full fine-tuning; `indicator` None: vanilla."""

    path: Path
    model: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any]
    indicator: str | None = None
    pad_token: str = "[PAD]"
    lora: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    evaluation: dict[str, Any] | None = None

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, as plain JSON values (`path` left out)."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "path"}


def load(path: Path | str, overrides: Iterable[str] = ()) -> Recipe:
    """Reads the recipe at `path` (or the bundled one of that name) and applies `key=value` pairs.

    Raises:
        UserError: one message with every unknown key, wrong type and missing value.
    """
    file = _find(Path(path))
    content = _read(file)
    errors = [*_apply(content, overrides), *_check(content)]
    if errors:
        raise UserError(f"Recipe {file}: " + "; ".join(errors) + ".")
    return Recipe(path=file, **content)


def bundled() -> list[Path]:
    """The recipes that come with the package, one per published run."""
    return sorted(RECIPES.glob("*.yaml"))


def _find(path: Path) -> Path:
    """A bare name such as `llama3-8b-sharegpt-indicator` means the bundled recipe."""
    for candidate in (path, RECIPES / f"{path.name}.yaml", RECIPES / path.name):
        if candidate.is_file():
            return candidate
    names = ", ".join(recipe.stem for recipe in bundled())
    raise UserError(f"No recipe at {path}; give a YAML file or one of the bundled names: {names}.")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"Recipe {file} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise UserError(f"Recipe {file} must be a mapping of sections, got {content!r}.")
    return typing.cast("dict[str, Any]", _numbers(content))


def _apply(content: dict[str, Any], overrides: Iterable[str]) -> Iterator[str]:
    """Writes each `section.key=value` into `content`; yields what could not be understood."""
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            yield f"override {override!r} is not `key=value` (such as training.learning_rate=1e-4)"
            continue
        try:
            parsed = _numbers(yaml.safe_load(value))
        except yaml.YAMLError:
            yield f"the value of override {override!r} is not YAML"
            continue
        *sections, name = key.split(".")
        target = content
        for section in sections:
            if not isinstance(target.get(section), dict):
                target[section] = {}
            target = target[section]
        target[name] = parsed


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads `2e-5` as text; everyone who writes it means the number."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _check(content: dict[str, Any]) -> Iterator[str]:
    """Yields every mistake in `content`, in the order of the file."""
    hints = {
        "indicator": str | None,
        "pad_token": str,
        "lora": dict | None,
        "quantization": dict | None,
        "evaluation": dict | None,
        "model": dict,
        "data": dict,
        "training": dict,
    }
    yield from _check_keys(content, hints, "")
    known = _section_keys()
    for name, keys in known.items():
        if isinstance(content.get(name), dict):
            yield from _check_keys(content[name], keys, f"{name}.")
    for required in REQUIRED:
        section, key = required.split(".")
        values = content.get(section)
        if not (isinstance(values, dict) and values.get(key)):
            yield f"`{required}` is missing"
    yield from _check_combinations(content)


def _check_keys(values: dict[str, Any], hints: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in MANAGED:
            yield f"`{name}` cannot be set: {MANAGED[name]}"
        elif key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            yield f"unknown key `{name}`" + (f", did you mean `{prefix}{near[0]}`?" if near else "")
        elif not _fits(value, hints[key]):
            yield f"`{name}` is {value!r}, expected {_spell(hints[key])}"


def _check_combinations(content: dict[str, Any]) -> Iterator[str]:
    training = content.get("training")
    training = training if isinstance(training, dict) else {}
    if content.get("quantization") and not content.get("lora"):
        yield "`quantization` without `lora` cannot be trained: add `lora` or drop `quantization`"
    if training.get("packing") and training.get("packing_strategy", "bfd") != "bfd":
        yield (
            f"`training.packing_strategy` is {training['packing_strategy']!r}, expected 'bfd': the "
            "other strategies cut conversations apart"
        )
    lora = content.get("lora")
    targets = lora.get("target_modules") if isinstance(lora, dict) else None
    embeddings = {"embed_tokens", "lm_head"} & set(targets if isinstance(targets, list) else ())
    if embeddings:
        yield (
            f"`lora.target_modules` has {', '.join(sorted(embeddings))}: of the embeddings only "
            "the rows of new tokens train"
        )
    yield from _check_evaluation(content, training)
    if content.get("indicator") == "":
        yield "`indicator` is empty, expected a token such as '[IND]' or null"


def _check_evaluation(content: dict[str, Any], training: dict[str, Any]) -> Iterator[str]:
    data = content.get("data")
    data = data if isinstance(data, dict) else {}
    share = data.get("eval_share")
    held_out = bool(data.get("eval_path") or share)
    evaluates = training.get("eval_strategy", "no") not in ("no", False)
    if data.get("eval_path") and share:
        yield "`data.eval_path` and `data.eval_share` are both given: keep one"
    if isinstance(share, float) and not 0 < share < 1:
        yield f"`data.eval_share` is {share}, expected a part above 0 and below 1, such as 0.02"
    if evaluates and not held_out:
        yield "`training.eval_strategy` needs `data.eval_path` or `data.eval_share`"
    if not evaluates and (held_out or content.get("evaluation")):
        yield "`training.eval_strategy` is missing: write epoch, or steps and eval_steps"
    tasks = content.get("evaluation")
    if isinstance(tasks, dict) and not tasks.get("tasks"):
        yield "`evaluation.tasks` is missing: name context tasks, such as [nih_recall]"


def _section_keys() -> dict[str, dict[str, Any]]:
    """Section -> key -> type, asked of the libraries themselves so that no list here can age."""
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig
    from trl import ModelConfig, SFTConfig

    quantization = inspect.signature(BitsAndBytesConfig.__init__).parameters
    model = _field_types(ModelConfig)
    names = ("model_name_or_path", "model_revision", "dtype", "attn_implementation")
    return {
        "model": {name: model[name] for name in names},
        "data": {"path": str, "eval_path": str | None, "eval_share": float | None},
        "evaluation": {"tasks": list, "limit": int, "metadata": dict},
        "lora": _field_types(LoraConfig),
        "quantization": {
            # The defaults are the only type information this class has.
            name: bool if isinstance(parameter.default, bool) else Any
            for name, parameter in quantization.items()
            if name not in ("self", "kwargs")
        },
        "training": _field_types(SFTConfig),
    }


def _field_types(config: type) -> dict[str, Any]:
    hints = typing.get_type_hints(config)
    return {field.name: hints[field.name] for field in dataclasses.fields(config) if field.init}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value can be what a dataclass field asks for; only plain types are judged."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    plain = origin or hint
    if plain is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if plain is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if plain is types.NoneType:
        return value is None
    if plain in (set, tuple, list):
        return isinstance(value, list)
    if plain in (str, bool, dict):
        return isinstance(value, plain)
    return value is not None or plain is Any


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_spell(option) for option in typing.get_args(hint))
    return "null" if hint is types.NoneType else getattr(hint, "__name__", str(hint))
