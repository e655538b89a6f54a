"""`python -m training.nano.auto_indicator FOLDER`: when should `[IND]` be added?

The paper's open question, asked of nano-chat-ind: append the indicator only where the user mass of
eq. 2's form (max over heads, on the layer `ctx-train score` takes) at the end of the prompt without
it exceeds TAU. FOLDER is what `python -m training.nano.fresh` wrote. Decoding is greedy, so the
answer of a document under the rule is that of the arm the rule chooses: nothing is generated anew.

TAU is chosen on the documents of every second cluster (passage or needle) for the mean of context
score and score by heart; the numbers are those of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from tqdm import tqdm

from ctx_models import Segment, segment_mass
from ctx_models.demo.families import MARKED, UNMARKED
from ctx_models.lm import CtxLM
from ctx_tasks.results import TaskResult, read_documents, read_runs, read_samples
from ctx_tasks.statistics import (
    Difference,
    cluster_numbers,
    clustered_difference,
    mean_difference,
)
from ctx_tasks.tables import with_interval
from training.dependency.equation import default_layer

BY_HEART = "nano_by_heart"
NEVER, ALWAYS = UNMARKED.folder, MARKED.folder


@dataclass(frozen=True)
class Task:
    """Scores [n] of both arms, user mass [n] of the prompt without `[IND]`, clusters [n]."""

    never: np.ndarray
    always: np.ndarray
    mass: np.ndarray
    clusters: np.ndarray

    def part(self, chosen: int) -> Task:
        """The documents of every second cluster: 0 or 1."""
        kept = self.clusters % 2 == chosen
        clusters = cluster_numbers([str(number) for number in self.clusters[kept]])
        return Task(self.never[kept], self.always[kept], self.mass[kept], clusters)

    def auto(self, tau: float) -> np.ndarray:
        """Scores [n] where the indicator goes to prompts with a mass above `tau`."""
        return np.where(self.mass > tau, self.always, self.never)


def user_mass(lm: CtxLM, prompts: list[str]) -> np.ndarray:
    """Mass of eq. 2's form at the last token of each rendered prompt, float64 [n]."""
    layer = default_layer(lm.model.config.num_hidden_layers)
    [before, after] = lm._render([{"role": "user", "content": "@"}], True).text.split("@")
    found = []
    for prompt in tqdm(prompts, unit=" prompts"):
        content = prompt.removeprefix(before).removesuffix(after)
        rendered = lm._render([{"role": "user", "content": content}], True)
        if rendered.text != prompt:
            raise ValueError(f"this prompt is not one user turn of nano-chat-ind: {prompt[:60]!r}")
        tokens = lm._tokens(rendered)
        ids, segments = torch.tensor([tokens.input_ids]), torch.tensor([tokens.segments])
        mass = segment_mass(lm.model, ids, segments, layers=[layer], last_tokens=1)
        found.append(float(mass[0, 0, :, -1, Segment.USER].max()))
    return np.array(found)


def task(lm: CtxLM, never: TaskResult, always: TaskResult) -> Task:
    """Both arms of one task, document by document."""
    without, marked = read_samples(never), read_samples(always)
    if without.doc_hashes != marked.doc_hashes:
        raise ValueError(f"{never.task}: the arms answered different documents")
    prompts = [line["arguments"]["gen_args_0"]["arg_0"] for line in read_documents(never)]
    clusters = cluster_numbers(without.clusters)
    scores = without.scores[never.primary], marked.scores[always.primary]
    return Task(*scores, user_mass(lm, prompts), clusters)


def best_tau(tasks: dict[str, Task]) -> float:
    """The threshold with the largest mean of context score and score by heart."""
    seen = np.unique(np.concatenate([one.mass for one in tasks.values()]))
    candidates = [0.0, *np.quantile(seen, np.linspace(0, 1, 201)).tolist()]

    def value(tau: float) -> float:
        means = {name: float(one.auto(tau).mean()) for name, one in tasks.items()}
        heart = means.pop(BY_HEART)
        return float(np.mean(list(means.values()))) + heart

    return max(candidates, key=value)


def changes(tasks: dict[str, Task], tau: float, against: str) -> tuple[Difference, Difference]:
    """What the rule changes in the context score and by heart, against `never` or `always`."""
    found = {
        name: clustered_difference(one.auto(tau) - getattr(one, against), one.clusters)
        for name, one in tasks.items()
    }
    heart = found.pop(BY_HEART)
    return mean_difference(list(found.values())), heart


def main(
    folder: Annotated[Path, typer.Argument(help="Of `python -m training.nano.fresh`.")],
) -> None:
    """Choose TAU on one half of the documents and report it on the other."""
    lm = CtxLM("nano-chat-ind", device="cpu")
    arms = [_tasks(folder / "demo" / name) for name in (NEVER, ALWAYS)]
    measured = {name: task(lm, never, arms[1][name]) for name, never in arms[0].items()}
    tau = best_tau({name: one.part(0) for name, one in measured.items()})
    held = {name: one.part(1) for name, one in measured.items()}
    print(f"TAU = {tau:.4f}")
    for name, one in held.items():
        given = float((one.mass > tau).mean())
        shown = [float(scores.mean()) for scores in (one.never, one.always, one.auto(tau))]
        print(
            f"{name} (n = {len(one.mass)}): [IND] given to {given:.3f}; never {shown[0]:.3f}, "
            f"always {shown[1]:.3f}, auto {shown[2]:.3f}; mass {one.mass.mean():.3f} "
            f"(5 to 95 %: {np.quantile(one.mass, 0.05):.3f} to {np.quantile(one.mass, 0.95):.3f})"
        )
    for against in ("never", "always"):
        for what, change in zip(("context", "by heart"), changes(held, tau, against), strict=True):
            print(
                f"auto against {against}, {what}: "
                f"{with_interval(change.mean, change.low, change.high)}, n = {change.n}"
            )


def _tasks(folder: Path) -> dict[str, Any]:
    [run] = read_runs([folder])
    return {name: result for name, result in run.tasks.items() if not result.members}


if __name__ == "__main__":
    typer.run(main)
