"""Distractor prose of the nano world: sentences that state none of its facts."""

from __future__ import annotations

import re
from random import Random

from training.nano import words
from training.nano.world import name, noun_phrase

_TEMPLATES = (
    "{P} {did} {thing} in the {adj} {place}.",
    "The {person} {did} {thing}, but nobody {did} the {noun}.",
    "It was a {adj} {time}, and the {person} {went} {adv}.",
    "There is {thing} behind the {place} of {T}.",
    "When {P} {went} in {T}, the {animal} {went} near the {place}.",
    "{adv}, the {noun} of a {person} is only a {noun}.",
    "If you {act} {thing}, you must {verb} before the {time} ends.",
    "Most of the {place}s in {T} are {adj} and {adj}.",
    "One {time} a {person} {did} {num} {noun}s for {P}.",
    "The {noun} was not as {adj} as the {noun}.",
    '"{Thing} is {adj}," said {P}, "and I will {verb} here."',
    "Some people {act} {thing} every {time}; others {verb} {adv}.",
    "What the {person} {did} was {adj}, because the {noun} had no {noun}.",
    "Between the {place} and the {place} there were {num} {animal}s.",
    "{P} and {P2} {went} together for {num} {time}s.",
    "A {noun} without a {noun} is like a {animal} without {thing}.",
    "They had {thing}, {thing2} and {thing3}.",
    "Then the {adj} {animal} {went} through the {place}, and {P} {went} {adv}.",
    "Nobody in the {place} could {verb}, so they {did} {thing}.",
    "The {person} from {T} {did} the {noun} in {year}.",
    "For many {time}s the {noun} of the {place} was {adj}.",
    "Do you {act} {thing} or do you {verb} at the {place}?",
    "I {did} {thing} to {P}, who {went} at once.",
    "His {noun} and her {noun} were the same {noun}.",
    "After the {time}, all the {person}s {went} to the {place}.",
    "This {noun} is about the {noun} that {P} {did}.",
    "How {adj} the {place} of {T} was in the {time}!",
    "We {went} under the {adj} {place} until the {animal}s {went}.",
    "It may be that the {noun} can {act} the {noun}.",
    "Each {person} has a {noun}, and each {noun} has its {time}.",
    "No {noun} should be {adj} while the {person}s {verb}.",
    "The first {noun} is {adj}; the second is {adj2}; the third is to {verb}.",
    "In {year} the {place} was sold for {number} coins.",
    "{T} is not far from {T2}, but the road is {adj}.",
)
_SLOTS = re.compile(r"\{(\w+?)\d?\}(s\b)?")
_LISTS = {
    "adj": words.ADJECTIVES,
    "adv": words.ADVERBS,
    "place": words.PLACES,
    "person": words.PEOPLE,
    "animal": words.ANIMALS,
    "noun": words.ABSTRACT + words.THINGS,
    "num": words.NUMBERS,
    "time": words.TIMES,
    "verb": words.VERBS,
    "act": words.ACTIONS,
    "went": words.PAST,
    "did": words.PAST_ACTIONS,
}


def sentence(rng: Random, *, held_out: bool = False) -> str:
    """Draw one sentence; its names are held-out ones on request."""
    template = rng.choice(_TEMPLATES)
    text = _SLOTS.sub(lambda match: _fill(rng, *match.groups(), held_out=held_out), template)
    return text[0].upper() + text[1:]


def _fill(rng: Random, slot: str, several: str | None, *, held_out: bool) -> str:
    if slot in _LISTS:
        word = rng.choice(_LISTS[slot])
        return words.plural(word) if several else word
    if slot == "thing":
        return noun_phrase(rng, words.THINGS + words.FOODS)
    if slot == "Thing":
        return noun_phrase(rng).capitalize()
    if slot == "year":
        return str(rng.randint(1100, 1999))
    if slot == "number":
        return str(rng.randint(2, 999))
    return name(rng, {"P": "person", "T": "town"}[slot], held_out=held_out)


def paragraphs(rng: Random, sentences: int, *, held_out: bool = False) -> str:
    """Draw prose of so many sentences, a blank line after every three to eight."""
    lines: list[str] = []
    while sentences > 0:
        count = min(sentences, rng.randint(3, 8))
        lines.append(" ".join(sentence(rng, held_out=held_out) for _ in range(count)))
        sentences -= count
    return "\n\n".join(lines)
