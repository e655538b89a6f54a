"""Layers and heads by what steering them alone does, and sets of them on the other half."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ctx_tasks.statistics import Difference
from ctx_tasks.tables import Head, Labelled, Table, Value, change, interval, number
from ctx_tasks.tune.choice import Report
from ctx_tasks.tune.outcome import plain


@dataclass(frozen=True)
class Unit:
    """A layer, or a head of it, steered alone.

    Attributes:
        head: None for the layer.
        documents: that it was tried on; the weaker are dropped on the way.
        gain: on these.
    """

    layer: int
    head: int | None
    documents: int
    gain: Difference

    @property
    def name(self) -> str:
        """ "layer 3" or "layer 3, head 5"."""
        return f"layer {self.layer}" + ("" if self.head is None else f", head {self.head}")


@dataclass(frozen=True)
class Ranking:
    """What a search found.

    Attributes:
        arm: the steering, by name.
        layers, heads: the strongest first.
        reports: on the reporting half, of each set of heads.
    """

    checkpoint: str
    arm: str
    layers: Sequence[Unit]
    heads: Sequence[Unit]
    reports: Mapping[str, Report]


def ranked(units: Sequence[Unit]) -> list[Unit]:
    """The strongest first: who lasted longer, then who gained more, then in their order."""
    order = sorted(units, key=lambda one: (one.layer, -1 if one.head is None else one.head))
    return sorted(order, key=lambda one: (-one.documents, -one.gain.mean))


def units_table(found: Ranking, most: int) -> Table:
    """The layers and the strongest heads, on the choosing half."""
    heads = [Head("gain"), Head("documents")]
    rows = [
        Labelled(
            one.name,
            [change(one.gain.mean, one.gain.low, one.gain.high), Value(str(one.documents))],
        )
        for one in (*found.layers[:most], *found.heads[:most])
    ]
    return Table(Head("steered alone"), heads, rows, f"{found.checkpoint}, choosing half")


def sets_table(found: Ranking) -> Table:
    """The sets of heads on the reporting half."""
    prices = next(iter(found.reports.values())).losses
    heads = [Head("gain"), *(Head(f"loss: {name}") for name in prices)]
    rows = []
    for name, one in found.reports.items():
        losses = [
            Value(number(x.mean, signed=True), interval(x.low, x.high)) for x in one.losses.values()
        ]
        rows.append(Labelled(name, [change(one.gain.mean, one.gain.low, one.gain.high), *losses]))
    return Table(Head(found.arm), heads, rows, f"{found.checkpoint}, reporting half")


def as_json(found: Ranking) -> str:
    """All of it, numbers unrounded, what is not known as null."""
    content = {
        "checkpoint": found.checkpoint,
        "arm": found.arm,
        "layers": [_unit(one) for one in found.layers],
        "heads": [_unit(one) for one in found.heads],
        "sets": {
            name: {
                "heads": one.arm.heads,
                "gain": plain(asdict(one.gain)),
                "losses": {price: plain(asdict(loss)) for price, loss in one.losses.items()},
            }
            for name, one in found.reports.items()
        },
    }
    return json.dumps(content, indent=1) + "\n"


def _unit(one: Unit) -> dict[str, Any]:
    place = {"layer": one.layer} if one.head is None else {"layer": one.layer, "head": one.head}
    return {**place, "documents": one.documents, "gain": plain(asdict(one.gain))}
