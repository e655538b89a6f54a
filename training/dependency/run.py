"""A scoring run over a dataset: batched by length, dealt to processes, continued after a kill.

**Batches do not depend on who runs them.** The stream is taken in windows of conversations; a
window is sorted by length in characters and cut into groups of about the same number of tokens;
each group is tokenised, sorted and cut into batches of at most `batch_tokens` tokens, padding
included. Group g belongs to process g mod N. So a batch holds the same rows in the same order
whatever the number of processes and wherever an earlier run was killed, and its scores have the
same bits. (The bits also depend on the device and, on some CPUs, on the number of threads; scores
are stored with six decimals.)

**Finished batches are kept** in part files (`parts`), and the main process merges them at the end.
Memory holds one window, and at the end all scores.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from ctx_models import model_names
from ctx_models.fingerprint import folder_hash, short_hash
from ctx_models.spans import segment
from ctx_tasks.errors import UserError
from ctx_tasks.files import sha256
from ctx_tasks.journal import refuse_other
from training import files
from training.data.messages import Messages, read_messages
from training.dependency.equation import Encoded, Scores, encode, refused, score_batch, window
from training.dependency.parts import Parts

_WINDOW = 4096  # conversations sorted together
_GROUP_BATCHES = 4
_CHARACTERS_A_TOKEN = 4
_BATCH_TOKENS = {"cpu": 2048}
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_QUANTIZATIONS = ("4bit", "8bit")
# A process may wait for the slowest as long as that takes.
_PATIENCE = datetime.timedelta(days=7)

Item = TypeVar("Item")


@dataclass(frozen=True)
class Seed:
    """Which seed model (a bundled one by its name), and how it is loaded, as in `scoring.score`."""

    model: str
    tokenizer: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    quantize: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise UserError(f"dtype is {self.dtype!r}: use one of {', '.join(_DTYPES)}.")
        if self.quantize not in (None, *_QUANTIZATIONS):
            raise UserError(f"quantize is {self.quantize!r}: use 4bit or 8bit, or leave it out.")

    def config(self) -> Any:
        """The model's configuration, without its weights."""
        return _loaded(AutoConfig, "model", self.model, revision=self.revision or "main")

    def depth(self) -> int:
        """How many layers the model has."""
        return int(self.config().get_text_config().num_hidden_layers)

    def load_tokenizer(self) -> Any:
        """The tokenizer, after a look at whether its template can be read at all."""
        name = self.tokenizer or self.model
        revision = None if self.tokenizer else self.revision
        loaded = _loaded(AutoTokenizer, "tokenizer", name, revision=revision or "main")
        if not loaded.chat_template:
            raise UserError(
                f"{name} has no chat template, by which eq. 2 tells user text from responses: give "
                "a chat model with --model, or one's tokenizer with --tokenizer."
            )
        opening = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        segment(loaded, opening)
        return loaded

    def load_model(self, device: torch.device) -> PreTrainedModel:
        """The model on `device`, ready to be measured."""
        keywords: dict[str, Any] = {"dtype": self.dtype, "device_map": {"": device}}
        if self.dtype == "auto" and device.type == "cpu":
            keywords["dtype"] = "float32"
        if self.quantize is not None:
            keywords["quantization_config"] = _quantization(self.quantize, device)
        revision = self.revision or "main"
        return _loaded(
            AutoModelForCausalLM, "model", self.model, revision=revision, **keywords
        ).eval()


def _quantization(bits: str, device: torch.device) -> BitsAndBytesConfig:
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32 if device.type == "cpu" else torch.bfloat16,
    )


def _loaded(loader: Any, kind: str, name: str, **keywords: Any) -> Any:
    try:
        return loader.from_pretrained(model_names.resolve(name), **keywords)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"No {kind} could be loaded from {name!r} ({reason}): give a folder or a hub name."
        ) from error


class ScoringRun:
    """One output being scored on some layers, in this process and those launched with it.

    `start` claims the output, `work` scores this process's share and waits for the others; then the
    main process takes `results`, writes the output and calls `finish`.

    Args:
        source, output, seed, max_length, batch_tokens: as in `scoring.score`.
        layers: layer indices, from 0.
        rows: which rows are scored, by number; None for all.
        options: further settings that decide what the output holds.
    """

    def __init__(
        self,
        source: str | Path,
        output: str | Path,
        seed: Seed,
        layers: Sequence[int],
        max_length: int | None,
        batch_tokens: int | None,
        *,
        command: str,
        rows: Collection[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        files.refuse_overwrite(output, source)
        self._source, self._output, self._seed, self._command = source, output, seed, command
        self._layers, self._rows, self._options = list(layers), rows, options or {}
        _check_layers(self._layers, seed.depth())
        self.max_length = _length(seed.config(), max_length)
        self._tokenizer = seed.load_tokenizer()
        # Without this accelerate would look for a GPU in each launched process.
        on_cpu = seed.device == "cpu" or not torch.accelerator.is_available()
        self._state = PartialState(cpu=on_cpu, timeout=_PATIENCE)
        self._device = torch.device(seed.device) if seed.device else self._state.device
        self._batch_tokens = _batch_tokens(batch_tokens, self._device)
        self._parts = Parts(output)
        self._total: int | None = None
        self._has_refused = False
        self.finished = False

    @property
    def processes(self) -> int:
        """How many processes share the work."""
        return int(self._state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the output."""
        return bool(self._state.is_main_process)

    def say(self, text: str) -> None:
        """Print in the main process alone."""
        if self.is_main:
            print(text, flush=True)

    def start(self) -> bool:
        """Check the data and claim the parts; False if the output is there already.

        Raises UserError for a row without messages, and for parts of another run.
        """
        with self._state.main_process_first():
            if self.is_main:
                self._total = _check_rows(self._source)
                self._refuse_other_output()
                self._parts.claim(self._settings)
                if self._is_written():
                    self._parts.discard()
            self.finished = not self._parts.folder.exists()
        if self.finished:
            self.say(f"{self._output} is finished already; delete it to compute it anew.")
        return not self.finished

    @functools.cached_property
    def _settings(self) -> dict[str, Any]:
        """What decides the output, and so who may continue it."""
        template = str(self._tokenizer.chat_template)
        return {
            "source_sha256": [entry["sha256"] for entry in files.describe(self._source)],
            **asdict(self._seed),
            "weights": folder_hash(model_names.resolve(self._seed.model)),
            "chat_template": short_hash(template),
            "device": self._device.type,
            "layers": self._layers,
            "max_length": self.max_length,
            "batch_tokens": self._batch_tokens,
            **self._options,
        }

    def _refuse_other_output(self) -> None:
        """A finished output of other settings is not written over."""
        meta = files.meta_path(self._output)
        if Path(self._output).is_file() and meta.is_file():
            written = json.loads(meta.read_text(encoding="utf-8"))["settings"]
            refuse_other(Path(self._output), written, self._settings, "a finished run")

    def _is_written(self) -> bool:
        output, meta = Path(self._output), files.meta_path(self._output)
        if not (output.is_file() and meta.is_file()):
            return False
        written = json.loads(meta.read_text(encoding="utf-8"))
        return written["settings"] == self._settings and sha256(output) == written["output_sha256"]

    def work(self) -> None:
        """Score this process's share of what is not in the parts, then wait for the others."""
        done = {row for line in self._parts.read() for row in line["rows"]}
        # No process may write before all have read.
        self._state.wait_for_everyone()
        rank, count = self._state.process_index, self._state.num_processes
        mine = itertools.islice(self._groups(), rank, None, count)
        waiting = (group for group in mine if not done.issuperset(row for row, _ in group))
        with self._parts.writer(rank) as part, self._bar(len(done)) as advance:
            model: PreTrainedModel | None = None
            for group in waiting:
                model = model or self._seed.load_model(self._device)
                for rows, batch in self._batches(group):
                    if not done.issuperset(rows):
                        part.add(self._line(model, rows, batch))
                        advance(len(rows) * count)
        self._state.wait_for_everyone()

    def _groups(self) -> Iterator[list[tuple[int, Messages]]]:
        """Conversations with their row numbers, in the groups that are dealt to processes."""
        rows = enumerate(read_messages(self._source))
        wanted = (pair for pair in rows if self._rows is None or pair[0] in self._rows)
        estimate = functools.partial(_estimated_tokens, limit=self.max_length)
        while chunk := list(itertools.islice(wanted, _WINDOW)):
            yield from bucketed(chunk, estimate, _GROUP_BATCHES * self._batch_tokens)

    def _batches(
        self, group: list[tuple[int, Messages]]
    ) -> Iterator[tuple[list[int], list[Encoded]]]:
        encoded = [(row, self._encode(messages)) for row, messages in group]
        for batch in bucketed(encoded, lambda pair: len(pair[1].input_ids), self._batch_tokens):
            yield [row for row, _ in batch], [conversation for _, conversation in batch]

    def _encode(self, messages: Messages) -> Encoded:
        """Tokens of a conversation; one odd conversation does not end a long run."""
        try:
            return encode(self._tokenizer, messages, self.max_length)
        except UserError as error:
            if not self._has_refused:
                tqdm.write(f"Not scored (told once): {error}")
            self._has_refused = True
            return refused(messages)

    def _line(
        self, model: PreTrainedModel, rows: list[int], batch: list[Encoded]
    ) -> dict[str, Any]:
        try:
            scores = score_batch(model, batch, layers=self._layers)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{self._device} has not enough memory for batches of {self._batch_tokens} tokens: "
                "give a lower --batch-tokens or --max-length, or --quantize 4bit."
            ) from error
        fates = sum((encoded.fates for encoded in batch), Counter[str]())
        _require_finite(scores, self._seed.dtype)
        return {"rows": rows, "scores": _rounded(scores), "fates": fates}

    @contextmanager
    def _bar(self, done: int) -> Iterator[Callable[[int], object]]:
        """A progress bar over all processes, which are taken to be as far as this one."""
        total = self._total if self._rows is None else len(self._rows)
        with tqdm(
            desc=self._command.split()[-1],
            total=total,
            initial=done,
            unit=" conversations",
            disable=not self.is_main,
        ) as bar:
            yield lambda count: bar.update(min(count, (total or 0) - bar.n))

    def results(self) -> tuple[dict[int, list[Scores]], Counter[str]]:
        """Scores [layer][turn] of every row, and what became of the turns, from all parts."""
        scores: dict[int, list[Scores]] = {}
        fates: Counter[str] = Counter()
        for line in self._parts.read():
            # A worker that outlived its launcher may have done a batch a second time.
            if line["rows"][0] not in scores:
                scores.update(zip(line["rows"], line["scores"], strict=True))
                fates.update(line["fates"])
        return scores, fates

    def finish(self, counts: dict[str, Any]) -> None:
        """Record a written output and remove the parts."""
        files.write_meta(
            self._output,
            command=self._command,
            inputs=[self._source],
            settings=self._settings,
            counts=counts,
        )
        self._parts.discard()

    def counts(self) -> dict[str, Any]:
        """What `finish` recorded."""
        meta = json.loads(files.meta_path(self._output).read_text(encoding="utf-8"))
        counts: dict[str, Any] = meta["counts"]
        return counts


def bucketed(
    items: Sequence[Item], length: Callable[[Item], int], limit: int
) -> Iterator[list[Item]]:
    """`items`, longest first, in buckets of at most `limit` once padded to their longest.

    An item longer than `limit` is a bucket of its own. Items of one length keep their order.
    """
    ordered = sorted(items, key=length, reverse=True)
    start = 0
    while start < len(ordered):
        count = max(1, limit // max(1, length(ordered[start])))
        yield ordered[start : start + count]
        start += count


def _estimated_tokens(pair: tuple[int, Messages], limit: int) -> int:
    characters = sum(len(str(message["content"])) for message in pair[1])
    return min(characters // _CHARACTERS_A_TOKEN, limit)


def _require_finite(scores: list[list[Scores]], dtype: str) -> None:
    flat = (s for layers in scores for turns in layers for s in turns if s is not None)
    if not all(map(math.isfinite, flat)):
        raise UserError(
            f"The model gave scores that are not numbers in dtype {dtype!r}: use --dtype bfloat16 "
            "or float32."
        )


def _rounded(scores: list[list[Scores]]) -> list[list[Scores]]:
    return [
        [[None if score is None else round(score, 6) for score in turns] for turns in layers]
        for layers in scores
    ]


def _check_rows(source: str | Path) -> int:
    count = sum(1 for _ in read_messages(source))
    if not count:
        raise UserError(f"{source} holds no rows: give a dataset with conversations.")
    return count


def _check_layers(layers: Sequence[int], depth: int) -> None:
    if not all(0 <= layer < depth for layer in layers):
        raise UserError(f"layer {layers[0]} is not in this model: use one of 0 to {depth - 1}.")


def _length(config: Any, max_length: int | None) -> int:
    limit = window(config)
    if max_length is None and limit is None:
        raise UserError("This model's config names no window: give --max-length in tokens.")
    if max_length is not None and not 1 <= max_length <= (limit or max_length):
        raise UserError(f"max_length is {max_length}: use 1 to {limit or 'any number'} tokens.")
    return max_length or int(limit or 0)


def _batch_tokens(batch_tokens: int | None, device: torch.device) -> int:
    if batch_tokens is not None and batch_tokens < 1:
        raise UserError(f"batch_tokens is {batch_tokens}: give 1 or more tokens a batch.")
    return batch_tokens or _BATCH_TOKENS.get(device.type, 16384)
