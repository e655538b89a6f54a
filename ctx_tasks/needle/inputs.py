"""What the needle test is made from: haystack texts, needle sets, the model's tokenizer and window.

Everything here reads files (or the hub) and gives plain values; `needle.py` builds from them.
transformers is imported inside the two functions that need it: importing this module is light.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ctx_tasks import hub
from ctx_tasks.errors import UserError
from ctx_tasks.metrics import keyword_recall
from ctx_tasks.rows import Record, read_files

ESSAYS = "baber/paul_graham_essays"
_PACKAGE = Path(__file__).parent
_NEEDLE_KEYS = ("needle", "question", "response_prefix", "keywords")


@dataclass(frozen=True)
class Haystack:
    """Filler texts in their order.

    Attributes:
        name: short and without a folder, to be comparable.
        commit: that the hub served, of texts that it did.
    """

    name: str
    texts: tuple[str, ...]
    commit: str = ""

    @property
    def source(self) -> str:
        """The name, with the commit where there is one."""
        return f"{self.name}@{self.commit}" if self.commit else self.name

    @property
    def sha256(self) -> str:
        """Of the texts joined by blank lines."""
        return hashlib.sha256("\n\n".join(self.texts).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Needle:
    """A needle sentence, what is asked about it, and the words an answer should have."""

    id: str
    needle: str
    question: str
    response_prefix: str
    keywords: tuple[str, ...]


def load_haystack(option: Any) -> Haystack:
    """Read filler texts.

    Args:
        option: "builtin" (the packaged essays), "essays" (`baber/paul_graham_essays`), or a path:
            a .txt file, a folder of .txt files (by name), or jsonl, json or parquet with a column
            `text`.

    Raises:
        UserError: a path that does not exist or cannot be read, no text column, nothing but blanks.
    """
    if not isinstance(option, str | Path) or not str(option):
        raise UserError(
            f"haystack must be builtin, essays or a path, but got {option!r}; name one of these."
        )
    name, texts, commit = _from_hub() if option == "essays" else (*_local(str(option)), "")
    kept = tuple(text for text in (_clean(text) for text in texts) if text)
    if not kept:
        raise UserError(f"The haystack {option} holds no text; name another file or folder.")
    return Haystack(name, kept, commit)


def load_needles(option: Any) -> list[Needle]:
    """Read needle sets.

    Args:
        option: "paper" (the one needle of the paper), "several" (eight sets), or the path of a YAML
            file: a list of mappings with needle, question, response_prefix, keywords and, if
            wanted, id (default: the number in the list, from 1).

    Raises:
        UserError: with every fault of the file: keys that are missing or empty, a keyword that is
            not in its needle, an id used twice.
    """
    path = _needles_path(option)
    try:
        sets = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise UserError(f"needles {option} cannot be read as YAML ({reason}).") from error
    if not isinstance(sets, list) or not sets:
        raise UserError(
            f"needles {option} must hold a list of sets with {', '.join(_NEEDLE_KEYS)}, but it is "
            f"{type(sets).__name__ if sets else 'empty'}; see "
            "ctx_tasks/needle/needles/several.yaml."
        )
    faults = [fault for number, one in enumerate(sets, 1) for fault in _faults(one, number)]
    if faults:
        raise UserError(f"needles {option}: {'; '.join(faults)}; correct the file.")
    needles = [_needle(one, number) for number, one in enumerate(sets, 1)]
    if len({needle.id for needle in needles}) < len(needles):
        raise UserError(f"needles {option} uses an id twice; give every set an id of its own.")
    return needles


def load_tokenizer(pretrained: Any, tokenizer: Any, **source: Any) -> Any:
    """The evaluated model's tokenizer, with offsets.

    Args:
        pretrained: the harness's model argument: a name, a path, or a loaded model.
        tokenizer: the same for the tokenizer; None for the model's own.
        source: `revision`, `trust_remote_code`, `subfolder`, `gguf_file`; None where not given.

    Raises:
        UserError: neither is known (a model behind an API), it cannot be loaded, or it is slow.
    """
    wanted = tokenizer or pretrained
    if not wanted:
        raise UserError(
            "The needle test measures lengths with the model's tokenizer, but neither `pretrained` "
            "nor `tokenizer` is among the model arguments; for a model behind an API pass "
            '--metadata \'{"tokenizer": "NAME_OR_PATH", "max_length": TOKENS}\'.'
        )
    loaded = _load_tokenizer(wanted, source)
    if not getattr(loaded, "is_fast", False):
        raise UserError(
            f"The tokenizer {wanted} is a slow one without character offsets; name a fast one "
            f"(with a tokenizer.json) as `tokenizer`."
        )
    return loaded


def model_window(pretrained: Any, tokenizer: Any, **source: Any) -> int | None:
    """The model's context window in tokens, by the harness's own rule (its truncation limit).

    `max_position_embeddings` or its older names, of the text model where there are several; a
    sliding window is not the window, and an adapter does not change it. None if `pretrained` is not
    given or has no config that can be read (models behind an API).
    """
    from transformers import AutoConfig

    from ctx_tasks import harness

    if not pretrained:
        return None
    if not isinstance(pretrained, str | Path):
        return harness.window(pretrained.config, tokenizer)
    try:
        config = AutoConfig.from_pretrained(str(pretrained), **_given(source))
    except (OSError, ValueError):
        return None
    return harness.window(config, tokenizer)


def special_strings(tokenizer: Any) -> list[str]:
    """The strings that the tokenizer reads as control tokens."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*added, *tokenizer.all_special_tokens} - {""})


def _local(option: str) -> tuple[str, list[str]]:
    if option == "builtin":
        return option, _read_folder(_PACKAGE / "haystack")
    path = Path(option).expanduser()
    if not path.exists():
        raise UserError(
            f"haystack names {option}, which does not exist; use builtin, essays or an "
            f"existing path."
        )
    if path.is_dir() and any(path.glob("*.txt")):
        return path.name, _read_folder(path)
    if path.suffix == ".txt":
        return path.name, [_read_text(path)]
    return path.name, [_text_column(record) for record in read_files(option, "haystack")]


def _read_folder(folder: Path) -> list[str]:
    return [_read_text(path) for path in sorted(folder.glob("*.txt"))]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The haystack {path} is not readable UTF-8 text ({error}).") from error


def _from_hub() -> tuple[str, list[str], str]:
    instead = "use haystack builtin or the path of a text file."
    rows, commit = hub.load(ESSAYS, split="train", instead=instead)
    return "essays", list(rows["text"]), commit


def _text_column(record: Record) -> str:
    text = record.value.get("text")
    if not isinstance(text, str):
        raise UserError(
            f"{record.where} has no column text with a string (found: "
            f"{', '.join(map(str, record.value)) or 'nothing'}); rename the haystack's text column."
        )
    return text


def _clean(text: str) -> str:
    return text.replace("\r\n", "\n").strip()


def _needles_path(option: Any) -> Path:
    if not isinstance(option, str | Path) or not str(option):
        raise UserError(
            f"needles must be paper, several or the path of a YAML file, but got {option!r}."
        )
    packaged = _PACKAGE / "needles" / f"{option}.yaml"
    path = packaged if option in ("paper", "several") else Path(option).expanduser()
    if not path.is_file():
        raise UserError(
            f"needles names {option}, which is no file; use paper, several or a YAML file's path."
        )
    return path


def _faults(one: Any, number: int) -> list[str]:
    """What is wrong with a set, each as the middle of a sentence."""
    if not isinstance(one, dict):
        return [f"set {number} is no mapping"]
    faults = [
        f"set {number} needs {key} as {'a list of words' if key == 'keywords' else 'a text'}"
        for key in _NEEDLE_KEYS
        if not _is_filled(one.get(key), key)
    ]
    unknown = sorted(map(str, one.keys() - {*_NEEDLE_KEYS, "id"}))
    faults += [f"set {number} has the unknown key {key}" for key in unknown]
    return faults or _keyword_faults(one, number)


def _is_filled(value: Any, key: str) -> bool:
    if key != "keywords":
        return isinstance(value, str) and value.strip() != ""
    # YAML reads an unquoted 2093 as a number.
    return isinstance(value, list) and bool(value) and all(isinstance(x, str | int) for x in value)


def _keyword_faults(one: dict[str, Any], number: int) -> list[str]:
    missing = [
        str(keyword)
        for keyword in one["keywords"]
        if not any(map(str.isalnum, str(keyword)))
        or keyword_recall(one["needle"], [str(keyword)]) < 1
    ]
    return [
        f"set {number} has the keyword {keyword!r}, not a word of its needle" for keyword in missing
    ]


def _needle(one: dict[str, Any], number: int) -> Needle:
    return Needle(
        id=str(one.get("id", number)),
        needle=one["needle"].strip(),
        question=one["question"].strip(),
        response_prefix=one["response_prefix"].strip(),
        keywords=tuple(map(str, one["keywords"])),
    )


def _load_tokenizer(wanted: Any, source: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    if not isinstance(wanted, str | Path):
        # Already loaded: the tokenizer itself, or a model that knows its name.
        if callable(getattr(wanted, "encode", None)):
            return wanted
        wanted = wanted.name_or_path
    try:
        return AutoTokenizer.from_pretrained(str(wanted), **_given(source))
    # Missing, gated, offline, remote code not allowed: many types for one situation.
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"The tokenizer {wanted} could not be loaded ({type(error).__name__}: {reason}); name "
            f"one that can as `tokenizer`."
        ) from error


def _given(source: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in source.items() if value is not None}
