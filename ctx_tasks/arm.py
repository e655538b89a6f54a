"""One way to run a checkpoint: its fields, its name, its folder, its model arguments.

An arm is what may differ between runs that are compared: the chat template, a begun answer,
steering, the indicator. A field stands in `Arm` once, with how it is read; sweep files, hf-ctx's
model arguments, results files, names, folders and command lines follow from it. What the settings
do to a model is `ctx_models.arm` (with torch).
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from ctx_tasks.errors import UserError, near

Schedule = Literal["constant", "compound"]
Turns = Literal["last", "all"]
InstructionTurn = Literal["user", "system"]

# How an evaluation is run, not what is evaluated.
EXECUTION = frozenset(
    {
        *("device", "batch_size", "max_batch_size", "parallelize", "trust_remote_code"),
        *("tokenizer", "attn_implementation", "device_map"),
        *("num_concurrent", "max_retries", "timeout"),
    }
)
# Model arguments that say which checkpoint it is, of those that harness models share.
CHECKPOINT = frozenset(
    {
        *("pretrained", "model", "peft", "delta", "revision", "subfolder", "dtype"),
        *("load_in_4bit", "load_in_8bit", "gguf_file"),
    }
)


def parse_layers(value: str | int | Iterable[Any] | None) -> tuple[int, ...] | None:
    """Layer indices from "8-15", "3+5+9" or both mixed, an int, or a list of such parts.

    Raises:
        UserError: anything else.
    """
    if value is None:
        return None
    layers: list[int] = []
    try:
        for part in str(value).split("+") if isinstance(value, (str, int)) else value:
            first, _, last = str(part).partition("-")
            found = range(int(first), int(last or first) + 1)
            if not found:
                raise ValueError(f"{part} holds no layer")
            layers.extend(found)
    except (ValueError, TypeError) as error:
        raise UserError(
            f'layers={value!r} cannot be read: write ranges and single layers such as "8-15+20".'
        ) from error
    return tuple(layers)


def _layers(value: Any) -> str:
    """One spelling of a set of layers: [9, 8, 20] is "8-9+20"."""
    ranges: list[list[int]] = []
    for layer in sorted(set(parse_layers(value) or ())):
        if ranges and layer == ranges[-1][1] + 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    return "+".join(f"{a}-{b}" if a != b else f"{a}" for a, b in ranges)


def _alpha(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"alpha={value!r} is not a number.") from error


def _heads(value: Any) -> str:
    """The path of a file of heads, or the heads themselves as a results file records them."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _as_given(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Arm:
    """How a checkpoint is run. A field with `read` is a model argument of hf-ctx.

    Attributes:
        chat: with its chat template; False is "raw".
        prefix: the answer begun for the model (a response prefix).
        alpha: weight of attention outside the user's text; 1 is off.
        schedule: "constant" or "compound", see `ctx_models.steering.Steering`.
        steer_generated: whether generated tokens are down-weighted too.
        steer_thought: False steers the answer of a model that thinks, and not its thought.
        layers: layers to steer, such as "8-15+20"; None for all.
        heads: path of a JSON file {"layer": [heads]}, or, as read from results, what it held; None
            for all.
        indicator: token appended to the user turn, such as "[IND]".
        indicator_turns: "last" or "all" user turns.
        indicator_strict: False allows an indicator that is not one token of the tokenizer.
        instruction: a sentence put into the prompt, see `ctx_models.instruction`.
        instruction_turn: "user" or "system", the turn it is put into.
        label: what a sweep file calls it; no part of what it is.
    """

    chat: bool = True
    prefix: bool = False
    alpha: float = field(default=1.0, metadata={"read": _alpha})
    schedule: Schedule = field(default="constant", metadata={"read": _as_given})
    steer_generated: bool = field(default=True, metadata={"read": _as_given})
    steer_thought: bool = field(default=True, metadata={"read": _as_given})
    layers: str | None = field(default=None, metadata={"read": _layers})
    heads: str | None = field(default=None, metadata={"read": _heads})
    indicator: str | None = field(default=None, metadata={"read": _as_given})
    indicator_turns: Turns = field(default="last", metadata={"read": _as_given})
    indicator_strict: bool = field(default=True, metadata={"read": _as_given})
    instruction: str | None = field(default=None, metadata={"read": str})
    instruction_turn: InstructionTurn = field(default="user", metadata={"read": _as_given})
    label: str | None = field(default=None, compare=False)

    # ---- how it is read --------------------------------------------------------------------------

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Arm:
        """The arm of these settings by field name; None is a field's default.

        Raises:
            UserError: a name that is no field, or a value that cannot be read. Ranges are checked
                by `ctx_models.arm.read_arm`.
        """
        unknown = settings.keys() - FIELDS
        if unknown:
            wrong = min(map(str, unknown))
            known = near(wrong, FIELDS) or f"known: {', '.join(FIELDS)}"
            raise UserError(f"unknown key {wrong!r} ({known})")
        return cls(
            **{
                one.name: one.metadata.get("read", bool)(settings[one.name])
                for one in fields(cls)
                if settings.get(one.name) is not None
            }
        )

    @classmethod
    def written(cls, given: Any) -> Arm:
        """The arm of an entry of a sweep file: raw, chat, raw+prefix, chat+prefix, or a mapping.

        Raises:
            UserError: anything else; see `of`.
        """
        if isinstance(given, str) and given in SHORTHANDS:
            return SHORTHANDS[given]
        if not isinstance(given, dict):
            raise UserError(
                f"arm {given!r} must be {', '.join(SHORTHANDS)} or a mapping such as {{alpha: 0.9}}"
            )
        settings = {key: value for key, value in given.items() if key != "name"}
        label = given.get("name")
        try:
            return replace(cls.of(settings), label=None if label is None else str(label))
        except UserError as error:
            raise UserError(f"arm {label or given}: {str(error).rstrip('.')}") from error

    @classmethod
    def recorded(cls, content: Mapping[str, Any]) -> Arm:
        """The arm of a results file, its answers not begun (that is a task's matter)."""
        config = content["config"]
        ours = config.get("ctx") or {}
        # Chat endpoints take messages and apply their template out of the harness's sight.
        chat = bool(
            content.get("chat_template_sha") or "chat-completions" in str(config.get("model"))
        )
        known = {name: ours[name] for name in ARGUMENTS if name in ours}
        return cls.of({"chat": chat, **known}).effective

    # ---- what it is ------------------------------------------------------------------------------

    @property
    def effective(self) -> Arm:
        """The same without settings that do nothing, such as those of steering at alpha 1."""
        idle = {} if self.alpha != 1 else _PLAIN_STEERING
        return replace(self, **{**idle, **self._idle_marks()})

    def _idle_marks(self) -> dict[str, Any]:
        """The defaults of settings of an indicator or an instruction that is not there."""
        idle = {} if self.indicator else _NO_INDICATOR
        return idle if self.instruction else {**idle, **_NO_INSTRUCTION}

    @property
    def begun(self) -> Arm:
        """The same with the answer begun."""
        label = None if self.label is None else f"{self.label}+prefix"
        return replace(self, prefix=True, label=label)

    @property
    def base(self) -> Arm:
        """What a remedy is a remedy of: raw or chat, the answer begun or not."""
        return Arm(chat=self.chat, prefix=self.prefix)

    @property
    def remedy(self) -> bool:
        """Whether it is chat with something done about the template."""
        return self.chat and self != self.base

    def differences(self, other: Arm) -> list[str]:
        """The fields in which another arm differs, "alpha 1.0, 0.5", this one's value first."""
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in FIELDS]
        return [f"{name} {json.dumps(a)}, {json.dumps(b)}" for name, a, b in pairs if a != b]

    @property
    def unsteered(self) -> Arm:
        """The arm that differs from this one in nothing but steering."""
        return replace(self, alpha=1.0).effective

    @property
    def name(self) -> str:
        """For people: "raw", "chat, prefix", "chat, α 0.9 compound", "chat, [IND]"."""
        steering = [" ".join([f"α {self.alpha:g}", *self._steering()])] if self.alpha != 1 else []
        begun = ["prefix"] if self.prefix else []
        return ", ".join([self._template(), *begun, *steering, *self._marks()])

    @property
    def setting(self) -> str:
        """The name without its alpha, for a curve over alphas: "compound, prompt only, [IND]"."""
        begun = ["prefix"] if self.prefix else []
        raw = [] if self.chat else [self._template()]
        return ", ".join([*self._steering(), *raw, *begun, *self._marks()])

    def _template(self) -> str:
        return "chat" if self.chat else "raw"

    def _steering(self) -> list[str]:
        words: list[str] = [self.schedule]
        words += [] if self.steer_generated else ["prompt only"]
        words += [] if self.steer_thought else ["after the thought"]
        words += [f"layers {self.layers}"] if self.layers else []
        words += [f"heads {self.heads}"] if self.heads else []
        return words

    def _marks(self) -> list[str]:
        words = [self.indicator] if self.indicator else []
        words += ["on all turns"] if self.indicator and self.indicator_turns == "all" else []
        words += ["not strict"] if self.indicator and not self.indicator_strict else []
        words += [f'"{self.instruction}"'] if self.instruction else []
        words += ["as system"] if self.instruction and self.instruction_turn == "system" else []
        return words

    # ---- what is written of it -------------------------------------------------------------------

    @property
    def folder(self) -> str:
        """Name of a folder for its results: "chat", "chat-prefix", "chat-alpha-0.9"."""
        if self.label is not None:
            return safe(self.label)
        words = [self._template(), *(["prefix"] if self.prefix else [])]
        words += [f"{key}-{value}" for key, value in self.effective.model_args.items()]
        name = safe("-".join(words)).encode()
        if len(name) <= _LONGEST:
            return name.decode()
        # A sentence can be longer than a folder's name may be.
        kept = name[:_LONGEST].decode(errors="ignore")
        return f"{kept}-{hashlib.sha256(name).hexdigest()[:8]}"

    @property
    def model_args(self) -> dict[str, Any]:
        """What hf-ctx's `--model_args` take for it beside those that load the checkpoint."""
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name in ARGUMENTS and getattr(self, one.name) != one.default
        }

    @property
    def marks(self) -> dict[str, Any]:
        """Its model arguments that change a prompt, by name; None where they do nothing."""
        marks = {name: getattr(self, name) for name in ARGUMENTS if name not in STEERING}
        return {**marks, **dict.fromkeys(self._idle_marks())}

    def record(self) -> dict[str, Any]:
        """Its fields as JSON values."""
        return {name: getattr(self, name) for name in FIELDS}


# Bytes; file systems allow 255.
_LONGEST = 160
FIELDS = tuple(one.name for one in fields(Arm) if one.compare)
# The model arguments of hf-ctx that make an arm; all others load a checkpoint.
ARGUMENTS = tuple(one.name for one in fields(Arm) if one.metadata)
STEERING = ("alpha", "schedule", "steer_generated", "steer_thought", "layers", "heads")
_PLAIN_STEERING = {name: getattr(Arm(), name) for name in STEERING}
_NO_INDICATOR = {name: getattr(Arm(), name) for name in ("indicator_turns", "indicator_strict")}
_NO_INSTRUCTION = {"instruction_turn": Arm().instruction_turn}
RAW, CHAT = Arm(chat=False), Arm()
SHORTHANDS = {"raw": RAW, "chat": CHAT, "raw+prefix": RAW.begun, "chat+prefix": CHAT.begun}


def split(model_args: Mapping[str, Any]) -> tuple[dict[str, Any], Arm]:
    """Model arguments of hf-ctx as those that load a checkpoint, and the arm.

    Raises:
        UserError: see `Arm.of`.
    """
    loads = {key: value for key, value in model_args.items() if key not in ARGUMENTS}
    return loads, Arm.of({key: model_args[key] for key in ARGUMENTS if key in model_args})


def identity(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """The model arguments that decide which checkpoint it is."""
    return {k: v for k, v in model_args.items() if k not in EXECUTION and k not in ARGUMENTS}


def safe(name: str) -> str:
    """A name as a folder's: letters, digits, dots and dashes."""
    return re.sub(r"[^\w.\[\]-]+", "-", name.replace("α", "alpha")).strip("-.")


def command(
    arm: Arm,
    model: str,
    model_args: Mapping[str, Any],
    tasks: Iterable[str],
    output: Path,
    metadata: Mapping[str, Any],
    **flags: Any,
) -> str:
    """The `ctx-eval run` that gives one checkpoint in one arm.

    Args:
        model_args: what loads the checkpoint.
        flags: further flags by name; None leaves one out.
    """
    arguments = _arguments({**model_args, **arm.model_args})
    words = ["ctx-eval", "run", "--model", model, "--model_args", arguments]
    words += ["--tasks", ",".join(tasks)]
    words += ["--apply_chat_template"] if arm.chat else []
    words += ["--metadata", json.dumps(metadata)] if metadata else []
    given = [(f"--{name}", str(value)) for name, value in flags.items() if value is not None]
    words += [word for pair in given for word in pair]
    return shlex.join([*words, "--log_samples", "--output_path", str(output)])


def _arguments(model_args: Mapping[str, Any]) -> str:
    """Model arguments as name=value, or as JSON where a value has signs that the harness splits."""
    if any(
        isinstance(value, str) and set(value) & set(",\"'(){}") for value in model_args.values()
    ):
        return json.dumps(dict(model_args), ensure_ascii=False)
    return ",".join(f"{key}={value}" for key, value in model_args.items())
