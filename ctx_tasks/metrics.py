"""Scores of one output: keyword recall (needle), containing scores (reading), the sentence cut.

Source: arXiv 2411.02688, section on measurements; the text normalisation is that of the SQuAD v1.1
evaluation script (ASCII punctuation deleted, not replaced by a space). Divergences:
- A reference that normalises to nothing ("the", "!") would be contained in every output. Here only
  an output that is that very reference matches it (`contains`).
- DROP: the paper says "any reference", its code looks at one answer only; `contains_all` and
  `contains_released` are the two readings.
- What is no answer (`is_empty`, `is_dangling`) is ours: the paper counts it as a wrong one.
All functions are pure and look at text only, never at what produced it.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Sequence

from ctx_tasks.errors import UserError

SENTENCE_END = ". "

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DASHES_AND_SLASHES = re.compile(r"[-/‐‑‒–—―]")
# A line that ends at a colon, whatever marks of lists, emphasis and quotes follow.
_LABEL = re.compile(r"[:\uff1a](?:\W|_)*$")
# What the sentence cut leaves of a list: the number of "1. Paris".
_FIRST_ITEM = re.compile(r"\W*1[.)]?\W*")
# Scripts written without spaces: every character counts as a word of its own.
_UNSPACED_SCRIPT = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def keyword_recall(text: str, keywords: Sequence[str]) -> float:
    """Share of `keywords` that occur in `text` as whole words, 0.0 to 1.0.

    Case, punctuation and Unicode composition are ignored; a keyword of several words must occur
    with its words adjacent. In scripts without spaces (Chinese, Japanese) a word boundary is
    anywhere. `keyword_recall("A Sandwich, in sunlight", ["sandwich", "sun"]) == 0.5`.

    Raises:
        UserError: no keywords, a bare string for them, or a keyword without letter or digit.
    """
    wanted = [_words(keyword) for keyword in _listed("keywords", keywords)]
    if not wanted or not all(wanted):
        raise UserError(
            f"Recall needs at least one keyword, each with a letter or digit, but got "
            f"{list(keywords)!r}; correct the keywords of this needle."
        )
    words = _words(text)
    return sum(_has_run(words, run) for run in wanted) / len(wanted)


def contains(prediction: str, references: Sequence[str]) -> bool:
    """Whether the normalised prediction contains a normalised reference as a substring.

    The paper's score: "1" is contained in "1999". A reference that normalises to nothing matches
    only a prediction that equals it in all but case, punctuation and outer spaces. No references,
    no match.
    """
    return any(_contained(prediction, one) for one in _listed("references", references))


def contains_words(prediction: str, references: Sequence[str]) -> bool:
    """`contains`, and the reference's words are whole words of the prediction: "1" not in "1999".

    Dashes and slashes separate words ("3" is a word of "3-yard"), other punctuation is deleted
    ("1" is no word of "1,000"). Never true where `contains` is false.
    """
    return any(_contained_as_words(prediction, one) for one in _listed("references", references))


def contains_all(
    prediction: str, answers: Sequence[Sequence[str]], *, whole_words: bool = False
) -> bool:
    """Whether some answer has all of its spans in the prediction, in any order (DROP).

    Args:
        prediction: the output, cut to its first sentence by the caller.
        answers: alternative answers, each a list of spans; an answer without spans never matches.
        whole_words: match spans as `contains_words` does, instead of as `contains` does.
    """
    found = _contained_as_words if whole_words else _contained
    return any(_has_every(prediction, spans, found) for spans in _listed("answers", answers))


def contains_verbatim(prediction: str, answers: Sequence[Sequence[str]]) -> bool:
    """Whether some answer has all of its spans in the prediction as written, but for case.

    The rule behind the tables of the paper's first version (SQuAD, QuAC): punctuation, articles and
    white space count, so a reference that ends in a period is lost where the sentence is cut.
    """
    written = prediction.lower()
    return any(_has_every(written, [span.lower() for span in spans], _within) for spans in answers)


def contains_released(prediction: str, answers: Sequence[Sequence[str]]) -> bool:
    """The released code's DROP rule: any span of the first answer, verbatim, case included.

    For comparing with Table 3 only: later answers are not looked at, and one span of several is
    enough.
    """
    return bool(answers) and any(span != "" and span in prediction for span in answers[0])


def is_empty(answer: str) -> bool:
    """Whether `answer` has no word: neither letter nor digit of any script."""
    return not _words(answer)


def is_dangling(answer: str) -> bool:
    """Whether `answer` has words but ends where it should begin: each of its lines at a colon.

    "The answer is:", "A:\\n\\n**" and "They are:\\n1" (a list, cut at its first item) dangle;
    "Answer: Paris" and "Paris.\\nA:" do not. An answer that holds the reference can look like this
    too ("Paris:"): the caller asks only about those that do not.
    """
    lines = [line for line in answer.splitlines() if not is_empty(line)]
    if len(lines) > 1 and _FIRST_ITEM.fullmatch(lines[-1]):
        lines.pop()
    return bool(lines) and all(map(_LABEL.search, lines))


def unanswered(answer: str, *, answered: bool) -> dict[str, float]:
    """`empty`: `answer` says nothing, no word or `dangling`; `dangling`: it ends at a colon.

    Args:
        answered: it holds the reference (or a part of it), so it says something whatever its shape.
    """
    dangling = not answered and is_dangling(answer)
    empty = dangling or (not answered and is_empty(answer))
    return {"empty": float(empty), "dangling": float(dangling)}


def first_sentence(text: str) -> str:
    """`text` up to the first ". ", which is dropped; everything if there is none.

    As the released code does: its stop string is a period and a space, and the harness removes a
    stop string from the output. So a period at the end of a line or of the text does not cut,
    "Dr. Who" becomes "Dr", and white space is left as it is. Cutting twice changes nothing.
    """
    return text.split(SENTENCE_END, 1)[0]


def normalise(text: str) -> str:
    """SQuAD v1.1 normal form: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _contained(prediction: str, reference: str) -> bool:
    wanted = normalise(reference)
    return wanted in normalise(prediction) if wanted else _same_answer(prediction, reference)


def _contained_as_words(prediction: str, reference: str) -> bool:
    wanted = _separated(reference)
    if not _contained(prediction, reference):
        return False
    return _has_run(_separated(prediction), wanted) if wanted else True


def _within(prediction: str, span: str) -> bool:
    return span in prediction


def _separated(text: str) -> list[str]:
    return normalise(_DASHES_AND_SLASHES.sub(" ", text)).split()


def _same_answer(prediction: str, reference: str) -> bool:
    bare = [text.lower().translate(_NO_PUNCTUATION).split() for text in (prediction, reference)]
    # Nothing but punctuation on both sides: compare what is written.
    return bare[0] == bare[1] and (bare[0] != [] or prediction.strip() == reference.strip())


def _has_every(prediction: str, spans: Sequence[str], found: Callable[[str, str], bool]) -> bool:
    return len(spans) > 0 and all(found(prediction, span) for span in spans)


def _words(text: str) -> list[str]:
    composed = unicodedata.normalize("NFKC", text).casefold()
    return "".join(map(_spaced, composed)).split()


def _spaced(character: str) -> str:
    if _UNSPACED_SCRIPT.match(character):
        return f" {character} "
    category = unicodedata.category(character)
    if category == "Cf":  # soft hyphens and joiners are inside words
        return ""
    return character if category[0] in "LNM" else " "


def _has_run(words: list[str], run: list[str]) -> bool:
    starts = range(len(words) - len(run) + 1)
    return any(words[start : start + len(run)] == run for start in starts)


def _listed(name: str, value: Sequence[str] | Sequence[Sequence[str]]) -> Sequence[str]:
    if isinstance(value, str):
        raise UserError(f"{name} must be a list, but got the string {value!r}; put it in a list.")
    return value  # type: ignore[return-value]
