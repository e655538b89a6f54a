"""What tuning found of a checkpoint, as a table, sentences and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ctx_tasks.gate.loss import Loss
from ctx_tasks.tables import Head, Labelled, Table, Value, interval, number, with_interval
from ctx_tasks.tune.choice import Price, Report, Trial


@dataclass(frozen=True)
class Outcome:
    """The choice for one checkpoint.

    Attributes:
        trials: of all candidates on the choosing half, the best first, the dropped last.
        report: of the chosen on the reporting half; None where none won.
        command: that runs the choice on all documents.
        notes: what the documents cannot tell, in sentences.
    """

    checkpoint: str
    trials: Sequence[Trial]
    prices: Sequence[Price]
    report: Report | None
    command: str
    notes: Sequence[str]

    @property
    def chosen(self) -> Trial | None:
        """The candidate that won; None where none did."""
        return next((one for one in self.trials if one.state == "chosen"), None)


def table(outcome: Outcome) -> Table:
    """The candidates on the choosing half."""
    heads = [Head("gain"), Head("corrected from"), Head("documents")]
    heads += [
        Head(f"loss: {price.name}", (f"at most {price.at_most:g}",)) for price in outcome.prices
    ]
    heads += [Head("", words=True)]
    rows = [Labelled(one.arm.label or one.arm.name, _cells(one, outcome)) for one in outcome.trials]
    return Table(Head("choosing half"), heads, rows, outcome.checkpoint)


def _cells(one: Trial, outcome: Outcome) -> list[Value]:
    shown = one.gain
    cells = [
        Value(number(shown.mean, signed=True), interval(shown.low, shown.high)),
        Value("-" if one.state == "dropped" else number(one.low, signed=True)),
        Value(str(one.documents)),
    ]
    cells += [_loss(one.losses[price.name]) for price in outcome.prices]
    return [*cells, Value(one.state)]


def _loss(loss: Loss) -> Value:
    return Value(number(loss.mean, signed=True), f"at most {number(loss.high, signed=True)}")


def sentences(outcome: Outcome) -> list[str]:
    """What was chosen, what it is worth, what it seemed to be worth, and what it costs."""
    chosen, found = outcome.chosen, outcome.report
    if chosen is None or found is None:
        return [_none(outcome), *outcome.notes]
    gain = found.gain
    said = [
        f"{outcome.checkpoint}: {chosen.arm.name}. Gain on the other half "
        f"{with_interval(gain.mean, gain.low, gain.high)} (n = {gain.n} in {gain.clusters}); on "
        f"the half that chose it, it seemed {number(chosen.gain.mean, signed=True)}."
    ]
    said += [_price(price, outcome) for price in outcome.prices]
    return [*said, *outcome.notes]


def _none(outcome: Outcome) -> str:
    best = outcome.trials[0]
    reasons = {
        "not shown": "is not shown to be above 0",
        "too dear": "costs more than it may, or may do so",
    }
    gain = with_interval(best.gain.mean, best.gain.low, best.gain.high)
    return (
        f"{outcome.checkpoint}: none. The best of {len(outcome.trials)} candidates, "
        f"{best.arm.name}, seemed to gain {gain}, which {reasons[best.state]} "
        f"(corrected for {len(outcome.trials)}: from {number(best.low, signed=True)})."
    )


def _price(price: Price, outcome: Outcome) -> str:
    assert outcome.report is not None
    assert outcome.chosen is not None
    loss = outcome.report.losses[price.name]
    kept = (
        "within it"
        if loss.high <= price.at_most
        else "beyond it"
        if loss.low > price.at_most
        else "not shown to be within it"
    )
    return (
        f"{price.name}: loss on the other half {with_interval(loss.mean, loss.low, loss.high)}, "
        f"of at most {price.at_most:g}: {kept}; it seemed "
        f"{number(outcome.chosen.losses[price.name].mean, signed=True)}."
    )


def as_json(outcomes: Sequence[Outcome]) -> str:
    """All of it, numbers unrounded, what is not known as null."""
    return json.dumps([_record(one) for one in outcomes], indent=1) + "\n"


def _record(outcome: Outcome) -> dict[str, Any]:
    found, chosen = outcome.report, outcome.chosen
    return {
        "checkpoint": outcome.checkpoint,
        "chosen": "none" if chosen is None else chosen.arm.name,
        "arm": None if chosen is None else chosen.arm.record(),
        "command": outcome.command,
        "seemed": None if chosen is None else plain(asdict(chosen.gain)),
        "gain": None if found is None else plain(asdict(found.gain)),
        "tasks": {} if found is None else _changes(found.tasks),
        "prices": {
            price.name: {
                "at_most": price.at_most,
                "seemed": None if chosen is None else plain(asdict(chosen.losses[price.name])),
                "loss": None if found is None else plain(asdict(found.losses[price.name])),
            }
            for price in outcome.prices
        },
        "candidates": [_trial(one) for one in outcome.trials],
        "notes": list(outcome.notes),
    }


def _trial(one: Trial) -> dict[str, Any]:
    return {
        "name": one.arm.label or one.arm.name,
        "arm": one.arm.record(),
        "state": one.state,
        "documents": one.documents,
        "gain": plain(asdict(one.gain)),
        "corrected_low": plain({"": one.low})[""],
        "losses": {name: plain(asdict(loss)) for name, loss in one.losses.items()},
    }


def _changes(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain(asdict(one)) for name, one in found.items()}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for JSON, what is not known or without end as null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
