"""Tables keep every name and every digit at any width, and foreign text steers no terminal."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from ctx_tasks import tables
from ctx_tasks.tables import Head, Labelled, Table, Value, change, number, plain_text, score

NAMES = [
    "org/a-checkpoint-with-a-name-of-more-than-sixty-characters-and-no-blank",
    "a task of my own, whose name has more than sixty characters and blanks in it",
    "組織/漢字ばかりのとても長いモデルの名前漢字ばかりのとても長いモデルの名前",
    "org/🕯🔥👩🏽‍🚒❤️-a-model-of-pictures-🕯🔥👩🏽‍🚒❤️-🕯🔥👩🏽‍🚒❤️-🕯🔥👩🏽‍🚒❤️",
    "[red]not red[/red] [IND] :smile: [bold",
]
WIDTHS = [60, 80, 120, 250]
# What values are written with, and rules: the rest of a table's body is its labels.
SIGNS = re.compile(r"[\s\d.,±~!\[\]+─-]")


def draw(table: Table, width: int) -> str:
    file = io.StringIO()
    tables.show(table, tables.console_of(width, file))
    return file.getvalue()


def letters(*texts: str) -> str:
    return SIGNS.sub("", plain_text("".join(texts)))


def bodies(text: str) -> tuple[list[str], list[str]]:
    """What stands above and below the rules of the tables in `text`; a title stands above."""
    above, below = [], []
    for block in re.split(r"\n\n+", text.strip("\n")):
        heading, *body = re.split(r"^ ─+\n?", block, flags=re.MULTILINE)
        above.append(heading)
        below += body
    return above, below


def labels(table: Table) -> str:
    found = []
    for group, entries in groupby(table.rows, key=lambda entry: entry.group):
        found += [group, *(entry.label for entry in entries)]
    return letters(*found)


def values(table: Table, *, errors: bool = True) -> Counter[str]:
    return Counter(
        f"{value.text} {value.error}" if value.error and errors else value.text
        for entry in table.rows
        for value in entry.values
    )


def assert_tidy(text: str, width: int) -> None:
    for line in text.split("\n"):
        assert line == line.rstrip()
        assert cell_len(line) <= width
    assert not set(text) & set("\x1b\x07\x9b\u202e\u2066\r\t")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("columns", [1, 4, 9])
def test_every_label_and_every_number_is_whole(width, columns):
    numbers = [score(0.9 - 0.01 * n, 0.03, flags="~" if n == 2 else "") for n in range(columns)]
    entries = [
        Labelled(label, numbers, group=f"{n}: {name}")
        for n, name in enumerate(NAMES)
        for label in ("raw", "chat, α 0.5 constant")
    ]
    heads = [Head(f"column {n}", ("(nano)",)) for n in range(columns)]
    table = Table(Head("checkpoint"), heads, entries)
    text = draw(table, width)
    assert_tidy(text, width)
    _, parts = bodies(text)
    assert parts
    for part in parts:
        assert letters(part) == labels(table)
    found = Counter(re.findall(r"\d\.\d\d ±\.\d\d", text))
    assert found == values(table)


def test_labels_are_folded_before_columns_are_split_and_errors_go_last():
    entry = Labelled("a label of thirty characters ok", [score(0.9, 0.03), score(0.8, 0.02)])
    table = Table(Head("name"), [Head("A"), Head("B")], [entry])
    lines = draw(table, 80).splitlines()
    assert lines[3] == " a label of thirty characters ok  0.90 ±.03  0.80 ±.02"
    folded = draw(table, 40)
    assert folded.splitlines()[3] == " a label of thirty  0.90 ±.03  0.80 ±.02"
    split = draw(table, 28)
    assert split.count("─ ") == 0
    assert len(bodies(split)[1]) == 2
    assert "0.90 ±.03" in split
    without = draw(table, 20)
    assert "±" not in without
    assert "0.90" in without
    assert "0.80" in without


def test_nothing_is_lost_where_nothing_fits():
    entry = Labelled(NAMES[0], [score(0.9, 0.03), Value("1234567.891")])
    text = draw(Table(Head("name"), [Head("A"), Head("B")], [entry]), 5)
    assert letters(bodies(text)[1][1]) == letters(NAMES[0])
    assert "0.90" in text
    assert "1234567.891" in text


def test_words_and_headings_are_folded_where_there_is_no_room():
    entry = Labelled("a", [Value(NAMES[0]), score(0.5, 0.1)])
    table = Table(Head("row"), [Head("words", words=True), Head(NAMES[1])], [entry])
    text = draw(table, 60)
    assert_tidy(text, 60)
    above, [body] = bodies(text)
    assert letters(body.replace(" a ", "  ", 1)) == letters(NAMES[0])
    assert Counter(letters(*above)) == Counter(letters("row", "words", NAMES[1]))


def test_a_group_stands_once_above_its_entries():
    entries = [Labelled(str(n), [Value("1")], group=g) for n, g in enumerate(["x", "x", "", "x"])]
    body = bodies(draw(Table(Head("h"), [Head("v")], entries), 80))[1][0]
    assert body.split("\n") == [" x", "  0  1", "  1  1", " 2   1", " x", "  3  1"]


names = st.text(
    st.sampled_from([*"abXY /_()灯台🕯é字\u0301\u200d\ufe0f", *"\x1b\n\t\x07\x9b\u202e\u2066"]),
    min_size=1,
    max_size=70,
).filter(lambda name: cell_len(plain_text(name).strip()))
unit = st.floats(0, 1)
any_values = st.one_of(
    st.builds(score, unit, unit, flags=st.sampled_from(["", "~", "~!"])),
    st.builds(change, unit, unit, unit),
    st.builds(Value, st.sampled_from(["400", "+1.000"])),
)


@st.composite
def any_tables(draw_one):
    heads = draw_one(st.lists(st.builds(Head, names), min_size=1, max_size=9))
    row = st.lists(any_values, min_size=len(heads), max_size=len(heads))
    group = draw_one(st.sampled_from([st.just(""), names]))
    entries = draw_one(st.lists(st.builds(Labelled, names, row, group), max_size=4))
    return Table(Head("first"), heads, entries, draw_one(st.sampled_from(["", "Title"])))


@given(any_tables(), st.integers(45, 260))
def test_at_any_width_labels_headings_and_numbers_are_whole(table, width):
    text = draw(table, width)
    assert_tidy(text, width)
    above, parts = bodies(text)
    for part in parts:
        assert letters(part) == labels(table)
    heads = letters(table.title, *["first"] * len(parts), *(head.text for head in table.heads))
    assert Counter(letters(*above)) == Counter(heads)
    found = re.findall(r"[+-]?\d+(?:\.\d+)?(?: ±\d*\.\d+| \[[^]]*\])?", "\n".join(parts))
    assert Counter(found) == values(table)


@given(st.floats(-1e6, 1e6), st.integers(0, 6))
@example(-0.0004, 3)
@example(-0.0, 2)
@example(0.0005, 3)
def test_a_number_is_formatted_as_ever_but_never_minus_nought(value, digits):
    for given_value in (value, np.float64(value)):
        for signed, sign in ((False, ""), (True, "+")):
            usual = f"{value:{sign}.{digits}f}"
            if float(usual) == 0:
                usual = usual.replace("-", sign)
            assert number(given_value, digits, signed=signed) == usual


def test_what_is_unknown_is_said_so():
    nan = math.nan
    assert number(nan, signed=True) == "-"
    assert tables.interval(nan, nan) == "[unknown]"
    assert tables.with_interval(-0.00001, nan, nan) == "+0.000 [unknown]"
    assert tables.with_error(nan, nan) == "-"
    assert tables.with_error(0.25, nan) == "0.250"
    assert score(nan, nan) == Value("-")
    assert score(0.5, nan) == Value("0.50")


def test_values_with_errors_and_intervals():
    assert tables.with_error(-0.2571, 0.0389, signed=True) == "-0.257 ± 0.039"
    assert tables.with_interval(0.229, 0.192, 0.2651) == "+0.229 [+0.192, +0.265]"
    assert score(3.481, 0.171) == Value("3.48", "±.17")
    assert score(3.481, 1.171) == Value("3.48", "±1.17")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("a\nb\tc\rd\u2028e\x85f\xa0g", "a b c d e f g"),
        ("\x07\x9b\x7f\x00\udc80", "\ufffd" * 5),
        ("\u202egpj.exe\u2066\u200f\u200b", "\ufffdgpj.exe\ufffd\ufffd\ufffd"),
        (
            "می\u200cخواهم 👩🏽\u200d🚒 ❤\ufe0f α 漢字 [IND]",
            "می\u200cخواهم 👩🏽\u200d🚒 ❤\ufe0f α 漢字 [IND]",
        ),
    ],
)
def test_what_steers_a_terminal_is_left_out_of_foreign_text(text, plain):
    assert plain_text(text) == plain


def test_a_pipe_is_wide_unless_columns_says_otherwise(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert tables.terminal().width == tables.WIDTH == 250
    monkeypatch.setenv("COLUMNS", "70")
    assert tables.terminal().width == 70


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_pipe_that_is_said_to_be_a_dumb_terminal_has_the_width_it_was_told(
    name, monkeypatch, capsys
):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("COLUMNS", "60")
    assert tables.terminal().width == 60
    monkeypatch.delenv("COLUMNS")
    assert tables.terminal().width == tables.piped(io.StringIO()).width == 250


def test_sentences_are_folded_on_a_terminal_and_whole_in_a_pipe():
    sentence = "One :smile: [red]sentence\x1b[0m with\nmany words " + "word " * 20
    whole, folded = io.StringIO(), io.StringIO()
    tables.say(sentence, tables.console_of(40, whole))
    assert whole.getvalue() == plain_text(sentence).rstrip() + "\n"
    tables.say(sentence, Console(file=folded, width=40, height=9, force_terminal=True))
    lines = folded.getvalue().splitlines()
    assert len(lines) > 2
    assert_tidy("\n".join(lines), 40)
    assert " ".join(lines) == plain_text(sentence).rstrip()
