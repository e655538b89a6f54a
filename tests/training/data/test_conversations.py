"""Each cleaning step alone, their order, and fschat as the judge where it is one."""

from __future__ import annotations

import copy
import json
import os
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastchat.data import clean_sharegpt, split_long_conversation

from ctx_tasks.errors import UserError
from training.data import cleaning as c
from training.data.formats import to_conversation

PATTERNS = c.load_patterns()


def chat(*turns: str) -> c.Messages:
    """`u:text`, `a:text`, `s:text` -> messages."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    return [{"role": roles[t[0]], "content": t[2:]} for t in turns]


def test_responses_before_the_first_instruction_are_removed() -> None:
    messages = chat("s:Be brief.", "a:one", "a:two", "u:q", "a:r")
    assert c.drop_orphan_responses(messages) == chat("s:Be brief.", "u:q", "a:r")
    assert c.drop_orphan_responses(chat("a:one")) == []


def test_instructions_after_the_last_response_are_removed() -> None:
    assert c.drop_unanswered(chat("u:q", "a:r", "u:x", "u:y")) == chat("u:q", "a:r")


@pytest.mark.parametrize(
    ("turns", "fine"),
    [
        (("u:q", "a:r"), True),
        (("s:x", "u:q", "a:r", "u:q", "a:r"), True),
        (("u:q", "u:q", "a:r"), False),
        (("u:q", "a:r", "a:r"), False),
        (("u:q", "a:r", "s:x", "u:q", "a:r"), False),
        (("u:q", "a:r", "u:q"), False),
    ],
)
def test_only_alternating_roles_pass(turns: tuple[str, ...], fine: bool) -> None:
    assert c.require_alternation(chat(*turns)) == (chat(*turns) if fine else [])


def test_blocked_words_are_vicunas() -> None:
    assert c.drop_blocked(chat("u:q", "a:I am ChatGPT.")) == []
    assert c.drop_blocked(chat("u:q", "a:I am.")) == chat("u:q", "a:I am.")


EXPORT = (
    '<div class="markdown prose"><p>Use <strong>sorted</strong>:</p><pre><div>pythonCopy code'
    "</div><code>sorted(a_b)\n</code></pre><ol><li>one</li><li>two</li></ol></div>"
)


def test_an_html_export_is_cleaned_by_fschats_function() -> None:
    messages = chat("u:How do I sort?", f"a:{EXPORT}")
    cleaned = c.clean_html(messages)
    assert cleaned[1]["content"] == clean_sharegpt.html_to_markdown(EXPORT)
    assert "**sorted**" in cleaned[1]["content"]
    assert "<" not in cleaned[1]["content"]


@pytest.mark.parametrize(
    "answer",
    [
        "Use this:\n\n```html\n<div class='a'>x</div>\n```\n\nand a\\_b \\*c\\*.",
        "A List<String> holds strings; 1 < 2 and 3 > 2.",
        "two\n\nparagraphs",
    ],
)
def test_markup_that_is_only_talked_about_stays(answer: str) -> None:
    messages = chat("u:<div>what is this?</div>", f"a:{answer}")
    assert c.clean_html(messages) == messages


def test_copy_buttons_give_an_export_away() -> None:
    messages = chat("u:q", "a:```\n$pythonCopy code$print(1)\n\n```")
    assert "Copy code" not in c.clean_html(messages)[1]["content"]


def test_html_nested_beyond_parsing_drops_the_conversation_instead_of_failing() -> None:
    assert c.clean_html(chat("u:q", "a:" + "<div><b>" * 5000 + "x")) == []


@pytest.mark.parametrize("nothing", ["", "  \n", "\u200b"])
def test_a_conversation_is_cut_before_its_first_empty_turn(nothing: str) -> None:
    whole = chat("u:q", "a:r", "u:again", f"a:{nothing}", "u:more", "a:lost")
    assert c.cut_at_empty(whole) == chat("u:q", "a:r")
    assert c.cut_at_empty(chat("u:q", "a:r", f"u:{nothing}", "a:r")) == chat("u:q", "a:r")


def test_an_empty_system_message_is_removed_alone() -> None:
    assert c.cut_at_empty(chat("s: ", "u:q", "a:r")) == chat("u:q", "a:r")


def test_sixteen_characters_are_enough() -> None:
    assert c.drop_short(chat("u:12345678", "a:12345678")) != []
    assert c.drop_short(chat("u:12345678", "a:1234567")) == []


@pytest.mark.parametrize(
    "response",
    [
        "As an AI language model, I do not have opinions.",
        "I'm sorry, but I cannot help with that.",
        "I’m sorry, but I can’t assist with that request.",
        "I am sorry, but as an AI I cannot do so.",
        "Sorry, I am not able to open links.",
        "I apologize, but I am unable to write this.",
        "I cannot fulfill this request.",
        "I'm unable to browse the internet.",
        "Unfortunately, I don't have access to current data.",
        "I'm sorry, but I am a text-based AI language model and do not have the ability to search.",
        "This goes against my programming.",
        "It would not be right. It is not appropriate for me to say so.",
        "抱歉，我无法回答这个问题。",
        "作为一个人工智能语言模型，我没有感情。",
    ],
)
def test_refusals_are_recognised(response: str) -> None:
    assert c.is_refusal(response, PATTERNS)


@pytest.mark.parametrize(
    "response",
    [
        "I apologize for the confusion. Here is the corrected code.",
        "I'm sorry to hear that. Have you tried restarting?",
        "Sorry about that, I will use the other table.",
        "The court cannot help the plaintiff in this case.",
        "A language model predicts the next token.",
        "Yes. " * 100 + "As an AI language model, I cannot.",
        "You can't use a list as a key; use a tuple.",
        "Artificial intelligence is a field of computer science.",
        "作为一个人工智能助手，我很高兴为您解答。没有问题。",
    ],
)
def test_answers_are_not_taken_for_refusals(response: str) -> None:
    assert not c.is_refusal(response, PATTERNS)


def test_a_refusal_goes_with_its_instruction() -> None:
    messages = chat("s:x", "u:q", "a:r", "u:bad", "a:I cannot help you.", "u:p", "a:s")
    assert c.drop_refusals(messages, PATTERNS) == chat("s:x", "u:q", "a:r", "u:p", "a:s")


def test_a_pattern_file_can_be_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("# a comment\n\n^(no+)\\b\n(b)\\1\n")
    patterns = c.load_patterns(own)
    assert c.is_refusal("Nooo way", patterns)
    assert c.is_refusal("abbey", patterns)
    assert not c.is_refusal("I cannot help you.", patterns)


def test_a_broken_pattern_file_is_named_with_its_line(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("fine\n(open\n")
    with pytest.raises(UserError, match=r"Line 2 of .*own\.txt is not a regular expression"):
        c.load_patterns(own)
    own.write_text("# nothing\n")
    with pytest.raises(UserError, match="holds no pattern"):
        c.load_patterns(own)
    with pytest.raises(UserError, match="no pattern file"):
        c.load_patterns(tmp_path / "nowhere.txt")


def test_the_papers_steps_depend_on_the_format() -> None:
    def steps(source_format: str) -> set[str]:
        return set(c.cleaning_steps(c.Switches(), PATTERNS, source_format))

    everywhere = {"orphans", "unanswered", "alternation", "empty"}
    assert steps("messages") == everywhere
    assert steps("pairs") == everywhere | {"refusals"}
    assert steps("sharegpt") == everywhere | {"refusals", "blocked_words", "clean_html", "short"}


def test_every_step_can_be_switched_on_and_off() -> None:
    names = set(c.Switches().resolve("messages"))
    for wanted in (True, False):
        switches = c.Switches(**dict.fromkeys(names, wanted))
        assert set(switches.resolve("messages").values()) == {wanted}
        assert len(c.cleaning_steps(switches, PATTERNS, "messages")) == (8 if wanted else 0)
    assert names == set(c.REASONS)


def test_cleaning_names_what_each_step_did() -> None:
    steps = c.cleaning_steps(c.Switches(), PATTERNS, "sharegpt")
    messages = chat("a:0", "u:A long question?", "a:Yes.", "u:x", "a:I cannot help you.", "u:y")
    cleaned = c.clean(messages, steps)
    assert cleaned.messages == chat("u:A long question?", "a:Yes.")
    assert cleaned.changes == {"orphans": 1, "unanswered": 1, "refusals": 2}
    assert cleaned.dropped_by is None


@pytest.mark.parametrize(
    ("turns", "step"),
    [
        ((), "no messages"),
        (("s:only a system message",), "no messages"),
        (("a:r",), "orphans"),
        (("u:q",), "unanswered"),
        (("u:q", "u:q", "a:r"), "alternation"),
        (("u:what is openai?", "a:r"), "blocked_words"),
        (("u:q", "a: "), "empty"),
        (("u:q", "a:r"), "short"),
        (("s:x", "u:a question", "a:I cannot help you."), "refusals"),
    ],
)
def test_a_dropped_conversation_names_the_step(turns: tuple[str, ...], step: str) -> None:
    cleaned = c.clean(chat(*turns), c.cleaning_steps(c.Switches(), PATTERNS, "sharegpt"))
    assert cleaned.dropped_by == step
    assert cleaned.messages == []


def test_duplicates_share_their_first_round() -> None:
    short, long = chat("u:q", "a:r"), chat("s:x", "u:q", "a:r", "u:more", "a:more")
    assert c.opening_digest(short) == c.opening_digest(long)
    assert c.opening_digest(short) != c.opening_digest(chat("u:qa", "a:r"))
    assert c.opening_digest(chat("u:qa", "a:r")) != c.opening_digest(chat("u:q", "a:ar"))
    assert len(c.opening_digest(short)) == 16


def _fschat_split(lengths: list[int], max_length: int) -> list[list[int]]:
    """Message indices of fschat's pieces, for messages of these lengths."""
    split_long_conversation.max_length = max_length
    split_long_conversation.tokenizer = lambda text: SimpleNamespace(
        input_ids=[0] * (lengths[int(text)] - c.MESSAGE_OVERHEAD)
    )
    turns = [{"from": "x", "value": str(index)} for index in range(len(lengths))]
    pieces = split_long_conversation.split_one_sample({"id": "x", "conversations": turns})
    return [[int(turn["value"]) for turn in piece["conversations"]] for piece in pieces]


def test_splitting_is_fschats_but_loses_nothing() -> None:
    draw = random.Random("split")
    lost = 0
    for _ in range(300):
        lengths = [draw.randint(6, 40) for _ in range(2 * draw.randint(1, 6))]
        messages = chat(*[f"{'ua'[i % 2]}:{i}" for i in range(len(lengths))])
        ours = [
            [int(m["content"]) for m in piece] for _, piece in c.split_rounds(messages, lengths, 90)
        ]
        theirs = [piece for piece in _fschat_split(lengths, 90) if piece]
        assert [i for piece in ours for i in piece] == list(range(len(lengths)))
        assert all(len(p) == 2 or sum(lengths[i] for i in p) <= 90 for p in ours)
        assert ours[: len(theirs)] == theirs
        lost += len(theirs) < len(ours)
    assert 0 < lost < 300


def test_each_piece_begins_with_the_system_message_and_counts_it() -> None:
    messages = chat("s:S", "u:0", "a:1", "u:2", "a:3")
    assert c.split_rounds(messages, [5, 10, 10, 10, 10], 45) == [(1, messages)]
    assert c.split_rounds(messages, [6, 10, 10, 10, 10], 45) == [
        (1, chat("s:S", "u:0", "a:1")),
        (3, chat("s:S", "u:2", "a:3")),
    ]


def test_a_round_longer_than_the_window_is_a_piece_of_its_own() -> None:
    messages = chat("u:0", "a:1", "u:2", "a:3", "u:4", "a:5")
    pieces = c.split_rounds(messages, [1, 1, 50, 50, 1, 1], 10)
    assert [start for start, _ in pieces] == [0, 2, 4]


def test_steps_leave_their_input_alone() -> None:
    messages = chat("a:0", "u:q", f"a:{EXPORT}", "u:x", "a:I cannot help you.", "u:y")
    before = copy.deepcopy(messages)
    c.clean(messages, c.cleaning_steps(c.Switches(), PATTERNS, "sharegpt"))
    assert messages == before


@pytest.mark.realdata
def test_on_real_sharegpt_our_structure_is_fschats() -> None:
    path = Path(os.environ["CTX_REAL_DATA"]) / "sft" / "sharegpt_sample.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    steps = c.cleaning_steps(c.Switches(refusals=False), PATTERNS, "sharegpt")
    agreed = 0
    for index, row in enumerate(rows):
        ours = c.clean(to_conversation(row, index).messages, steps)
        theirs, code = clean_sharegpt.clean_html_one_sample(copy.deepcopy(row))
        assert (ours.dropped_by is None) == (code == 0), row["id"]
        if code == 0:
            turns = [m for m in ours.messages if m["role"] != "system"]
            converted = [clean_sharegpt.html_to_markdown(m["content"]) for m in turns]
            assert converted == [turn["value"] for turn in theirs["conversations"]]
            agreed += 1
    assert agreed == 244
