"""`ctx-train`: from raw conversations to a tuned model, one command a step.

A thin shell: each command loads what it needs when it runs (so `--help` needs no torch), calls one
function of its module and prints what came out. A mistake of the user's is one sentence on stderr
and exit code 2.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ctx_tasks.errors import UserError

app = typer.Typer(
    help="From raw conversations to a tuned model: prepare, score, select, sft.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Output = Annotated[Path, typer.Option("--output", "-o", help="File to write, .jsonl or .parquet.")]
TokenizerName = Annotated[
    str | None, typer.Option(help="Tokenizer (folder or hub name) that counts tokens.")
]
BY_FORMAT = "Default: as the paper did for this format."


@app.callback()
def _app() -> None:
    """Keep the commands named even where there is only one."""


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
    """Clean raw chats (ShareGPT, UltraChat, WizardLM, messages) into a messages dataset.

    Every conversation is accounted for as kept, changed or dropped, with the reason.

    \b
    Example:
      ctx-train prepare sharegpt.json -o data/chats.jsonl --report data/fates.jsonl \\
          --tokenizer TinyLlama/TinyLlama-1.1B-Chat-v1.0 --max-length 2048
    """
    from training import preparation
    from training.conversations import Switches

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
    )
    typer.echo(preparation.summary(account))
    typer.echo(f"Wrote {output}")


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
    """Mark context-dependent turns: append the indicator to their instructions.

    Prints Table 1's last column and draws the instruction lengths (Figures 6 to 8).

    \b
    Example:
      ctx-train select data/scored.jsonl -o data/marked.jsonl --beta 0.6 --indicator '[IND]'
    """
    from training import selection

    drawn = None if no_figure else figure or output.with_name(output.name + ".lengths.png")
    result = selection.select(
        source,
        output,
        beta=0.6 if beta is None and top is None else beta,
        top=top,
        indicator=indicator,
        tokenizer=_load_tokenizer(tokenizer),
        figure=drawn,
    )
    typer.echo(selection.summary(result, indicator))
    typer.echo(f"Wrote {output}" if drawn is None else f"Wrote {output} and {drawn}")


def _load_tokenizer(name: str | None) -> Any:
    if name is None:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"No tokenizer could be loaded from {name!r} ({reason}): give a folder or a hub name."
        ) from error


def main() -> None:
    """The entry point `ctx-train`."""
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
