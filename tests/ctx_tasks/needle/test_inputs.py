"""What a needle document is made of: window, tokenizer, haystack, needles, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from transformers import AutoConfig

from ctx_tasks.errors import UserError
from ctx_tasks.needle.inputs import (
    load_haystack,
    load_needles,
    load_tokenizer,
    model_window,
)
from tests import tiny


def test_window_is_the_models_and_not_a_sliding_one(tmp_path: Path) -> None:
    config = AutoConfig.for_model("mistral", max_position_embeddings=777, sliding_window=64)
    config.save_pretrained(tmp_path)
    assert model_window(str(tmp_path), tiny.tokenizer()) == 777
    assert model_window(SimpleNamespace(config=config), tiny.tokenizer()) == 777


def test_window_of_a_composite_model_is_its_text_models(tmp_path: Path) -> None:
    text = {"model_type": "gemma3_text", "max_position_embeddings": 555}
    AutoConfig.for_model("gemma3", text_config=text).save_pretrained(tmp_path)
    assert model_window(str(tmp_path), tiny.tokenizer()) == 555


def test_window_is_unknown_without_a_config(tmp_path: Path) -> None:
    assert model_window(None, tiny.tokenizer()) is None
    assert model_window(str(tmp_path), tiny.tokenizer()) is None


def test_tokenizers_come_by_path_or_loaded(tmp_path: Path) -> None:
    tiny.tokenizer().save_pretrained(tmp_path)
    for arguments in ((tmp_path, None), ("ignored", str(tmp_path)), (None, tiny.tokenizer())):
        assert (
            load_tokenizer(*arguments)("hen")["input_ids"] == tiny.tokenizer()("hen")["input_ids"]
        )


def test_a_missing_tokenizer_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='--metadata \'{"tokenizer": "NAME_OR_PATH", "max_length"'):
        load_tokenizer(None, None)
    with pytest.raises(UserError, match=f"{tmp_path} could not be loaded"):
        load_tokenizer(str(tmp_path), None)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    slow = SimpleNamespace(encode=len, is_fast=False)
    with pytest.raises(UserError, match="is a slow one without character offsets"):
        load_tokenizer(None, slow)


def test_haystacks_are_read_from_text_folder_and_columns(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Second one. \r\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("First one.", encoding="utf-8")
    lines = "".join(
        json.dumps({"text": text}) + "\n" for text in ("First one.", " ", "Second one.")
    )
    (tmp_path / "c.jsonl").write_text(lines, encoding="utf-8")
    expected = ("First one.", "Second one.")
    folder, column = load_haystack(str(tmp_path)), load_haystack(tmp_path / "c.jsonl")
    assert folder.texts == column.texts == expected
    assert folder.sha256 == column.sha256
    assert load_haystack(tmp_path / "a.txt").texts == expected[:1]
    assert load_haystack(tmp_path / "a.txt").name == "a.txt"


def test_builtin_haystack_is_the_packaged_essays() -> None:
    builtin = load_haystack("builtin")
    assert (builtin.name, len(builtin.texts)) == ("builtin", 16)


def test_bad_haystacks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.")
    (tmp_path / "rows.jsonl").write_text('{"text": "x"}\n{"body": "x"}\n', encoding="utf-8")
    (tmp_path / "empty").mkdir()
    cases = {
        "nowhere.txt": "haystack names .*nowhere.txt, which does not exist; use builtin, essays",
        "blank.txt": "holds no text",
        "latin.txt": "is not readable UTF-8 text",
        "rows.jsonl": "line 2 has no column text with a string .found: body",
        "empty": "names the folder .*empty, which holds no file",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            load_haystack(str(tmp_path / name))
    with pytest.raises(UserError, match="haystack must be builtin, essays or a path, but got 7"):
        load_haystack(7)


ONE = {"needle": "Tom hid 3 red keys.", "question": "q?", "response_prefix": "Tom hid"}
BAD_NEEDLES = [
    ("", "must hold a list of sets .*, but it is empty"),
    ("needle: x", "must hold a list of sets .*, but it is dict"),
    ("[1, 2", "cannot be read as YAML"),
    (["x"], "set 1 is no mapping"),
    ([{**ONE, "keywords": []}], "set 1 needs keywords as a list of words"),
    ([{**ONE, "keywords": "red"}], "set 1 needs keywords as a list of words"),
    ([{"needle": "x", "keywords": ["x"]}], "needs question as a text; set 1 needs response_prefix"),
    ([{**ONE, "keywords": ["red", "blue"]}], "set 1 has the keyword 'blue', not a word of its"),
    ([{**ONE, "keywords": ["key"]}], "set 1 has the keyword 'key', not a word of its needle"),
    ([{**ONE, "keywords": ["!"]}], "set 1 has the keyword '!', not a word of its needle"),
    ([{**ONE, "keywords": ["red"], "prefix": "p"}], "set 1 has the unknown key prefix"),
    ([{**ONE, "keywords": ["red"], "id": "a"}] * 2, "uses an id twice"),
]


@pytest.mark.parametrize(("content", "message"), BAD_NEEDLES)
def test_bad_needles_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "needles.yaml"
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_needles(str(path))


def test_missing_needles_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.yaml, which is no file; use paper, several or"):
        load_needles(str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="needles must be paper, several or .* but got None"):
        load_needles(None)


def test_needles_file_numbers_its_sets_and_reads_numbers_as_words(tmp_path: Path) -> None:
    path = tmp_path / "needles.yaml"
    path.write_text(yaml.safe_dump([{**ONE, "keywords": ["red", 3]}]), encoding="utf-8")
    (one,) = load_needles(path)
    assert (one.id, one.keywords) == ("1", ("red", "3"))
