"""Supervised fine-tuning of one recipe: TRL's SFTTrainer, full or with PEFT adapters.

`run` is parse, load, build, train, save. What is ours around TRL: conversations become tokens and
labels for any chat template (`dataset`), `[IND]` and the pad token get their rows (`vocabulary`),
an adapter is saved without a copy of both embedding matrices, a killed run continues from its last
whole checkpoint (`continuation`), and the model card says what was done.

The output folder `NAME` holds `run.json`, `checkpoint-N/`, and at the end the adapter or model with
tokenizer, chat template and `README.md`; `NAME.meta.json` beside it is written last.
"""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ctx_models import model_names
from ctx_tasks.errors import UserError
from ctx_tasks.files import move_into, write_text, writing_into
from training import files
from training.tuning import continuation, evaluation, packing, vocabulary
from training.tuning.card import card
from training.tuning.dataset import summary, tokenised, trained
from training.tuning.recipe import RECIPES, Recipe, load

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

logger = logging.getLogger(__name__)

# Keys of the section `training` that we apply ourselves: `labels` builds the labels and
# `load_tokenizer` sets the template.
_OURS = ("assistant_only_loss", "chat_template_path")


def run(
    recipe_path: Path | str, overrides: Iterable[str] = (), *, resume: bool = True
) -> dict[str, Any]:
    """Fine-tunes as the recipe says and returns the counts of `NAME.meta.json`.

    A run that was killed continues from its last whole checkpoint; a finished one returns at once.
    Call it in every process of an `accelerate launch`.

    Args:
        recipe_path: a YAML file, or the name of a bundled recipe.
        overrides: `section.key=value`, the value in YAML.
        resume: False refuses an output folder that already holds a run.

    Raises:
        UserError: all mistakes of the recipe at once; another run in the output folder; data
            without conversations; a chat template or attention that cannot do what is asked.
    """
    recipe = load(recipe_path, overrides)
    arguments = training_arguments(recipe)
    _require_reporting(recipe, arguments)
    output = Path(recipe.training["output_dir"])
    if arguments.process_index == 0:
        continuation.claim(output, recipe, resume=resume, processes=arguments.world_size)
    if files.meta_path(output).is_file():
        logger.warning("%s is finished already; delete it to train again.", output)
        return _counts(files.meta_path(output))
    tokenizer, tokens = load_tokenizer(recipe)
    dataset, held_out, counts = _prepare(recipe, tokenizer, arguments)
    trainer = build_trainer(recipe, load_model(recipe), tokenizer, tokens, dataset, held_out)
    if recipe.evaluation:
        evaluation.add_context_tasks(trainer, recipe)
    with writing_into(output):
        trainer.train(resume_from_checkpoint=continuation.last_checkpoint(output))
        return _finish(trainer, recipe, counts)


def training_arguments(recipe: Recipe) -> SFTConfig:
    """The recipe's `training` section as TRL's SFTConfig, without the two keys that are ours."""
    from trl import SFTConfig

    values = {key: value for key, value in recipe.training.items() if key not in _OURS}
    try:
        with warnings.catch_warnings():
            # TRL's own default sets what transformers 5.24 calls deprecated.
            warnings.filterwarnings("ignore", message=".*_checkpointing", category=FutureWarning)
            return SFTConfig(**values)
    except (ValueError, TypeError, ImportError) as error:
        hint = " (on a CPU add training.use_cpu=true)" if "use_cpu" in str(error) else ""
        raise UserError(f"Recipe {recipe.path}, section training: {error}{hint}") from error


def _require_reporting(recipe: Recipe, arguments: SFTConfig) -> None:
    """Raises UserError where `training.report_to` names what is unknown or not installed."""
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()
    except (ValueError, RuntimeError, ImportError) as error:
        raise UserError(
            f"training.report_to={recipe.training['report_to']} cannot be used: {error}"
        ) from error


def load_tokenizer(recipe: Recipe) -> tuple[Any, vocabulary.Vocabulary]:
    """The base model's tokenizer with the recipe's chat template, indicator and pad token."""
    from transformers import AutoTokenizer

    source = recipe.model["model_name_or_path"]
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model_names.resolve(source), revision=_revision(recipe)
        )
    except OSError as error:
        raise UserError(
            f"model.model_name_or_path={source!r} could not be loaded "
            f"({str(error).splitlines()[0]}); give the folder or hub name of a transformers model."
        ) from error
    template = recipe.training.get("chat_template_path")
    if template is not None:
        tokenizer.chat_template = _template_file(recipe, template).read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise UserError(
            f"{source} has no chat template; set training.chat_template_path=tinyllama.jinja."
        )
    tokens = vocabulary.add_tokens(
        tokenizer, indicator=recipe.indicator, pad_token=recipe.pad_token
    )
    return tokenizer, tokens


def _revision(recipe: Recipe) -> str:
    return recipe.model.get("model_revision") or "main"


def _template_file(recipe: Recipe, template: str) -> Path:
    """A path, or the name of a file beside the recipe or among the bundled ones."""
    for candidate in (Path(template), recipe.path.parent / template, RECIPES / template):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(file.name for file in RECIPES.glob("*.jinja")))
    raise UserError(
        f"training.chat_template_path={template!r} is no file; give a jinja file or one of {known}."
    )


def load_model(recipe: Recipe) -> Any:
    """The base model as the sections `model` and `quantization` say, on the CPU or this GPU.

    Every process loads all of it: rows are added before anything is sharded.
    """
    from accelerate import PartialState
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    # SFTConfig has told transformers about ZeRO-3, which would load empty, sharded weights.
    unset_hf_deepspeed_config()
    keywords: dict[str, Any] = {"dtype": recipe.model.get("dtype") or "auto"}
    if recipe.model.get("attn_implementation"):
        keywords["attn_implementation"] = recipe.model["attn_implementation"]
    if recipe.quantization:
        keywords["quantization_config"] = BitsAndBytesConfig(**recipe.quantization)
        if not recipe.training.get("use_cpu") and torch.cuda.is_available():
            # bitsandbytes quantises on the way to the device, so it has to be known here.
            keywords["device_map"] = {"": PartialState().local_process_index}
    source = model_names.resolve(recipe.model["model_name_or_path"])
    return AutoModelForCausalLM.from_pretrained(source, revision=_revision(recipe), **keywords)


def _prepare(
    recipe: Recipe, tokenizer: Any, arguments: SFTConfig
) -> tuple[Dataset, Dataset | None, dict[str, Any]]:
    """The tokenised data, what of it evaluates, and counts.

    The first process tokenises, the others read its cache.

    Raises:
        UserError: besides `tokenised`, a vanilla recipe over data that `ctx-train select` marked.
    """
    marked = files.provenance(recipe.data["path"]).get("indicator")
    if marked and recipe.indicator is None:
        raise UserError(
            f"data.path={recipe.data['path']} is marked with {marked!r} but indicator=null: give "
            f"the file before `ctx-train select`, or set indicator='{marked}'."
        )
    read = functools.partial(
        tokenised,
        tokenizer=tokenizer,
        assistant_only=recipe.training.get("assistant_only_loss", False),
        processes=arguments.dataset_num_proc,
        limit=arguments.max_length,
        keep_end=arguments.truncation_mode == "keep_end",
    )
    with arguments.main_process_first(desc="tokenising"):
        dataset, held_out = read(recipe.data["path"], indicator=recipe.indicator), None
        if recipe.data.get("eval_share"):
            dataset, held_out = evaluation.split(dataset, recipe.data["eval_share"], arguments.seed)
        if recipe.data.get("eval_path"):
            held_out = read(recipe.data["eval_path"], indicator=recipe.indicator)
        kept, kept_out = trained(dataset), held_out and trained(held_out)
    counts = summary(dataset)
    if arguments.should_log:
        print(
            f"Trained on: {_listed(counts)}, {counts['cut']} cut at {arguments.max_length} tokens"
        )
        print(f"The data:   {_listed(counts['read'])}")
    if kept_out is not None:
        counts["evaluated"] = len(kept_out)
    return kept, kept_out, counts


def _listed(counts: dict[str, Any]) -> str:
    names = ("conversations", "tokens", "tokens_in_loss", "turns_with_indicator")
    return ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in names)


def build_trainer(
    recipe: Recipe,
    model: Any,
    tokenizer: Any,
    tokens: vocabulary.Vocabulary,
    dataset: Dataset,
    held_out: Dataset | None = None,
) -> SFTTrainer:
    """TRL's trainer over tokenised data, with the new rows in place (trainable under LoRA)."""
    from trl import SFTTrainer

    vocabulary.fit_embeddings(model, tokenizer, tokens)
    adapter = _adapter(recipe, model, tokens)
    arguments = training_arguments(recipe)
    try:
        trainer = SFTTrainer(
            model,
            args=arguments,
            train_dataset=dataset,
            eval_dataset=held_out,
            processing_class=tokenizer,
            peft_config=adapter,
        )
    except ValueError as error:
        # TRL and PEFT check there what goes together, such as target modules the model lacks.
        raise UserError(f"Recipe {recipe.path}: {' '.join(str(error).split())}") from error
    # TRL writes its own README.md at every checkpoint; ours is written once, at the end.
    trainer.create_model_card = _no_card  # type: ignore[method-assign]
    if recipe.lora:
        adapted: Any = trainer.model
        vocabulary.expose_bias(adapted)
        # By default the grown vocabulary would add both embedding matrices (GBs) to the adapter.
        adapted.save_pretrained = functools.partial(
            adapted.save_pretrained, save_embedding_layers=False
        )
    if recipe.training.get("packing"):
        with trainer.compute_loss_context_manager():
            packing.require_separate(trainer.model)
    return trainer


def _no_card(*args: Any, **kwargs: Any) -> None:
    """Stands where TRL makes its model card."""


def _adapter(recipe: Recipe, model: Any, tokens: vocabulary.Vocabulary) -> Any:
    from peft import LoraConfig

    if not recipe.lora:
        return None
    rows = vocabulary.trainable_rows(model, tokens)
    return LoraConfig(task_type="CAUSAL_LM", trainable_token_indices=rows, **recipe.lora)


def _finish(trainer: SFTTrainer, recipe: Recipe, counts: dict[str, Any]) -> dict[str, Any]:
    """Saves model, tokenizer, card and record; every file appears under its name when whole."""
    output = Path(recipe.training["output_dir"])
    staging = output / ".unfinished"
    trainer.save_model(str(staging))
    losses = (entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry)
    counts = {**counts, "steps": trainer.state.global_step, "final_loss": next(losses, None)}
    if trainer.is_world_process_zero():
        move_into(output, staging)
        staging.rmdir()
        write_text(output / "README.md", card(recipe, counts))
        files.write_meta(
            output,
            command="ctx-train sft",
            inputs=[recipe.data[name] for name in ("path", "eval_path") if recipe.data.get(name)],
            settings=recipe.settings(),
            counts=counts,
        )
        print(f"{counts['steps']} steps, {_loss(counts['final_loss'])}: {output}")
    return counts


def _loss(last: float | None) -> str:
    if last is None:
        return "no loss logged (fewer steps than training.logging_steps)"
    return f"last logged loss {last}"


def _counts(meta: Path) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads(meta.read_text(encoding="utf-8"))["counts"]
    return counts
