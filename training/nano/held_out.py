"""Evaluation material of the nano world: names, answers and wordings training never sees.

`needles` and `haystack` feed the needle test (as `ctx_tasks.needle` takes them), `squad`, `quac`
and `drop` give reading questions in the columns of those datasets, `by_heart` asks for what holds
all over the corpus, `conflict` for the same against a passage that says otherwise. `write` puts all
of it into files the tasks read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from ctx_tasks.files import write_text
from ctx_tasks.needle.inputs import Haystack, Needle
from training.nano import prose
from training.nano.words import NUMBERS
from training.nano.world import BEST_THING, RELATIONS, Fact, World, contradict, new_fact

_SMALL = re.compile(r"(an?|the|and|in|on|with|then|before|near|at|along|during|ends|of)$")


def needles(count: int, seed: int = 0) -> list[Needle]:
    """Draw needles like the paper's: the best thing to do in a town of which nobody heard."""
    rng = Random(f"nano needles {seed}")
    drawn: list[Needle] = []
    while len(drawn) < count:
        fact = new_fact(rng, BEST_THING, held_out=True)
        words = [word.lower() for word in re.findall(r"\w+", fact.answer)]
        keywords = tuple(dict.fromkeys(word for word in words if not _SMALL.match(word)))
        question = BEST_THING.questions[0].format(s=fact.subject)
        if not set(keywords) & set(question.lower().split()):
            drawn.append(Needle(f"own-{len(drawn)}", fact.sentence, question, fact.stem, keywords))
    return drawn


def haystack(sentences: int = 1500, seed: int = 0) -> Haystack:
    """Write distractor prose whose names are all held out."""
    rng = Random(f"nano haystack {seed}")
    texts = [prose.paragraphs(rng, 50, held_out=True) for _ in range(-(-sentences // 50))]
    return Haystack("nano-world", tuple(texts))


@dataclass(frozen=True)
class Question:
    """A passage and a question about it (`passage_id`: same passage, same id)."""

    id: str
    passage_id: str
    context: str
    question: str
    answer: str


def reading(
    count: int,
    kind: str,
    *,
    seed: int = 0,
    wanted: Callable[[Fact], bool] = lambda _fact: True,
    wordings: bool = False,
) -> list[Question]:
    """Draw questions on passages of four to six facts among prose, two questions a passage.

    Args:
        kind: goes into ids and seed ("squad", "quac", "drop").
        wanted: which facts may be asked for.
        wordings: also ask in the wording held out of training.
    """
    rng = Random(f"nano {kind} {seed}")
    drawn: list[Question] = []
    while len(drawn) < count:
        facts = [fact for fact in (_stated(rng) for _ in range(40)) if wanted(fact)]
        facts = list({fact.stem: fact for fact in facts}.values())[: rng.randint(4, 6)]
        lines = [prose.sentence(rng, held_out=True) for _ in range(rng.randint(4, 12))]
        for fact in facts:
            lines.insert(rng.randint(0, len(lines)), fact.state(rng))
        passage = f"nano-{kind}-{len(drawn) // 2}"
        for number, fact in enumerate(rng.sample(facts, 2)):
            question = fact.ask(rng, held_out=wordings)
            drawn.append(
                Question(f"{passage}-{number}", passage, " ".join(lines), question, fact.answer)
            )
    return drawn[:count]


def _stated(rng: Random) -> Fact:
    return new_fact(rng, rng.choice(RELATIONS), held_out=True)


def squad(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw questions whose answers are names or phrases, in the columns of `rajpurkar/squad`."""
    return [
        {
            "id": q.id,
            "title": q.passage_id,
            "context": q.context,
            "question": q.question,
            "answers": {"text": [q.answer], "answer_start": [q.context.index(q.answer)]},
        }
        for q in reading(count, "squad", seed=seed, wanted=lambda fact: not _is_number(fact))
    ]


def quac(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw dialogs of one question, one a passage, in the columns of `allenai/quac`."""
    drawn = reading(2 * count, "quac", seed=seed, wanted=lambda fact: not _is_number(fact))
    return [
        {
            "dialogue_id": q.id,
            "context": f"{q.context} CANNOTANSWER",
            "questions": [q.question],
            "answers": {"texts": [[q.answer]]},
        }
        for q in drawn[::2]
    ]


def drop(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw questions for numbers, in the columns of `EleutherAI/drop`."""
    return [
        {
            "section_id": q.passage_id,
            "query_id": q.id,
            "passage": q.context,
            "question": q.question,
            "answer": {
                "number": q.answer,
                "date": {"day": "", "month": "", "year": ""},
                "spans": [],
                "hit_id": "",
                "worker_id": "",
            },
        }
        for q in reading(count, "drop", seed=seed, wanted=_is_number)
    ]


def _is_number(fact: Fact) -> bool:
    return fact.answer.isdigit() or fact.answer in NUMBERS


def by_heart(world: World, count: int, seed: int = 0) -> list[tuple[str, Fact]]:
    """Draw questions for known facts, without a document: wording and fact."""
    rng = Random(f"nano by heart {seed}")
    facts = [rng.choice(world.known) for _ in range(count)]
    return [(fact.ask(rng), fact) for fact in facts]


def conflict(world: World, count: int, seed: int = 0) -> list[dict[str, str]]:
    """Draw known facts, each with a passage that states another answer among facts and prose.

    Columns of `ctx_tasks.conflict`: `memory_answer` holds all over the corpus, `context_answer` in
    the passage alone. Neither is in the other, nor in another line of the passage.
    """
    rng = Random(f"nano conflict {seed}")
    drawn: list[dict[str, str]] = []
    while len(drawn) < count:
        known = rng.choice(world.known)
        stated = contradict(rng, known, held_out=True)
        lines = [prose.sentence(rng, held_out=True) for _ in range(rng.randint(4, 12))]
        lines += [_stated(rng).state(rng) for _ in range(rng.randint(3, 5))]
        rng.shuffle(lines)
        answers = (known.answer, stated.answer)
        if any(one in other for one in answers for other in [*lines, *(set(answers) - {one})]):
            continue
        lines.insert(rng.randint(0, len(lines)), stated.state(rng))
        drawn.append(
            {
                "id": f"nano-conflict-{len(drawn)}",
                "context": " ".join(lines),
                "question": known.ask(rng),
                "context_answer": stated.answer,
                "memory_answer": known.answer,
            }
        )
    return drawn


def write(
    world: World, folder: Path, *, seed: int = 0, count: int = 400, needle_count: int = 20
) -> None:
    """Write needles.yaml, haystack/*.txt and, with `count` questions each, squad.jsonl, quac.jsonl,
    drop.jsonl, conflict.jsonl (options of the tasks of these names) and by_heart.jsonl (`question`,
    `answer`).
    """
    keys = ("id", "needle", "question", "response_prefix", "keywords")
    sets = [
        {key: getattr(one, key) for key in keys} | {"keywords": list(one.keywords)}
        for one in needles(needle_count, seed)
    ]
    write_text(folder / "needles.yaml", yaml.safe_dump(sets, sort_keys=False, width=1000))
    for number, text in enumerate(haystack(seed=seed).texts):
        write_text(folder / "haystack" / f"{number:02}.txt", text + "\n")
    known = [{"question": q, "answer": fact.answer} for q, fact in by_heart(world, count, seed)]
    drawn = {kind.__name__: kind(count, seed) for kind in (squad, quac, drop)}
    drawn |= {"by_heart": known, "conflict": conflict(world, count, seed)}
    for name, rows in drawn.items():
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
