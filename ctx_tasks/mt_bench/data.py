"""MT-Bench: its questions, reference answers and judge prompts, read from where they are published.

Source: Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena"
(https://arxiv.org/abs/2306.05685): 80 questions of two turns in 8 categories, a judge that rates
single answers from 1 to 10, with a reference answer for math, reasoning and coding. Nothing of
their text is in this repository: questions come from `HuggingFaceH4/mt_bench_prompts`, judge
prompts and GPT-4's reference answers from the FastChat release, or all of it from local files.

A question is known by a hash of its text, the hub's `prompt_id`: the hub has no `question_id`, and
the release no `prompt_id`. Reference answers have a `question_id` alone, so the release's questions
say which text they belong to.

The texts are foreign: placeholders are filled in one pass, so braces in an answer stay what they
are. Only the four prompts that rate a single answer are read; the pairwise ones are not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from ctx_tasks import hub
from ctx_tasks.errors import UserError
from ctx_tasks.rows import Record, fetch, listed, read_file, read_files

if TYPE_CHECKING:
    from datasets import Dataset

OPTION = "mt_bench_files"
HUB = "HuggingFaceH4/mt_bench_prompts"
_RELEASE = "https://raw.githubusercontent.com/lm-sys/FastChat/v0.2.36/fastchat/llm_judge/data"
QUESTIONS_URL = f"{_RELEASE}/mt_bench/question.jsonl"
PROMPTS_URL = f"{_RELEASE}/judge_prompts.jsonl"
REFERENCES_URL = f"{_RELEASE}/mt_bench/reference_answer/gpt-4.jsonl"
# Categories whose answers are right or wrong: the judge is shown a reference answer.
WITH_REFERENCE = ("math", "reasoning", "coding")
# The published names of the prompts, by turn (from 0) and whether there is a reference answer.
PROMPT_NAMES = {
    (0, False): "single-v1",
    (0, True): "single-math-v1",
    (1, False): "single-v1-multi-turn",
    (1, True): "single-math-v1-multi-turn",
}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class Question(TypedDict):
    """One question: `turns` are the user's two messages, `id` is `identity` of them."""

    id: str
    category: str
    turns: list[str]


@dataclass(frozen=True)
class Prompt:
    """A judge prompt: the system message, and the user message with `{placeholders}`."""

    system: str
    template: str


@dataclass(frozen=True)
class JudgeData:
    """What the judge is told beside question and answer.

    Attributes:
        prompts: by published name.
        references: two answers by `Question.id`, only of questions that have one.
        sha256: of both, so that ratings by other prompts are not compared.
    """

    prompts: dict[str, Prompt]
    references: dict[str, list[str]]
    sha256: str


def questions(
    *, mt_bench_files: Any = None, data_used: dict[str, Any] | None = None, **_unused: Any
) -> dict[str, Dataset]:
    """The questions as the harness wants them: `{"test": Dataset}` of `Question` columns.

    Args:
        mt_bench_files: a path, folder, URL or list of these; None for the hub's data set. Judge
            prompts and reference answers may be among them.
        data_used: filled with `source`, `sha256` and `rows`, see `ctx_tasks.reading.squad`.

    Raises:
        UserError: data that cannot be fetched or read, or holds no question of two turns.
    """
    from datasets import Dataset

    records, source = _hub() if mt_bench_files is None else _local(mt_bench_files)
    rows = _unique(_parsed(records, _question))
    if not rows:
        raise UserError(
            f"{source} holds no MT-Bench question; name question.jsonl, or the folder it is in, "
            f'with --metadata \'{{"{OPTION}": "PATH"}}\'.'
        )
    if data_used is not None:
        data_used.update(source=source, sha256=_sha256(rows), rows=len(rows))
    return {"test": Dataset.from_list([dict(row) for row in rows])}


def judge_data(files: Any = None) -> JudgeData:
    """Judge prompts and reference answers from `files`; what is not among them as published.

    Raises:
        UserError: a file that cannot be fetched or read, a prompt that is missing or has a
            placeholder that nothing fills.
    """
    records = [] if files is None else list(read_files(files, OPTION))
    prompts = dict(_parsed(records, _prompt) or _parsed(_published(PROMPTS_URL), _prompt))
    missing = [name for name in PROMPT_NAMES.values() if name not in prompts]
    if missing:
        raise UserError(
            f"The judge prompts lack {', '.join(missing)}; give judge_prompts.jsonl of the "
            f"FastChat release as {OPTION}."
        )
    references = _referenced(records)
    used = {name: prompts[name] for name in PROMPT_NAMES.values()}
    told = [{name: asdict(prompt) for name, prompt in used.items()}, references]
    return JudgeData(used, references, _sha256(told))


def judge_messages(
    data: JudgeData, question: Question, answers: Sequence[str], turn: int
) -> list[dict[str, str]]:
    """The chat messages that ask for a rating of `answers[turn]` (turn from 0).

    Raises:
        UserError: a question of math, reasoning or coding without a reference answer.
    """
    needed = question["category"] in WITH_REFERENCE
    prompt = data.prompts[PROMPT_NAMES[turn, needed]]
    references = _references(data, question) if needed else []
    values = _values(question["turns"], answers, references, turn)
    return [
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": fill(prompt.template, values)},
    ]


def fill(template: str, values: dict[str, str]) -> str:
    """`template` with every `{name}` replaced by its value, in one pass: values stay untouched."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def _values(
    asked: Sequence[str], answers: Sequence[str], references: Sequence[str], turn: int
) -> dict[str, str]:
    """What the placeholders of a turn's prompt stand for."""
    values = {"question": asked[0], "answer": answers[0]} if turn == 0 else {}
    columns = {"question": asked, "answer": answers, "ref_answer": references}
    for name, texts in columns.items():
        values |= {f"{name}_{n}": text for n, text in enumerate(texts[: turn + 1], start=1)}
    return values


# ---- reading -----------------------------------------------------------------------------------


def _published(url: str) -> Iterator[Record]:
    return read_file(fetch(url, OPTION), url)


def _local(files: Any) -> tuple[Iterable[Record], str]:
    return read_files(files, OPTION), ", ".join(listed(files, OPTION))


def _hub() -> tuple[Iterator[Record], str]:
    """The hub's rows, and its name with the commit."""
    instead = (
        f'pass local files with --metadata \'{{"{OPTION}": "PATH"}}\' (question.jsonl, '
        "judge_prompts.jsonl and the reference answers of the FastChat release)."
    )
    rows, commit = hub.load(HUB, split="train", instead=instead)
    records = (Record(f"{HUB}, row {number}", row) for number, row in enumerate(rows, start=1))
    return records, f"{HUB}@{commit}"


def _parsed(records: Iterable[Record], parse: Callable[[Record], Any | None]) -> list[Any]:
    found = (parse(record) for record in records)
    return [one for one in found if one is not None]


def _question(record: Record) -> Question | None:
    """A row of question.jsonl, or of the hub's data set; None for a row of another kind."""
    if _kind(record) != "question":
        return None
    turns: Any = record.value.get("turns", record.value.get("prompt"))
    category = record.value.get("category")
    if not isinstance(category, str) or not _two_texts(turns):
        raise UserError(
            f"{record.where} is no MT-Bench question: it needs a category and two turns, but has "
            f"{', '.join(map(str, record.value))}; {_FORMATS}"
        )
    return {"id": identity(turns), "category": category, "turns": list(turns)}


def identity(turns: Sequence[str]) -> str:
    """The hub's `prompt_id`: eight digits or fewer of the sha256 of the turns, joined."""
    digest = hashlib.sha256("".join(turns).encode("utf-8", "surrogatepass")).hexdigest()
    return str(int(digest, 16) % 10**8)


_FORMATS = "use question.jsonl of the FastChat release or the columns of " + HUB + "."


def _kind(record: Record) -> str:
    """What a row is: "prompt", "reference" or, whatever else, "question"."""
    if "prompt_template" in record.value:
        return "prompt"
    return "reference" if "choices" in record.value else "question"


def _two_texts(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(text, str) for text in value)
    )


def _unique(rows: list[Question]) -> list[Question]:
    seen: set[str] = set()
    for row in rows:
        if row["id"] in seen:
            raise UserError(f"{_shown(row)} is there twice; name one file of questions.")
        seen.add(row["id"])
    return rows


def _prompt(record: Record) -> tuple[str, Prompt] | None:
    if _kind(record) != "prompt" or record.value.get("name") not in PROMPT_NAMES.values():
        return None
    system, template = record.value.get("system_prompt"), record.value["prompt_template"]
    if not isinstance(system, str) or not isinstance(template, str):
        raise UserError(f"{record.where} needs system_prompt and prompt_template as text.")
    _check_placeholders(record, template)
    return record.value["name"], Prompt(system, template)


def _check_placeholders(record: Record, template: str) -> None:
    """A prompt may name only what its turn has, and must show the answer it is to rate."""
    [(turn, needed)] = [key for key, name in PROMPT_NAMES.items() if name == record.value["name"]]
    known = _values(["", ""], ["", ""], ["", ""] if needed else [], turn)
    used = set(_PLACEHOLDER.findall(template))
    answer = {"answer", "answer_1"} if turn == 0 else {"answer_2"}
    if used - known.keys() or not used & answer:
        wrong = ", ".join(sorted(used - known.keys())) or f"no {' or '.join(sorted(answer))}"
        raise UserError(
            f"{record.where} ({record.value['name']}) has placeholders that cannot be filled or "
            f"lacks the answer ({wrong}); it may use {', '.join(known)} in braces."
        )


def _referenced(records: Sequence[Record]) -> dict[str, list[str]]:
    """Reference answers by the id of their question."""
    answers = dict(_parsed(records, _reference) or _parsed(_published(REFERENCES_URL), _reference))
    numbered = _parsed(records, _numbered) or _parsed(_published(QUESTIONS_URL), _numbered)
    return {one: answers[number] for number, one in numbered if number in answers}


def _numbered(record: Record) -> tuple[str, str] | None:
    """`question_id` and id of a row of question.jsonl."""
    question = _question(record)
    if question is None or "question_id" not in record.value:
        return None
    return str(record.value["question_id"]), question["id"]


def _reference(record: Record) -> tuple[str, list[str]] | None:
    """`question_id` and two answers of a row of reference_answer/gpt-4.jsonl."""
    if _kind(record) != "reference":
        return None
    try:
        turns = record.value["choices"][0]["turns"]
    except (LookupError, TypeError):
        turns = None
    if "question_id" not in record.value or not _two_texts(turns):
        raise UserError(
            f"{record.where} is no reference answer: it needs question_id and two turns in its "
            "first choice, as reference_answer/gpt-4.jsonl of the FastChat release has them."
        )
    return str(record.value["question_id"]), list(turns)


def _references(data: JudgeData, question: Question) -> list[str]:
    answers = data.references.get(identity(question["turns"]))
    if answers is None:
        raise UserError(
            f"{_shown(question)} ({question['category']}) has no reference answer; give "
            f"question.jsonl and reference_answer/gpt-4.jsonl of the FastChat release as {OPTION}."
        )
    return answers


def _shown(question: Question) -> str:
    start = " ".join(question["turns"][0].split())[:50]
    return f"The MT-Bench question {start!r}"


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
