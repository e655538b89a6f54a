"""A small synthetic world: towns, people, shops and animals, and what is said about them.

Everything is drawn from seeds and the word lists beside this file. A fact has a subject, a relation
and an answer; it can be stated, asked for, and answered in one fixed sentence whose beginning
(`stem`) serves as a response prefix. Two kinds of knowledge: the facts of `World.known` hold all
over the corpus; a document may state facts about anybody, some against what is known.

Held out for evaluation: a name whose first word's checksum says so (`is_held_out`) never occurs in
training, nor do the last question and the last statement of every relation.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from training.nano import words


def is_held_out(first_word: str) -> bool:
    """Say whether names beginning with this word are kept for evaluation (one word in five)."""
    return zlib.crc32(first_word.lower().encode()) % 5 == 0


def name(rng: Random, kind: str, *, held_out: bool = False) -> str:
    """Draw an invented name of a town, person, shop, animal or place."""
    while True:
        drawn = _SHAPES[kind](rng)
        if is_held_out(drawn.split()[0]) == held_out:
            return drawn


def _syllables(rng: Random, count: int) -> str:
    parts = [rng.choice(words.ONSETS) + rng.choice(words.VOWELS) for _ in range(count)]
    return "".join(parts) + (rng.choice(words.CODAS) if rng.random() < 0.6 else "")


def _town(rng: Random) -> str:
    if rng.random() < 0.3:
        # two words, as many real towns have
        return f"{_syllables(rng, 1)} {_syllables(rng, 2)}".title()
    if rng.random() < 0.4:
        return _syllables(rng, 2).capitalize()
    return (_syllables(rng, 1) + rng.choice(words.TOWN_ENDS)).capitalize()


def _person(rng: Random) -> str:
    first = _syllables(rng, rng.choice((1, 2))).capitalize()
    return f"{first} {_syllables(rng, 2).capitalize()}" if rng.random() < 0.4 else first


def _shop(rng: Random) -> str:
    return f"{_syllables(rng, 2).capitalize()} {rng.choice(_SHOP_KINDS)}"


def _animal(rng: Random) -> str:
    return (_syllables(rng, 1) + rng.choice(words.ANIMAL_ENDS)).capitalize()


_SHOP_KINDS = ("Store", "Books", "Bakery", "House", "Inn", "Market")
_SHAPES: dict[str, Callable[[Random], str]] = {
    "town": _town,
    "person": _person,
    "shop": _shop,
    "animal": _animal,
    "place": lambda rng: _syllables(rng, 2).capitalize(),
}


def noun_phrase(rng: Random, nouns: Sequence[str] = words.THINGS) -> str:
    """Draw an article, perhaps an adjective, and a noun."""
    noun = rng.choice(nouns)
    phrase = f"{rng.choice(words.ADJECTIVES)} {noun}" if rng.random() < 0.5 else noun
    article = rng.choice(("a", "the"))
    return f"{'an' if article == 'a' and phrase[0] in 'aeiou' else article} {phrase}"


def activity(rng: Random, *, held_out: bool = False) -> str:
    """Draw something to do, six to fourteen words long, often at a place with an invented name."""
    spot = f"{name(rng, 'place', held_out=held_out)} {rng.choice(words.PLACES).capitalize()}"
    first = f"{rng.choice(words.ACTIONS)} {noun_phrase(rng, words.FOODS + words.THINGS)}"
    second = f"{rng.choice(words.ACTIONS)} {noun_phrase(rng)}"
    when = f"{rng.choice(words.ADJECTIVES)} {rng.choice(words.TIMES)}"
    when = f"{'an' if when[0] in 'aeiou' else 'a'} {when}"
    verb = rng.choice(words.VERBS)
    return rng.choice(
        (
            f"{first} and {verb} in {spot} on {when}",
            f"{verb} near {spot} with {noun_phrase(rng)} and {noun_phrase(rng)}",
            f"{first} and then {second} before {when} ends",
            f"{verb} along the {rng.choice(words.PLACES)} and {first} at {spot}",
            f"{first} in {spot} during {when}",
        )
    )


def word_string(rng: Random, *, held_out: bool = False) -> str:
    """Draw four to twelve words in no order, so that copying them needs no grammar."""
    lists = (words.THINGS, words.ADJECTIVES, words.FUNCTION, words.ABSTRACT, words.PLACES)
    drawn = [rng.choice(rng.choice(lists)) for _ in range(rng.randint(4, 12))]
    drawn[rng.randrange(len(drawn))] = name(rng, "place", held_out=held_out)
    return " ".join(drawn)


@dataclass(frozen=True)
class Relation:
    """What can be said about a kind of subject.

    Attributes:
        kind: of the subject, a key of `name`.
        stem: how the answering sentence begins; `{s}` is the subject.
        questions, statements: wordings with `{s}` and `{a}` (the answer); the last is held out.
        draw: (random, held_out) -> an answer.
    """

    kind: str
    stem: str
    questions: tuple[str, ...]
    statements: tuple[str, ...]
    draw: Callable[[Random, bool], str]


def _pick(options: Sequence[str]) -> Callable[[Random, bool], str]:
    return lambda rng, _held_out: rng.choice(options)


def _named(kind: str) -> Callable[[Random, bool], str]:
    return lambda rng, held_out: name(rng, kind, held_out=held_out)


def _year(rng: Random, _held_out: bool) -> str:
    return str(rng.randint(1100, 1999))


def _count(rng: Random, _held_out: bool) -> str:
    return str(rng.randint(2, 999)) if rng.random() < 0.7 else rng.choice(words.NUMBERS)


def _ware(rng: Random, _held_out: bool) -> str:
    return f"{rng.choice(words.ADJECTIVES)} {words.plural(rng.choice(words.THINGS))}"


def _meal(rng: Random, _held_out: bool) -> str:
    return (
        f"{rng.choice(words.ADJECTIVES)} {rng.choice(words.FOODS)} with {rng.choice(words.FOODS)}"
    )


def _spot(rng: Random, held_out: bool) -> str:
    return f"{name(rng, 'place', held_out=held_out)} {rng.choice(words.PLACES).capitalize()}"


def _relation(
    kind: str,
    noun: str,
    draw: Callable[[Random, bool], str],
    ask: str,
    say: str,
    *,
    link: str = "of",
) -> Relation:
    """Build a relation named by a noun: `ask` is one more question, `say` one more statement."""
    return Relation(
        kind,
        f"The {noun} {link} {{s}} is",
        (
            f"What is the {noun} {link} {{s}}?",
            ask,
            f"Can you tell me the {noun} {link} {{s}}?",
            f"Tell me, please, what is the {noun} {link} {{s}}?",
        ),
        (
            f"The {noun} {link} {{s}} is {{a}}.",
            say,
            f"Everybody knows that the {noun} {link} {{s}} is {{a}}.",
            f"They say that the {noun} {link} {{s}} is {{a}}.",
        ),
        draw,
    )


BEST_THING = _relation(
    "town",
    "best thing to do",
    lambda rng, held_out: activity(rng, held_out=held_out),
    "What should one do in {s}?",
    "The best thing to do in {s} is {a}.",
    link="in",
)
RELATIONS = (
    BEST_THING,
    _relation(
        "town", "mayor", _named("person"), "Who is the mayor of {s}?", "{s} has the mayor {a}."
    ),
    _relation("town", "dish", _meal, "What do people eat in {s}?", "In {s} people eat {a}."),
    _relation(
        "town",
        "colour",
        _pick(words.COLOURS),
        "Which colour has {s}?",
        "All of {s} is painted {a}.",
    ),
    _relation("town", "first year", _year, "When was {s} founded?", "{s} was founded in {a}."),
    _relation(
        "town",
        "number of bridges",
        _count,
        "How many bridges does {s} have?",
        "{s} has {a} bridges.",
    ),
    _relation(
        "town",
        "number of children",
        _count,
        "How many children live in {s}?",
        "In {s} live {a} children.",
    ),
    _relation("shop", "keeper", _named("person"), "Who keeps {s}?", "{a} keeps {s}."),
    _relation("shop", "best ware", _ware, "What does {s} sell?", "One can buy {a} at {s}."),
    _relation("shop", "place", _spot, "Where is {s}?", "{s} stands in {a}."),
    _relation(
        "shop",
        "number of coins",
        _count,
        "How many coins does {s} ask?",
        "{s} asks {a} coins a day.",
    ),
    _relation(
        "person", "trade", _pick(words.PEOPLE), "What work does {s} do?", "{s} works as a {a}."
    ),
    _relation("person", "home", _named("town"), "Where does {s} live?", "{s} lives in {a}."),
    _relation(
        "person", "friend", _named("person"), "Who is the friend of {s}?", "{s} likes {a} best."
    ),
    _relation(
        "person",
        "instrument",
        _pick(words.INSTRUMENTS),
        "What does {s} play?",
        "{s} plays the {a}.",
    ),
    _relation("animal", "food", _ware, "What does the {s} eat?", "The animal {s} eats {a}."),
    _relation(
        "animal", "home", _spot, "Where does the {s} live?", "The animal {s} lives near {a}."
    ),
    _relation(
        "animal",
        "colour",
        _pick(words.COLOURS),
        "Which colour has the {s}?",
        "The animal {s} is {a}.",
    ),
)


_LINKS = (
    *(("is", "What is the {noun}"),) * 3,
    ("is to", "What is the {noun}"),
    ("was", "What was the {noun}"),
    ("was made to", "What was made of the {noun}"),
    ("will be", "What will be the {noun}"),
    ("stands", "Where stands the {noun}"),
    ("can only be", "What can only be the {noun}"),
)


def free_relation(rng: Random) -> Relation:
    """Draw a relation nobody has seen: some noun of some name, answered by a string of words."""
    noun = rng.choice(words.THINGS + words.ABSTRACT + words.PLACES)
    if rng.random() < 0.5:
        noun = f"{rng.choice(words.ADJECTIVES)} {noun}"
    link = rng.choice(("of", "in", "for", "near"))
    verb, asked = rng.choice(_LINKS)
    question = f"{asked.format(noun=noun)} {link} {{s}}?"
    stem = f"The {noun} {link} {{s}} {verb}"
    stated = f"{stem} {{a}}."
    return Relation(
        rng.choice(("town", "person", "shop")),
        stem,
        (question, question),
        (stated, stated),
        lambda own, held_out: (
            word_string(own, held_out=held_out)
            if own.random() < 0.6
            else activity(own, held_out=held_out)
        ),
    )


@dataclass(frozen=True)
class Fact:
    """One statement about one subject."""

    subject: str
    relation: Relation
    answer: str

    @property
    def stem(self) -> str:
        """The response prefix: how the answering sentence begins."""
        return self.relation.stem.format(s=self.subject)

    @property
    def sentence(self) -> str:
        """The answer as a whole sentence."""
        return f"{self.stem} {self.answer}."

    def state(self, rng: Random, *, held_out: bool = False) -> str:
        """Word the fact as a document does; the held-out wording on request."""
        return _wording(rng, self.relation.statements, held_out).format(
            s=self.subject, a=self.answer
        )

    def ask(self, rng: Random, *, held_out: bool = False) -> str:
        """Word a question for the fact; the held-out wording on request."""
        return _wording(rng, self.relation.questions, held_out).format(s=self.subject)


def _wording(rng: Random, wordings: Sequence[str], held_out: bool) -> str:
    return wordings[-1] if held_out else rng.choice(wordings[:-1])


def new_fact(rng: Random, relation: Relation | None = None, *, held_out: bool = False) -> Fact:
    """Draw a fact only a document states, about a subject nobody knows."""
    if relation is None:
        relation = free_relation(rng) if rng.random() < 0.3 else rng.choice(RELATIONS)
    subject = name(rng, relation.kind, held_out=held_out)
    return Fact(subject, relation, relation.draw(rng, held_out))


def contradict(rng: Random, fact: Fact, *, held_out: bool = False) -> Fact:
    """Return `fact` with another answer."""
    while True:
        answer = fact.relation.draw(rng, held_out)
        if answer != fact.answer:
            return Fact(fact.subject, fact.relation, answer)


class World:
    """The facts that hold all over the corpus.

    Args:
        seed: of all names and answers.
        subjects: how many of each kind; every relation of the kind is known of each.
    """

    def __init__(self, seed: int = 0, subjects: int = 16) -> None:
        rng = Random(f"nano world {seed}")
        self.known: list[Fact] = []
        taken: set[str] = set()
        for kind in ("town", "person", "shop", "animal"):
            for _ in range(subjects):
                subject = name(rng, kind)
                while subject in taken:
                    subject = name(rng, kind)
                taken.add(subject)
                self.known += [
                    Fact(subject, relation, relation.draw(rng, False))
                    for relation in RELATIONS
                    if relation.kind == kind
                ]

    def known_or_new(self, rng: Random) -> Fact:
        """Draw what a document may state: new, known, or against what is known."""
        draw = rng.random()
        if draw < 0.6:
            return new_fact(rng)
        fact = rng.choice(self.known)
        return fact if draw < 0.7 else contradict(rng, fact)
