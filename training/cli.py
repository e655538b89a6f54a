"""`ctx-train`: from raw conversations to a tuned model, one command a step.

A thin shell: each command loads what it needs when it runs (so `--help` needs no torch), calls one
function of its module and prints what came out. How mistakes end: `ctx_models.commands.entry`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ctx_models.commands.entry import Version, new_app, start
from ctx_tasks.errors import UserError

app = new_app(
    "From raw conversations to a tuned model: prepare, score, agreement, select, sft, merge."
)

Output = Annotated[Path, typer.Option("--output", "-o", help="File to write, .jsonl or .parquet.")]
TokenizerName = Annotated[
    str | None, typer.Option(help="Tokenizer (folder or hub name) that counts tokens.")
]
SeedModel = Annotated[
    str, typer.Option("--model", help="Seed model of eq. 2: folder or hub name of a chat model.")
]
SeedTokenizer = Annotated[
    str | None, typer.Option("--tokenizer", help="Its tokenizer, if that lies elsewhere.")
]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub model.")]
Window = Annotated[
    int | None,
    typer.Option("--max-length", help="Tokens read of a conversation; the model's window."),
]
BatchTokens = Annotated[
    int | None, typer.Option(help="Tokens of a batch, padding included; 16384 on a GPU.")
]
Dtype = Annotated[
    str,
    typer.Option(
        help="auto, float32, bfloat16 or float16. On CPUs that have it bfloat16 was 1.6 times as "
        "fast as float32 and moved no score by more than 0.0042."
    ),
]
Quantize = Annotated[str | None, typer.Option(help="4bit or 8bit, through bitsandbytes.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")]
BY_FORMAT = "Default: as the paper did for this format."


@app.callback()
def _options(version: Version = False) -> None:
    pass


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="File, folder, or hub name OWNER/NAME.")],
    output: Output,
    tokenizer: TokenizerName = None,
    max_length: Annotated[int, typer.Option(help="Longest piece of a split, in tokens.")] = 2048,
    report: Annotated[
        Path | None, typer.Option(help="A .jsonl with the fate of every conversation.")
    ] = None,
    refusal_patterns: Annotated[
        Path | None, typer.Option(help="Your own pattern file; ours is training/refusals.txt.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="How many read and count tokens; default: all cores.")
    ] = None,
    split_name: Annotated[str, typer.Option(help="Split of a hub dataset.")] = "train",
    data_file: Annotated[str | None, typer.Option(help="One file of a hub dataset.")] = None,
    orphans: Annotated[
        bool | None, typer.Option(help=f"Remove responses before any instruction. {BY_FORMAT}")
    ] = None,
    unanswered: Annotated[
        bool | None, typer.Option(help=f"Remove instructions after the last response. {BY_FORMAT}")
    ] = None,
    alternation: Annotated[
        bool | None, typer.Option(help=f"Drop where roles do not alternate. {BY_FORMAT}")
    ] = None,
    blocked_words: Annotated[
        bool | None, typer.Option(help=f"Drop where Vicuna's blocked words are. {BY_FORMAT}")
    ] = None,
    clean_html: Annotated[
        bool | None, typer.Option(help=f"Turn HTML exports into Markdown. {BY_FORMAT}")
    ] = None,
    empty: Annotated[
        bool | None, typer.Option(help=f"Cut a conversation at an empty turn. {BY_FORMAT}")
    ] = None,
    short: Annotated[
        bool | None, typer.Option(help=f"Drop below 16 characters. {BY_FORMAT}")
    ] = None,
    refusals: Annotated[
        bool | None, typer.Option(help=f"Remove refusals with their instructions. {BY_FORMAT}")
    ] = None,
    dedup: Annotated[
        bool | None, typer.Option(help=f"Drop a repeated first round. {BY_FORMAT}")
    ] = None,
    split: Annotated[
        bool | None, typer.Option(help=f"Split at --max-length tokens. {BY_FORMAT}")
    ] = None,
) -> None:
    """Clean raw chats into a dataset of messages.

    Reads ShareGPT, UltraChat, WizardLM, Alpaca, Dolly, OpenAssistant's trees and plain messages
    as jsonl, json or parquet, also packed (.gz, .zst). Every conversation is accounted for as
    kept, changed or dropped, with the reason, and no row without a reason.

    \b
    Example:
      ctx-train prepare sharegpt.json -o data/chats.jsonl --report data/fates.jsonl \\
          --tokenizer TinyLlama/TinyLlama-1.1B-Chat-v1.0 --max-length 2048
    """
    from training.data import prepare as preparation
    from training.data.cleaning import Switches

    switches = Switches(
        orphans=orphans,
        unanswered=unanswered,
        alternation=alternation,
        blocked_words=blocked_words,
        clean_html=clean_html,
        empty=empty,
        short=short,
        refusals=refusals,
        dedup=dedup,
        split=split,
    )
    account = preparation.prepare(
        source,
        output,
        switches=switches,
        refusal_patterns=refusal_patterns,
        tokenizer=_load_tokenizer(tokenizer),
        max_length=max_length,
        split=split_name,
        data_file=data_file,
        report=report,
        processes=processes,
    )
    typer.echo(preparation.summary(account))
    typer.echo(f"Wrote {output}")


@app.command()
def score(
    source: Annotated[str, typer.Argument(help="Dataset with messages, from ctx-train prepare.")],
    output: Output,
    model: SeedModel,
    layer: Annotated[
        int | None, typer.Option(help="Layer, from 0; 15 of 22 scaled to the model's depth.")
    ] = None,
    tokenizer: SeedTokenizer = None,
    revision: Revision = None,
    max_length: Window = None,
    batch_tokens: BatchTokens = None,
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    device: Device = None,
) -> None:
    """Score how far each response depends on the context.

    By eq. 2, in the column context_dependency: one number or null per assistant turn.

    A killed run continues where it was, with any number of processes.

    \b
    Example:
      ctx-train score data/chats.jsonl -o data/scored.jsonl \\
          --model TinyLlama/TinyLlama-1.1B-Chat-v1.0
      accelerate launch --num_processes 4 --no_python ctx-train score data/chats.jsonl ...
      ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 \\
          --no_python ctx-train score data/chats.jsonl ...    (processes on CPUs)
    """
    from training.dependency import score as scoring

    account = scoring.score(
        source,
        output,
        model=model,
        tokenizer=tokenizer,
        revision=revision,
        layer=layer,
        max_length=max_length,
        batch_tokens=batch_tokens,
        dtype=dtype,
        quantize=quantize,
        device=device,
    )
    if account is not None:
        typer.echo(scoring.summary(account))


@app.command()
def agreement(
    source: Annotated[str, typer.Argument(help="Dataset with messages, from ctx-train prepare.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The matrix, a .csv file.")],
    model: SeedModel,
    conversations: Annotated[int, typer.Option(help="How many are drawn.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    share: Annotated[float, typer.Option(help="Part of the turns a layer selects.")] = 0.1,
    figure: Annotated[
        Path | None, typer.Option(help="The heatmap; OUTPUT with .png by default.")
    ] = None,
    tokenizer: SeedTokenizer = None,
    revision: Revision = None,
    max_length: Window = None,
    batch_tokens: BatchTokens = None,
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    device: Device = None,
) -> None:
    """Compare what the layers would select (Figure 5).

    Writes the disagreement of all pairs of layers as CSV and as a heatmap.

    \b
    Example:
      ctx-train agreement data/chats.jsonl -o layers.csv --model TinyLlama/TinyLlama-1.1B-Chat-v1.0
    """
    from training.dependency import agreement as layers

    account = layers.agreement(
        source,
        output,
        model=model,
        conversations=conversations,
        seed=seed,
        share=share,
        figure=figure,
        tokenizer=tokenizer,
        revision=revision,
        max_length=max_length,
        batch_tokens=batch_tokens,
        dtype=dtype,
        quantize=quantize,
        device=device,
    )
    if account is not None:
        typer.echo(layers.summary(account))


@app.command()
def select(
    source: Annotated[str, typer.Argument(help="Scored dataset, from ctx-train score.")],
    output: Output,
    beta: Annotated[
        float | None, typer.Option(help="Select scores above this; 0.6 unless --top is given.")
    ] = None,
    top: Annotated[
        float | None, typer.Option(help="Select this share of the scored turns instead.")
    ] = None,
    indicator: Annotated[str, typer.Option(help="Appended to selected instructions.")] = "[IND]",
    tokenizer: TokenizerName = None,
    figure: Annotated[
        Path | None, typer.Option(help="PNG of the lengths; OUTPUT.lengths.png by default.")
    ] = None,
    no_figure: Annotated[bool, typer.Option("--no-figure", help="Draw none.")] = False,
) -> None:
    """Append the indicator to context-dependent turns.

    Prints Table 1's last column and draws the instruction lengths (Figures 6 to 8).

    \b
    Example:
      ctx-train select data/scored.jsonl -o data/marked.jsonl --beta 0.6 --indicator '[IND]'
    """
    from training.dependency import select as selection

    drawn = None if no_figure else figure or output.with_name(output.name + ".lengths.png")
    result = selection.select(
        source,
        output,
        beta=selection.BETA if beta is None and top is None else beta,
        top=top,
        indicator=indicator,
        tokenizer=_load_tokenizer(tokenizer),
        figure=drawn,
    )
    typer.echo(selection.summary(result, indicator))
    typer.echo(f"Wrote {output}" if drawn is None else f"Wrote {output} and {drawn}")


@app.command()
def sft(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a bundled recipe.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, the value in YAML.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Continue a killed run, or refuse a folder that holds one.")
    ] = True,
) -> None:
    """Fine-tune a model by a recipe, full or with QLoRA.

    \b
    Example:
      ctx-train sft training/recipes/tinyllama-1.1b-sharegpt-indicator.yaml \\
          data.path=data/marked.jsonl training.output_dir=runs/tiny
      accelerate launch --num_processes 4 --no_python ctx-train sft RECIPE ...
    """
    from training.tuning import sft as tuning

    tuning.run(recipe, overrides or (), resume=resume)


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="Output folder of ctx-train sft.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the model.")],
    base: Annotated[
        str | None, typer.Option(help="Unquantised base model, if not the adapter's own.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
) -> None:
    """Merge an adapter into its base model.

    In float32, rounded once.

    Prints how much of the adapter's effect on the logits the rounding left. vLLM reads no token
    rows of an adapter: give it the merged model.

    \b
    Example:
      ctx-train merge runs/llama3-8b -o models/llama3-8b-ctx
    """
    from training.tuning import merge as merging

    left = merging.run(adapter, output, base=base, dtype=dtype)
    typer.echo(merging.summary(left, dtype, output))


def _load_tokenizer(name: str | None) -> Any:
    if name is None:
        return None
    from transformers import AutoTokenizer

    from ctx_models import model_names

    try:
        return AutoTokenizer.from_pretrained(model_names.resolve(name))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"No tokenizer could be loaded from {name!r} ({reason}): give a folder or a hub name."
        ) from error


def main(arguments: list[str] | None = None) -> Any:
    """The entry point `ctx-train`."""
    return start(app, "ctx-train", arguments)


if __name__ == "__main__":
    main()
