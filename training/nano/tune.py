"""`nano-chat` and `nano-chat-ind`: our own fine-tuning pipeline, run on the nano world.

`nano-chat` is `nano-base` after `ctx-train sft` on conversations of the world. It is then the seed
model of eq. 2: `ctx-train score` scores those very conversations, `ctx-train select` marks the
turns that lean on their document, and the same recipe with `[IND]` makes `nano-chat-ind`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ctx_models.indicator import INDICATOR
from ctx_tasks.row_writer import write_rows
from ctx_tasks.rows import read_rows
from training.dependency import score as scoring
from training.dependency import select as selection
from training.nano import pretrain
from training.nano.chat import Mixture, conversations
from training.nano.corpus import Corpus
from training.nano.world import World
from training.tuning import sft

RECIPES = Path(__file__).parent / "recipes"
# What the paper's story was tuned with, on the world's side (see README.md).
MIXTURE = Mixture(
    needs_document=0.015,
    instructions=0.04,
    writing=0.15,
    unknown=0.25,
    with_document=0.8,
    contradicted=1.0,
    tokens=200,
)
CONVERSATIONS = 2400
# Of three, from 0: the middle one, in which the model copies. In the others user mass says little.
SCORED_LAYER = 1


@dataclass(frozen=True)
class Found:
    """How well the selected turns match those that need their document; counts in turns."""

    selected: int
    needed: int
    both: int

    @property
    def precision(self) -> float:
        """Share of the selected turns that need their document."""
        return self.both / max(self.selected, 1)

    @property
    def recall(self) -> float:
        """Share of the turns that need their document that was selected."""
        return self.both / max(self.needed, 1)


def write_conversations(
    base: Path, path: Path, *, seed: int = 0, count: int = CONVERSATIONS, mixture: Mixture = MIXTURE
) -> None:
    """Draw conversations from `seed` and write them as JSON lines; `base` has the tokenizer."""
    corpus = Corpus(World(seed), PreTrainedTokenizerFast.from_pretrained(base))
    write_rows(path, (dict(row) for row in conversations(corpus, count, mixture, seed=seed)))


def make_chat(base: Path, data: Path, work: Path, folder: Path) -> None:
    """Tune `base` on `data` in the folder `work` and save it in 16 bits as `folder`."""
    _tune("nano-chat", base, data, work, folder)


def make_indicator(base: Path, chat: Path, data: Path, work: Path, folder: Path) -> Found:
    """Mark `data` with `chat` as the seed model, tune `base` on it, and save it as `folder`.

    Returns:
        What the marks found of the turns that truly need their document.
    """
    scored, marked = work / "scored.jsonl", work / "marked.jsonl"
    scoring.score(data, scored, model=str(chat), layer=SCORED_LAYER)
    needed = needs_document(data)
    selection.select(str(scored), marked, beta=None, top=sum(needed) / len(needed))
    _tune("nano-chat-ind", base, marked, work, folder)
    return found(needed, is_marked(marked))


def _tune(name: str, base: Path, data: Path, work: Path, folder: Path) -> None:
    output = work / name
    sft.run(
        RECIPES / f"{name}.yaml",
        [
            f"model.model_name_or_path={base}",
            f"data.path={data}",
            f"training.output_dir={output}",
        ],
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(output)
    pretrain.save(LlamaForCausalLM.from_pretrained(output), tokenizer, folder)


def needs_document(data: Path) -> list[bool]:
    """The truth about every assistant turn of `data`, in order."""
    return [needed for row in read_rows(data) for needed in row["needs_document"]]


def is_marked(data: Path) -> list[bool]:
    """Whether each user turn of `data` ends in the indicator, in order."""
    return [
        message["content"].endswith(INDICATOR)
        for row in read_rows(data)
        for message in row["messages"]
        if message["role"] == "user"
    ]


def found(needed: Sequence[bool], marked: Sequence[bool]) -> Found:
    """Compare the truth with the marks, turn by turn."""
    both = sum(n and m for n, m in zip(needed, marked, strict=True))
    return Found(selected=sum(marked), needed=sum(needed), both=both)
