"""Properties that hold for any conversation, template and tokenizer."""

from __future__ import annotations

import unicodedata
from typing import Any

import jinja2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctx_models import control_tokens as controls
from ctx_models.spans import Segment, Segmented, segment
from ctx_tasks.errors import UserError
from tests.ctx_models import chats

CONTENT_SEGMENTS = (Segment.USER, Segment.ASSISTANT, Segment.SYSTEM)
MARKERS = (
    *chats.CONTROL,
    *("<s>", "</s>", "<unk>", "<|user|>", "<|end|>", "<|endoftext|>", "<|assistant|>\n"),
    *("<think>", "</think>", "<tool_response>", "[INST]", " [/INST]", "<<SYS>>", "### Human: "),
    *("USER: ", "</s><s>", "<|im_", "end|>", "<", "<｜User｜>", "{{ messages }}", "user"),
)
PLAIN = (
    "the",
    " ",
    "\n",
    "\t",
    "  ",
    "hello",
    "你好",
    "😀",
    "é",
    "e\u0301",
    "\ue000",
    "\U000f0000",
    "",
)

plain_text = st.lists(st.sampled_from(PLAIN) | st.text(max_size=4), max_size=5).map("".join)
plain_text = plain_text.filter(lambda text: not any(0xD800 <= ord(char) < 0xE000 for char in text))
# Free text may spell the shortest control tokens, which then stay text: not plain.
plain_text = plain_text.filter(lambda text: "<s>" not in text and "</s>" not in text)
any_text = st.lists(st.sampled_from(MARKERS) | plain_text, max_size=6).map("".join)


@st.composite
def conversations(draw: Any, text: Any) -> tuple[list[dict[str, str]], dict[str, bool]]:
    """Alternating turns after an optional system message, and the rendering arguments."""
    messages = [{"role": "system", "content": draw(text)}] if draw(st.booleans()) else []
    for turn in range(draw(st.integers(1, 5))):
        role = "assistant" if turn % 2 else "user"
        messages.append({"role": role, "content": draw(text)})
    if messages[-1]["role"] == "assistant":
        return messages, {"continue_final_message": draw(st.booleans())}
    return messages, {"add_generation_prompt": draw(st.booleans())}


def segmented(tok: Any, messages: list[dict[str, str]], **arguments: bool) -> Segmented | None:
    """The segments; without the system message where the template has none, None where
    transformers itself cannot render the conversation."""
    try:
        return segment(tok, messages, **arguments)
    except UserError as error:
        if isinstance(error.__cause__, jinja2.TemplateError):
            return segmented(tok, messages[1:], **arguments)
        with pytest.raises(ValueError, match="continue_final_message"):
            tok.apply_chat_template(messages, tokenize=False, **arguments)
        return None


def spoken(tok: Any, result: Segmented) -> str:
    pairs = zip(result.input_ids, result.segments, strict=True)
    ids = [i for i, kind in pairs if kind in CONTENT_SEGMENTS]
    return unicodedata.normalize("NFC", tok.decode(ids, clean_up_tokenization_spaces=False))


def compared(text: str) -> str:
    """A text as far as tokenizers keep it: composed, without spaces (some tokens swallow them)."""
    return "".join(unicodedata.normalize("NFC", text).split())


def check_text_and_control_tokens(tok: Any, messages: Any, arguments: Any) -> None:
    result = segmented(tok, messages, **arguments)
    if result is None:
        return
    assert len(result.input_ids) == len(result.segments) == len(result.messages)
    kept = messages[-len(messages) + (messages[0]["role"] == "system") :]
    candidates = [tok.apply_chat_template(kept, tokenize=False, **arguments)]
    if kept is not messages:
        candidates += rendered_or_none(tok, messages, arguments)
    assert result.text in candidates
    clean = [{**m, "content": "x" if m["content"].strip() else m["content"]} for m in messages]
    reference = segmented(tok, clean, **arguments)
    assert reference is not None
    assert result.segments.count(Segment.SPECIAL) == reference.segments.count(Segment.SPECIAL)


def rendered_or_none(tok: Any, messages: Any, arguments: Any) -> list[str]:
    try:
        return [tok.apply_chat_template(messages, tokenize=False, **arguments)]
    except jinja2.TemplateError:
        return []


def check_content_is_whole(tok: Any, messages: Any, arguments: Any) -> None:
    # A letter no template writes at both ends: where it is, content is.
    framed = [{**m, "content": f"Ж{m['content']}Ж"} for m in messages]
    result = segmented(tok, framed, **arguments)
    assert result is not None
    written = compared(spoken(tok, result))
    system_dropped = result.text.count("Ж") < 2 * len(framed)
    for message in framed[1 if system_dropped else 0 :]:
        assert compared(message["content"]) in written
    pairs = zip(result.input_ids, result.segments, strict=True)
    template = tok.decode([i for i, kind in pairs if kind not in CONTENT_SEGMENTS])
    assert "Ж" not in template


def check_ids_without_markers(tok: Any, messages: Any, arguments: Any) -> None:
    result = segmented(tok, messages, **arguments)
    if result is None:
        return
    bos = tok.bos_token and result.text.startswith(tok.bos_token)
    plain = tok(result.text, add_special_tokens=not bos)
    assert result.input_ids == plain.input_ids


def check_twin(tok: Any, text: str) -> None:
    """All control strings meant as tokens: the twin is the tokenizer."""
    known = controls._controls(tok)
    own = known.between(text, [])
    twin = known.twin(tok, text)
    coded = twin.encode(text, own, True)
    plain = tok(text, return_offsets_mapping=True)
    assert twin.real_ids(coded) == plain.input_ids
    moved = controls._moved(controls._offsets(coded), own)
    assert [tuple(pair) for pair in moved.tolist()] == plain.offset_mapping


QUICK = settings(max_examples=15, suppress_health_check=list(HealthCheck))
THOROUGH = settings(max_examples=25, suppress_health_check=list(HealthCheck))
# Unigram has no token for an unknown character, so its content cannot be decoded back.
LOSSLESS = ("byte_level", "byte_fallback")


@pytest.mark.parametrize("kind", chats.TOKENIZERS)
@pytest.mark.parametrize("name", chats.TEMPLATES)
@given(example=conversations(any_text))
@QUICK
def test_content_adds_no_control_token(name: str, kind: str, example: Any) -> None:
    check_text_and_control_tokens(chats.with_template(kind, name), *example)


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("name", [n for n in chats.TEMPLATES if n != "thinking"])
@given(example=conversations(any_text))
@QUICK
def test_content_tokens_decode_to_the_content(name: str, kind: str, example: Any) -> None:
    check_content_is_whole(chats.with_template(kind, name), *example)


@pytest.mark.parametrize("kind", chats.TOKENIZERS)
@pytest.mark.parametrize("name", chats.TEMPLATES)
@given(example=conversations(plain_text))
@QUICK
def test_plain_content_gives_the_tokenizers_ids(name: str, kind: str, example: Any) -> None:
    check_ids_without_markers(chats.with_template(kind, name), *example)


@pytest.mark.parametrize("kind", chats.TOKENIZERS)
@given(text=any_text)
@QUICK
def test_the_twin_is_the_tokenizer(kind: str, text: str) -> None:
    check_twin(chats.with_template(kind, "zephyr"), text)


@given(st.data())
@QUICK
def test_overlap_is_that_of_characters(data: Any) -> None:
    edges = sorted(data.draw(st.sets(st.integers(0, 30), max_size=8)))
    ranges = list(zip(edges[::2], edges[1::2], strict=False))
    start = data.draw(st.integers(0, 30))
    end = data.draw(st.integers(start, 31))
    characters = set(range(start, max(end, start + 1)))
    hits = [n for n, pair in enumerate(ranges) if characters & set(range(*pair))]
    found = controls.overlapping(controls.np.array([[start, end]]), ranges)
    assert found.tolist() == (hits[:1] or [-1])


def real_cases() -> list[tuple[str, str]]:
    published = ("Qwen-Qwen2.5-7B-Instruct", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B")
    published += ("meta-llama-Llama-3.2-3B-Instruct", "microsoft-Phi-3.5-mini-instruct")
    folders = ("phi-3-mini", "qwen2.5-instruct", "tinyllama-1.1b-chat-v1.0")
    names = (*chats.TEMPLATES, *published, "its own")
    return [(folder, name) for folder in folders for name in names]


@pytest.mark.realdata
@pytest.mark.parametrize(("folder", "name"), real_cases())
def test_properties_hold_for_published_tokenizers(folder: str, name: str) -> None:
    tok = chats.real_tokenizer(folder)
    own = tok.chat_template
    if name != "its own":
        tok.chat_template = chats.real_templates()[name]
    cuts = name == "thinking" or "DeepSeek" in name

    @given(example=conversations(any_text), quiet=conversations(plain_text), text=any_text)
    @THOROUGH
    def check(example: Any, quiet: Any, text: str) -> None:
        check_text_and_control_tokens(tok, *example)
        if not cuts:
            check_content_is_whole(tok, *example)
        check_ids_without_markers(tok, *quiet)
        check_twin(tok, text)

    try:
        check()
    finally:
        tok.chat_template = own
