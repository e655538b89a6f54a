"""The bundled haystack keeps the rules that its README promises."""

import re
from collections import Counter
from pathlib import Path

import pytest

import ctx_tasks

HAYSTACK = Path(ctx_tasks.__file__).parent / "needle" / "haystack"
FILES = sorted(HAYSTACK.glob("*.txt"))
KEYWORDS = {"eat", "sandwich", "sit", "dolores", "park", "sunny", "day", "san", "francisco"}
each_essay = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def blocks(path: Path) -> list[str]:
    """The title and the paragraphs of one essay, in order."""
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n\n")


def sentences(path: Path) -> list[str]:
    return [s for block in blocks(path)[1:] for s in re.split(r"(?<=[.?!]) ", block)]


def test_there_are_at_least_ten_essays_of_twelve_thousand_words_in_all() -> None:
    assert len(FILES) >= 10
    assert sum(len(path.read_text(encoding="utf-8").split()) for path in FILES) >= 12_000


def test_readme_states_the_word_count() -> None:
    words = sum(len(path.read_text(encoding="utf-8").split()) for path in FILES)
    assert f"{words:,} words" in (HAYSTACK / "README.md").read_text(encoding="utf-8")


def test_no_sentence_occurs_twice() -> None:
    counts = Counter(sentence.lower() for path in FILES for sentence in sentences(path))
    assert len(counts) > 500
    assert [sentence for sentence, n in counts.items() if n > 1] == []


@each_essay
def test_no_needle_keyword_occurs_as_a_word(path: Path) -> None:
    words = set(re.findall(r"[a-z]+", path.read_text(encoding="utf-8").lower()))
    assert words & KEYWORDS == set()


@each_essay
def test_title_comes_first_and_is_no_sentence(path: Path) -> None:
    title = blocks(path)[0]
    assert title == title.strip() != ""
    assert not re.search(r"[.?!]$", title)


@each_essay
def test_paragraphs_are_single_lines_that_end_a_sentence(path: Path) -> None:
    paragraphs = blocks(path)[1:]
    assert len(paragraphs) >= 5
    assert [p for p in paragraphs if "\n" in p or not re.search(r"[a-z0-9][.?!]$", p)] == []


@each_essay
def test_a_full_stop_only_ever_ends_a_sentence(path: Path) -> None:
    """So no decimal point, ellipsis or abbreviation: one space and a capital letter follow it."""
    text = "\n\n".join(blocks(path)[1:])
    assert re.findall(r".{0,20}[.?!](?!\n|$| [A-Z]).{0,20}", text) == []
    assert "  " not in text
    assert re.findall(r"\b(?:[A-Z]|Mrs?|Dr|St|No|etc|vs)\.", text) == []


@each_essay
def test_text_is_ascii(path: Path) -> None:
    assert path.read_bytes().isascii()
