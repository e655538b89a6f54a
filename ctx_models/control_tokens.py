"""Control tokens of a tokenizer, and encoding that keeps their strings in data as text.

A tokenizer turns every `</s>` in a text into its end-of-sequence token, whoever wrote it. Where a
text has such a string that is not meant as a token, it is encoded by a twin of the tokenizer in
which each control token is spelled as one private-use character, and only the meant occurrences
are respelled. Without such strings the ids are those of `tokenizer(text)`.

Divergence from transformers' `sanitize_control_tokens`, which encodes the text piece by piece: one
pass keeps the merges across the pieces, and the character offsets.
"""

from __future__ import annotations

import itertools
import json
import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

PRIVATE_USE = re.compile("[\U000f0000-\U0010ffff]")

# Tokens that steer the model although some tokenizers list them as ordinary (Phi-3's </s>).
_MARKER = re.compile(r"<\|.+\|>|<｜.+｜>|</?s>|\[/?[A-Z_]+\]", re.DOTALL)

Range = tuple[int, int]


class Content(NamedTuple):
    """Characters `start` to `end` are data; `spoken` if the assistant wrote them."""

    start: int
    end: int
    spoken: bool


class Encoded(NamedTuple):
    """Tokens of a text."""

    ids: list[int]
    offsets: np.ndarray  # int64 [tokens, 2], characters of the text
    special: np.ndarray  # bool [tokens]: control token of the template, or added by the tokenizer


def encode(
    tokenizer: Any,
    text: str,
    contents: Sequence[Content],
    meant: Sequence[Range],
    add_special_tokens: bool,
) -> Encoded:
    """Token ids of `text`, in which no control token comes out of `contents`.

    `contents` are sorted and disjoint; `meant` are ranges inside them that are tokens all the same.
    """
    controls = _controls(tokenizer)
    template = controls.between(text, contents)
    own = sorted([*template, *controls.within(text, contents, meant)])
    if [match.span() for match in controls.pattern.finditer(text)] == own:
        encoding = _plain(tokenizer, text, add_special_tokens)
        ids, offsets = encoding.ids, _offsets(encoding)
    else:
        twin = controls.twin(tokenizer, text)
        encoding = twin.encode(text, own, add_special_tokens)
        ids, offsets = twin.real_ids(encoding), _moved(_offsets(encoding), own)
    added = np.array([number is None for number in encoding.sequence_ids], dtype=bool)
    control = np.isin(ids, controls.ids) & (overlapping(offsets, template) >= 0)
    return Encoded(ids, offsets, added | control)


def overlapping(offsets: np.ndarray, ranges: Sequence[Sequence[int]]) -> np.ndarray:
    """For each token, the number of the first range it shares a character with, or -1.

    `offsets` is [tokens, 2]; a token without width counts for the character after it. `ranges`
    begin with start and end, are sorted and disjoint.
    """
    if not ranges:
        return np.full(len(offsets), -1)
    starts, ends = np.array([item[:2] for item in ranges], dtype=np.int64).T
    first = np.searchsorted(ends, offsets[:, 0], side="right")
    candidate = np.minimum(first, len(ranges) - 1)
    last = np.maximum(offsets[:, 1], offsets[:, 0] + 1)
    return np.where((first < len(ranges)) & (starts[candidate] < last), candidate, -1)


def _plain(tokenizer: Any, text: str, add_special_tokens: bool) -> Encoding:
    batch = tokenizer(
        text, add_special_tokens=add_special_tokens, return_attention_mask=False, verbose=False
    )
    return batch.encodings[0]


def _offsets(encoding: Encoding) -> np.ndarray:
    return np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)


class _Controls:
    """The control tokens of a tokenizer, and its twin.

    They are the added tokens that are special, have the shape of a marker, or stand in the chat
    template (DeepSeek's role tokens are not special). The last kind is real in assistant text too,
    where the model itself writes it (`<think>`). Whitespace tokens are never controls.
    """

    def __init__(self, added: Mapping[int, Any], template: str) -> None:
        words = {i: token for i, token in added.items() if not token.content.isspace()}
        strict = {i for i, t in words.items() if t.special or _MARKER.fullmatch(t.content)}
        quoted = {i for i, token in words.items() if token.content in template} - strict
        self.ids = np.array(sorted(strict | quoted), dtype=np.int64)
        self._contents = [words[i].content for i in self.ids.tolist()]
        self.pattern = _any_of(self._contents)
        self._spoken = _any_of(words[i].content for i in quoted)
        self._twin: tuple[list[str], _Twin] | None = None

    def between(self, text: str, contents: Sequence[Content]) -> list[Range]:
        """Control strings outside the contents: the template's."""
        starts = [0, *(content.end for content in contents)]
        ends = [*(content.start for content in contents), len(text)]
        gaps = zip(starts, ends, strict=True)
        return [m.span() for gap in gaps for m in self.pattern.finditer(text, *gap)]

    def within(self, text: str, contents: Sequence[Content], meant: Sequence[Range]) -> list[Range]:
        """Control strings inside the contents that are tokens: the meant and the model's own."""
        own = [place for place in meant if self.pattern.fullmatch(text, *place)]
        spoken = (content for content in contents if content.spoken)
        matches = (self._spoken.finditer(text, c.start, c.end) for c in spoken)
        return own + [match.span() for found in matches for match in found]

    def twin(self, tokenizer: Any, text: str) -> _Twin:
        """The twin, made anew where `text` contains its spellings."""
        used = set(PRIVATE_USE.findall(text))
        if self._twin is None or not used.isdisjoint(self._twin[0]):
            free = (chr(code) for code in range(0x100000, 0x10FFFE) if chr(code) not in used)
            spellings = list(itertools.islice(free, len(self._contents)))
            spelling = dict(zip(self._contents, spellings, strict=True))
            self._twin = (spellings, _Twin(tokenizer.backend_tokenizer.to_str(), spelling))
        return self._twin[1]


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the words, the longest first; nothing where there are none."""
    longest_first = sorted(set(words), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


_KNOWN: weakref.WeakKeyDictionary[Any, tuple[Any, _Controls]] = weakref.WeakKeyDictionary()


def _controls(tokenizer: Any) -> _Controls:
    """The control tokens, computed again when the added tokens or the template change."""
    added = tokenizer.added_tokens_decoder
    state = ([(i, t.content, t.special) for i, t in added.items()], tokenizer.chat_template)
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != state:
        template = json.dumps(tokenizer.chat_template or "", ensure_ascii=False)
        known = _KNOWN[tokenizer] = (state, _Controls(added, template))
    return known[1]


class _Twin:
    """The same tokenizer with every control token spelled as one private-use character."""

    def __init__(self, backend: str, spelling: Mapping[str, str]) -> None:
        self._spelling = spelling
        settings = json.loads(backend)
        settings["truncation"] = settings["padding"] = None
        ids = {token["content"]: token["id"] for token in settings["added_tokens"]}
        for token in settings["added_tokens"]:
            token["content"] = spelling.get(token["content"], token["content"])
        _hide_pieces(settings["model"], spelling)
        self._backend = Tokenizer.from_str(json.dumps(settings))
        # Renamed tokens that the model's own vocabulary lacks get other numbers.
        self._real = {
            self._backend.token_to_id(spelling.get(word, word)): i for word, i in ids.items()
        }

    def encode(self, text: str, own: Sequence[Range], add_special_tokens: bool) -> Encoding:
        """Encode with the ranges in `own` as control tokens and all other text as text."""
        respelled, position = [], 0
        for start, end in own:
            respelled += [text[position:start], self._spelling[text[start:end]]]
            position = end
        respelled.append(text[position:])
        return self._backend.encode("".join(respelled), add_special_tokens=add_special_tokens)

    def real_ids(self, encoding: Encoding) -> list[int]:
        """The tokenizer's ids; those its post-processor added (no sequence) are real already."""
        numbers = zip(encoding.ids, encoding.sequence_ids, strict=True)
        return [i if sequence is None else self._real.get(i, i) for i, sequence in numbers]


def _hide_pieces(model: dict[str, Any], spelling: Mapping[str, str]) -> None:
    """Take the control tokens out of a vocabulary, whatever kind of model finds pieces in it.

    Unigram, WordLevel and WordPiece find any entry in plain text, BPE one that merges make or,
    with `ignore_merges`, any.
    """
    if model["type"] == "Unigram":
        model["vocab"] = [[spelling.get(word, word), score] for word, score in model["vocab"]]
        return
    model["vocab"] = {spelling.get(word, word): number for word, number in model["vocab"].items()}
    if model.get("unk_token"):
        model["unk_token"] = spelling.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = [
            merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]
        ]
        model["merges"] = [
            [left, right]
            for left, right in pairs
            if spelling.keys().isdisjoint((left, right, left + right))
        ]


def _moved(offsets: np.ndarray, own: Sequence[Range]) -> np.ndarray:
    """Character offsets in the respelled text as offsets in the original one."""
    ranges = np.array(own, dtype=np.int64).reshape(-1, 2)
    growth = np.concatenate([[0], np.cumsum(ranges[:, 1] - ranges[:, 0] - 1)])
    places = ranges[:, 0] - growth[:-1]
    return offsets + growth[np.searchsorted(places, offsets, side="left")]
