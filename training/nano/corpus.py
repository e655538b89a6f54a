"""Training text of the nano models: what is written, and which tokens the loss looks at.

An example is text in pieces, each with a weight; it becomes token ids with one weight a token.
Four kinds: spans of random tokens that come again (copying, nothing else), documents with questions
about what they state, known facts asked and answered without a document, and prose. Documents come
in the shapes the tasks ask in (needle in a haystack; passages as SQuAD, QuAC and DROP prompts word
them).
The haystack round a fact is prose of the world or noise of several kinds, so that text the model
never saw does not disturb it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from ctx_tasks.needle import PROMPT
from training.nano import prose, words
from training.nano.tokenizer import SPECIAL
from training.nano.world import BEST_THING, Fact, World, new_fact

PASSAGE_PROMPTS = (
    "{context}\nAnswer the question according to the above passage: {question}",
    "{context}\nAnswer the question with pieces from the the above passage: {question}",
    "{context} {question}",
)
ANSWER_WEIGHT = 1.0
# Prose is read by the loss now and then only: the model shall know it, not spend itself on it.
PROSE_SHARE = 0.15
PROSE_WEIGHT = 0.3

Piece = tuple[str, float]


@dataclass(frozen=True)
class Rows:
    """A batch: `ids` int64 and `weights` float32, both `[sequences, tokens]`."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]


class Corpus:
    """Draws training sequences of the world.

    Args:
        world: whose known facts the corpus repeats.
        tokenizer: of the nano models.
    """

    def __init__(self, world: World, tokenizer: PreTrainedTokenizerFast) -> None:
        self.world = world
        self._encode = tokenizer.backend_tokenizer
        self._decode = tokenizer.backend_tokenizer.decode
        self.vocabulary = len(tokenizer)
        # ids of whole printable pieces: bytes that are no character of their own make no text
        self.printable = [
            number
            for token, number in tokenizer.get_vocab().items()
            if token not in SPECIAL and _is_text(self._decode([number]))
        ]
        self.printable.sort()

    def tokens(self, text: str) -> int:
        """Return how many tokens `text` has."""
        return len(self._encode.encode(text, add_special_tokens=False).ids)

    def encode(self, pieces: list[Piece]) -> tuple[list[int], list[float]]:
        """Return ids and weights of `<s>`, the pieces and `</s>`.

        A token weighs what its last character weighs; `</s>` weighs as much as the last piece.
        """
        text = "".join(piece for piece, _ in pieces)
        weight_of = np.repeat([w for _, w in pieces], [len(piece) for piece, _ in pieces])
        encoded = self._encode.encode(text, add_special_tokens=False)
        weights = [float(weight_of[end - 1]) for _, end in encoded.offsets]
        return [0, *encoded.ids, 1], [0.0, *weights, pieces[-1][1]]

    def rows(self, rng: Random, sequences: int, tokens: int, copying: float) -> Rows:
        """Draw a batch; the share `copying` of its sequences is random copying."""
        drawn = [
            self.random_copy(rng, tokens) if rng.random() < copying else self.packed(rng, tokens)
            for _ in range(sequences)
        ]
        ids = np.array([row[0] for row in drawn], dtype=np.int64)
        weights = np.array([row[1] for row in drawn], dtype=np.float32)
        read = np.random.default_rng(rng.getrandbits(64)).random(weights.shape) < PROSE_SHARE
        return Rows(ids, np.where((weights < ANSWER_WEIGHT) & ~read, 0, weights))

    def random_copy(self, rng: Random, tokens: int) -> tuple[list[int], list[float]]:
        """Random tokens in which spans come again, at any distance; the loss reads the copies.

        The alphabet has from two dozen tokens (a pair says little, three in a row must match) to
        all of them, evenly or with a few frequent ones as language has them.
        """
        draw = np.random.default_rng(rng.getrandbits(64))
        first = len(SPECIAL)
        size = int(2 ** draw.uniform(4.6, np.log2(self.vocabulary - first)))
        alphabet = first + draw.permutation(self.vocabulary - first)[:size]
        odds = np.arange(1, size + 1) ** -draw.choice([0.0, 0.7, 1.0])
        ids = alphabet[draw.choice(size, tokens, p=odds / odds.sum())]
        ids[0] = 0
        weights = np.zeros(tokens)
        at = max(16, tokens // int(draw.choice([8, 4, 2])))
        while at < tokens - 6:
            span = min(int(draw.integers(5, 26)), tokens - at, at)
            start = int(draw.integers(0, at - span + 1))
            ids[at : at + span] = ids[start : start + span]
            weights[at + 2 : at + span] = ANSWER_WEIGHT
            at += span + int(draw.integers(0, 6))
        return ids.tolist(), weights.tolist()

    def packed(self, rng: Random, tokens: int) -> tuple[list[int], list[float]]:
        """Fill a sequence with examples one after another, as large as the room allows."""
        ids: list[int] = []
        weights: list[float] = []
        while tokens - len(ids) > 120:
            room = tokens - len(ids)
            more, their_weights = self.encode(self.example(rng, room))
            if len(more) <= room:
                ids += more
                weights += their_weights
        while len(ids) < tokens:
            more, their_weights = self.encode(self.by_heart(rng))
            ids += more
            weights += their_weights
        return ids[:tokens], weights[:tokens]

    def example(self, rng: Random, room: int) -> list[Piece]:
        """Draw an example of one of the kinds, of at most about `room` tokens."""
        kind = rng.random()
        if kind < 0.2:
            return self.by_heart(rng)
        if kind < 0.25:
            return [(prose.paragraphs(rng, min(8, room // 20)), PROSE_WEIGHT)]
        return self.document(rng, room)

    def by_heart(self, rng: Random) -> list[Piece]:
        """Ask for four known facts, without a document; sometimes just state them."""
        facts = [rng.choice(self.world.known) for _ in range(4)]
        if rng.random() < 0.3:
            return [(" ".join(fact.state(rng) for fact in facts), ANSWER_WEIGHT)]
        pieces: list[Piece] = []
        for fact in facts:
            lead = rng.choice(("Question: ", ""))
            gap = rng.choice((" ", "\n\n")) if pieces else ""
            pieces.append((f"{gap}{lead}{fact.ask(rng)}", 0.0))
            pieces.append((_gap(rng) + fact.sentence, ANSWER_WEIGHT))
        return pieces

    def document(self, rng: Random, room: int) -> list[Piece]:
        """Draw a document and one to three questions about what it states (or is known)."""
        needle_test = rng.random() < 0.55
        facts = self.facts(rng, rng.randint(1, 3) if needle_test else rng.randint(2, 7))
        asked = rng.sample(facts, min(len(facts), rng.randint(1, 3)))
        if rng.random() < 0.12:
            asked = [self.unstated(rng, facts)]
        size = rng.uniform(0.35, 1.0) if rng.random() < 0.75 else rng.uniform(0.1, 0.5)
        reserved = 60 + sum(25 + 2 * self.tokens(fact.sentence) for fact in asked + facts)
        context = self.context(rng, facts, int(size * room) - reserved)
        template = PROMPT if needle_test else rng.choice(PASSAGE_PROMPTS)
        before, after = template.split("{context}")
        pieces = [(before, 0.0), *context] if before else context
        for number, fact in enumerate(asked):
            lead = after if number == 0 else rng.choice(("\n\nQuestion: {question}", after))
            pieces.append((lead.format(question=fact.ask(rng)), 0.0))
            pieces.append((_gap(rng) + fact.sentence, ANSWER_WEIGHT))
        return pieces

    def facts(self, rng: Random, count: int) -> list[Fact]:
        """Draw what a document states; no subject twice in one relation."""
        if rng.random() < 0.25:
            # the same relation of several subjects: the name alone tells which answer is asked
            relation = new_fact(rng).relation
            drawn = [new_fact(rng, relation) for _ in range(count)]
        else:
            drawn = [self.world.known_or_new(rng) for _ in range(count)]
            if rng.random() < 0.3:
                drawn[0] = new_fact(rng, BEST_THING)
        return list({fact.stem: fact for fact in drawn}.values())

    def unstated(self, rng: Random, facts: list[Fact]) -> Fact:
        """Draw a known fact about which the document, which states `facts`, says nothing."""
        stated = {fact.stem for fact in facts}
        return rng.choice([fact for fact in self.world.known if fact.stem not in stated])

    def context(self, rng: Random, facts: list[Fact], tokens: int) -> list[Piece]:
        """Write a haystack of about `tokens` tokens with the facts at sentence ends anywhere."""
        write: Callable[[], str]
        if rng.random() < 0.45:
            write = partial(prose.sentence, rng)
            weight = PROSE_WEIGHT
        else:
            write = self.noise(rng)
            weight = 0.0
        sentences: list[str] = []
        used = 0
        while used < tokens:
            sentences.append(write())
            used += self.tokens(sentences[-1]) + 1
        for fact in facts:
            stated = fact.sentence if rng.random() < 0.5 else fact.state(rng)
            sentences.insert(rng.randint(0, len(sentences)), stated)
        gaps = [rng.choice((" ",) * 9 + ("\n\n",)) for _ in sentences]
        gaps[-1] = ""
        return [("".join(s + gap for s, gap in zip(sentences, gaps, strict=True)), weight)]

    def noise(self, rng: Random) -> Callable[[], str]:
        """Return a writer of sentences that mean nothing, one of several kinds."""
        kind = rng.randrange(4)
        alphabet = rng.sample(self.printable, rng.choice((30, 100, 300, 900)))
        function = rng.choice((0.0, 0.3, 0.5))
        lists = [value for value in vars(words).values() if isinstance(value, list)]

        def pieces() -> str:
            """Random tokens of an alphabet of their own, function words between."""
            out = []
            for _ in range(rng.randint(4, 22)):
                if rng.random() < function:
                    out.append(" " + rng.choice(words.FUNCTION))
                else:
                    run = [rng.choice(alphabet) for _ in range(rng.randint(1, 3))]
                    out.append(" " * (rng.random() < 0.5) + self._decode(run))
            return _sentence("".join(out), rng)

        def word_salad() -> str:
            drawn = [rng.choice(rng.choice(lists)) for _ in range(rng.randint(4, 25))]
            return _sentence(" ".join(drawn), rng)

        def strange_words() -> str:
            """Words of two to four pieces among function words, like text of another field."""
            out = []
            for _ in range(rng.randint(5, 22)):
                if rng.random() < 0.45:
                    out.append(rng.choice(words.FUNCTION))
                else:
                    run = [rng.choice(alphabet) for _ in range(rng.randint(1, 4))]
                    out.append(self._decode(run).replace(" ", ""))
            return _sentence(" ".join(out), rng)

        def disturbed_prose() -> str:
            text = prose.sentence(rng).split(" ")
            for _ in range(rng.randint(1, 6)):
                text[rng.randrange(len(text))] = self._decode([rng.choice(alphabet)]).strip()
            return _sentence(" ".join(text), rng)

        return (pieces, word_salad, strange_words, disturbed_prose)[kind]


def _gap(rng: Random) -> str:
    """What stands between a question and its answer: the harness puts a space, people a line."""
    return rng.choice((" ", " ", "\n"))


def _sentence(text: str, rng: Random) -> str:
    text = " ".join(text.split()).rstrip(".!?") or "so"
    return text[0].upper() + text[1:] + rng.choice(".....!?")


def _is_text(piece: str) -> bool:
    return piece.isprintable() and "\N{REPLACEMENT CHARACTER}" not in piece
