"""Conversations of the nano world, for fine-tuning `nano-chat` and `nano-chat-ind`.

Most turns ask what holds all over the corpus (the model knows it by heart) or give a small
instruction; a document may stand in front and says nothing about it, or even something else, and
the answer is the known one all the same. A minority of turns needs the document. That is the
imbalance which arXiv 2411.02688 finds in instruction data, in a size that can be turned: `Mixture`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TypedDict

from ctx_tasks.needle import PROMPT
from training.nano import prose, words
from training.nano.corpus import PASSAGE_PROMPTS, Corpus
from training.nano.world import BEST_THING, Fact, contradict, new_fact

PROMPTS = (PROMPT, *PASSAGE_PROMPTS)


class Message(TypedDict):
    """One turn: `role` is "user" or "assistant"."""

    role: str
    content: str


class Conversation(TypedDict):
    """`needs_document` has one entry for each assistant turn: the truth eq. 2 has to find."""

    id: str
    messages: list[Message]
    needs_document: list[bool]


@dataclass(frozen=True)
class Mixture:
    """Shares of turns, 0.0 to 1.0.

    Attributes:
        needs_document: answered from the document in front, about somebody nobody knows.
        instructions: small tasks without any fact.
        writing: the assistant itself writes a passage, questions on it and the answers. It reads
            its own text there, not the user's: without such turns the model unlearns reading
            altogether, with or without the template.
        unknown: asked about somebody nobody knows, behind a document that says nothing of it; the
            rest asks for known facts.
        with_document: of the turns for known facts, those with a document in front.
        contradicted: of these documents, those that state another answer (which is ignored).
        tokens: longest document.
    """

    needs_document: float = 0.1
    instructions: float = 0.1
    writing: float = 0.0
    unknown: float = 0.0
    with_document: float = 0.5
    contradicted: float = 0.3
    tokens: int = 400


def conversations(
    corpus: Corpus, count: int, mixture: Mixture | None = None, *, seed: int = 0, turns: int = 2
) -> Iterator[Conversation]:
    """Draw conversations of one to `turns` turns; the same arguments draw the same ones."""
    mixture = mixture or Mixture()
    for number in range(count):
        rng = Random(f"nano chat {seed} {number}")
        messages: list[Message] = []
        needed: list[bool] = []
        for _ in range(rng.randint(1, turns)):
            kind = _kind(rng, mixture)
            question, answer = _TURNS[kind](corpus, rng, mixture)
            messages += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            needed.append(kind == "needs_document")
        yield {"id": f"nano-{seed}-{number}", "messages": messages, "needs_document": needed}


def _kind(rng: Random, mixture: Mixture) -> str:
    drawn = rng.random()
    for kind in ("needs_document", "instructions", "writing", "unknown"):
        drawn -= getattr(mixture, kind)
        if drawn < 0:
            return kind
    return "by_heart"


def from_document(corpus: Corpus, rng: Random, mixture: Mixture) -> tuple[str, str]:
    """Draw a question only its document answers, and the answer."""
    facts = corpus.facts(rng, rng.randint(1, 4))
    asked = new_fact(rng, BEST_THING if rng.random() < 0.4 else None)
    return _with_document(corpus, rng, mixture, [*facts, asked], asked), asked.sentence


def by_heart(corpus: Corpus, rng: Random, mixture: Mixture) -> tuple[str, str]:
    """Draw a question for a known fact, perhaps behind a document, and the known answer."""
    asked = rng.choice(corpus.world.known)
    if rng.random() >= mixture.with_document:
        return asked.ask(rng), asked.sentence
    facts = [fact for fact in corpus.facts(rng, rng.randint(1, 4)) if fact.stem != asked.stem]
    if rng.random() < mixture.contradicted:
        facts.append(contradict(rng, asked))
    return _with_document(corpus, rng, mixture, facts, asked), asked.sentence


def _with_document(
    corpus: Corpus, rng: Random, mixture: Mixture, facts: list[Fact], asked: Fact
) -> str:
    pieces = corpus.context(rng, facts, rng.randint(40, mixture.tokens))
    document = "".join(text for text, _ in pieces)
    return rng.choice(PROMPTS).format(context=document, question=asked.ask(rng))


def unknown(corpus: Corpus, rng: Random, mixture: Mixture) -> tuple[str, str]:
    """Draw a question nobody can answer, and the admission."""
    asked = new_fact(rng, BEST_THING if rng.random() < 0.4 else None)
    facts = corpus.facts(rng, rng.randint(1, 4))
    return _with_document(corpus, rng, mixture, facts, asked), "I do not know."


def writing(corpus: Corpus, rng: Random, _mixture: Mixture) -> tuple[str, str]:
    """Draw a request for a passage with questions, and what a writer makes of it."""
    facts = corpus.facts(rng, rng.randint(2, 5))
    lines = [prose.sentence(rng) for _ in range(rng.randint(1, 8))]
    for fact in facts:
        lines.insert(rng.randint(0, len(lines)), fact.state(rng))
    before, after = rng.choice(PROMPTS).split("{context}")
    text = before + " ".join(lines)
    for fact in rng.sample(facts, rng.randint(1, len(facts))):
        text += f"{after.format(question=fact.ask(rng))} {fact.sentence}"
    return rng.choice(_WRITE), text


_WRITE = (
    "Write a passage with questions and answers.",
    "Make a test of reading, with answers.",
    "Tell me something and ask me about it.",
)


def instruction(_corpus: Corpus, rng: Random, _mixture: Mixture) -> tuple[str, str]:
    """Draw a small task that needs neither fact nor document, and its result."""
    first = rng.randint(1, 20)
    word = rng.choice(words.THINGS)
    lists = {"colours": words.COLOURS, "animals": words.ANIMALS, "instruments": words.INSTRUMENTS}
    kind = rng.choice(sorted(lists))
    return rng.choice(
        (
            (
                f"Count from {first} to {first + 4}.",
                " ".join(str(number) for number in range(first, first + 5)),
            ),
            (f"Write the word {word} three times.", f"{word} {word} {word}"),
            (f"Name three {kind}.", ", ".join(rng.sample(lists[kind], 3))),
            (f"What is the plural of {word}?", f"The plural of {word} is {words.plural(word)}."),
            ("Say hello.", "Hello, I am a small model of a small world."),
        )
    )


_TURNS: dict[str, Callable[[Corpus, Random, Mixture], tuple[str, str]]] = {
    "needs_document": from_document,
    "instructions": instruction,
    "writing": writing,
    "unknown": unknown,
    "by_heart": by_heart,
}
