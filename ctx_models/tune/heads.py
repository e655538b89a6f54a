"""`ctx-eval tune --heads`: which heads to steer, by what steering them alone does.

PASTA's way (Zhang et al., ICLR 2024, https://openreview.net/forum?id=xZDWO0oejD): each head is
steered alone and ranked by the score. To fit a night for 32 x 32 heads, layers come first,
each steered alone, then the heads of the best layers only; both by successive halving on the
choosing half, so that a head that soon does nothing is not tried on all documents. Divergence:
PASTA takes heads that rank high in each of several tasks; here the mean gain over the tasks ranks.

The strongest by effect, the strongest by attention on the needle (`ctx_models.allocation`, on the
needle documents of the choosing half) and all heads are compared on the reporting half.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from ctx_models import model_names, progress
from ctx_models.allocation.shares import heads_json, needle_ranking, needle_shares
from ctx_models.arm import read_arm
from ctx_models.checkpoint import source
from ctx_models.fingerprint import checkpoint_fingerprint, short_hash
from ctx_models.tune.cells import Bench
from ctx_models.tune.plan import Tuning, loaded_task
from ctx_models.tune.run import answers, halving, measurements, rater, require_one_process
from ctx_tasks.arm import CHAT, Arm
from ctx_tasks.columns import is_needle
from ctx_tasks.errors import UserError
from ctx_tasks.files import require_writable, write_text
from ctx_tasks.tune.choice import report
from ctx_tasks.tune.halving import within
from ctx_tasks.tune.ranking import Ranking, Unit, ranked

# A layer, and a head of it.
Place = tuple[int, int | None]


@dataclass(frozen=True)
class Search:
    """How heads are looked for.

    Attributes:
        arm: the steering, of all heads.
        layers: how many of the best layers' heads are tried.
        count: how many heads a set has.
        shape: layers and heads of the model.
    """

    arm: Arm
    layers: int
    count: int
    shape: tuple[int, int]

    @property
    def runs(self) -> str:
        """ "32 layers, then 4 x 32 heads"."""
        return f"{self.shape[0]} layers, then {self.layers} x {self.shape[1]} heads"


def search(tuning: Tuning, arm: Arm, layers: int, count: int | None) -> Search:
    """The search in a checkpoint; reads its configuration, loads no model.

    Raises:
        UserError: more layers or heads than it has, or no needle test among the tasks.
    """
    name = tuning.checkpoint.name
    arguments = tuning.checkpoint.model_args
    pretrained = model_names.resolve(arguments.get("pretrained"))
    config = AutoConfig.from_pretrained(pretrained, **source(arguments)).get_text_config()
    shape = int(config.num_hidden_layers), int(config.num_attention_heads)
    taken = min(layers, shape[0])
    # 64 of 32 x 32.
    wanted = max(2, shape[0] * shape[1] // 16) if count is None else count
    if not 1 <= wanted <= taken * shape[1]:
        raise UserError(
            f"--count {wanted} is out of range: {name} has {shape[1]} heads a layer, and those of "
            f"{taken} layers are tried; give 1 to {taken * shape[1]}."
        )
    if not any(map(is_needle, tuning.tasks)):
        raise UserError(
            "--heads is held against the ranking by attention on the needle, which takes a needle "
            f"test; the tasks are {', '.join(tuning.tasks)}: add nih_recall or nano_nih_recall."
        )
    return Search(arm, taken, wanted, shape)


def stages(tuning: Tuning, found: Search) -> tuple[Tuning, Tuning]:
    """The tuning over layers, and one over as many heads as those of the best layers.

    Raises:
        UserError: the budget is too small for both.
    """
    layers, heads = tuple(_layers(found)), found.layers * found.shape[1]
    first, second = within(tuning.budget, [len(layers), heads], tuning.count)
    # Which heads they are is known once the layers are ranked.
    return replace(tuning, candidates=layers, rounds=first), replace(tuning, rounds=second)


def cost(tuning: Tuning, found: Search) -> tuple[int, int]:
    """Runs and answers that it takes at most, with the four arms of the reporting half."""
    two = stages(tuning, found)
    reported = sum(map(len, tuning.reporting.values()))
    runs = sum(measurements(stage) for stage in two) + 4
    return runs, sum(answers(stage) - 2 * reported for stage in two) + 4 * reported


def run(tuning: Tuning, found: Search) -> Ranking:
    """Rank layers, then heads, and compare the strongest on the other half.

    Raises:
        UserError: as `ctx_models.tune.run.run`.
    """
    require_one_process()
    output = tuning.plan.output
    require_writable(output / "heads.json")
    by_layer, by_head = stages(tuning, found)
    with progress.shown(cost(tuning, found)[1]) as bar:
        bench = Bench(by_layer, bar, rater([tuning]))
        layers = _ranked(by_layer, _layers(found), bench)
        heads = _ranked(by_head, _heads(found, layers, output), bench)
        sets = _sets(tuning, found, heads, bench)
        none = bench.reporting(CHAT)
        reports = {
            name: report(arm, none, bench.reporting(arm), tuning.tasks, tuning.prices)
            for name, arm in sets.items()
        }
    return Ranking(tuning.checkpoint.name, found.arm.name, layers, heads, reports)


# ---- arms ----------------------------------------------------------------------------------------


def _layers(found: Search) -> dict[Arm, Place]:
    """The arms that steer one layer."""
    return {
        replace(found.arm, layers=str(layer), label=f"layer {layer}"): (layer, None)
        for layer in range(found.shape[0])
    }


def _heads(found: Search, layers: Sequence[Unit], output: Path) -> dict[Arm, Place]:
    """The arms that steer one head of the best layers; a head is named in a file."""
    arms: dict[Arm, Place] = {}
    for layer in (one.layer for one in layers[: found.layers]):
        for head in range(found.shape[1]):
            path = output / ".choosing" / "heads" / f"{layer}-{head}.json"
            write_text(path, json.dumps({str(layer): [head]}) + "\n")
            label = f"layer {layer} head {head}"
            arms[replace(found.arm, heads=str(path), label=label)] = layer, head
    return arms


def _ranked(tuning: Tuning, places: Mapping[Arm, Place], bench: Bench) -> list[Unit]:
    """Layers or heads, each steered alone, the strongest first."""
    trials = halving(replace(tuning, candidates=tuple(places)), bench)
    return ranked([Unit(*places[one.arm], one.documents, one.gain) for one in trials])


def _sets(tuning: Tuning, found: Search, heads: Sequence[Unit], bench: Bench) -> dict[str, Arm]:
    """The arms that are compared: the strongest by effect and by attention, and all heads."""
    output = tuning.plan.output
    write_text(output / "heads.json", _by_effect(heads[: found.count]))
    write_text(output / "heads-by-attention.json", _by_attention(tuning, found, bench))
    return {
        "by effect": replace(found.arm, heads=str(output / "heads.json"), label="by-effect"),
        "by attention": replace(
            found.arm, heads=str(output / "heads-by-attention.json"), label="by-attention"
        ),
        "all heads": replace(found.arm, label="all-heads"),
    }


def _by_effect(heads: Sequence[Unit]) -> str:
    layers: dict[str, list[int]] = {}
    for one in sorted(heads, key=lambda one: (one.layer, one.head or 0)):
        assert one.head is not None
        layers.setdefault(str(one.layer), []).append(one.head)
    return json.dumps(layers) + "\n"


def _by_attention(tuning: Tuning, found: Search, bench: Bench) -> str:
    """The ranking of `ctx-eval attention --by-head`, kept with what it was measured on."""
    name = next(task for task in tuning.tasks if is_needle(task))
    indices = tuning.choosing(0, 1)[name]
    kept = (
        tuning.plan.output
        / ".choosing"
        / f"needle-{_fingerprint(tuning, indices, found.count)}.json"
    )
    if not kept.is_file():
        docs = loaded_task(tuning, name).eval_docs
        rows: list[dict[str, Any]] = [docs[index] for index in indices]
        bench.model.set_arm(read_arm(CHAT))
        ranks = needle_ranking(rows, [needle_shares(bench.model, row) for row in rows])
        write_text(kept, heads_json(ranks, found.count))
    return kept.read_text(encoding="utf-8")


def _fingerprint(tuning: Tuning, indices: Sequence[int], count: int) -> str:
    """Of the checkpoint, the documents attention is measured on, and how many heads are taken."""
    arguments = tuning.checkpoint.model_args
    loads = (arguments.get(key) for key in ("revision", "peft", "delta"))
    weights = checkpoint_fingerprint(model_names.resolve(arguments.get("pretrained")), *loads)
    content = [weights, indices, tuning.plan.metadata, count]
    return short_hash(json.dumps(content, sort_keys=True, default=str))
