"""The running engines behind one model: one in this process, or replicas in Ray actors.

The harness starts new engines in Ray for every batch of requests. These are started once, so that
they can be asked and told things: which arm they are in, and whether steering reaches them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from more_itertools import distribute
from vllm import LLM, SamplingParams, TokensPrompt

# A driver leaves them behind where it made an engine's configuration.
_OF_ANOTHER_ENGINE = (
    *("VLLM_DP_RANK", "VLLM_DP_RANK_LOCAL", "VLLM_DP_SIZE"),
    *("VLLM_DP_MASTER_IP", "VLLM_DP_MASTER_PORT"),
)

Prompts = Sequence[Sequence[int]]


class Engines(Protocol):
    """One engine or several with the same weights."""

    def generate(
        self, prompts: Prompts, params: Sequence[SamplingParams], lora: Any, progress: bool
    ) -> list[Any]:
        """vLLM's outputs, in order, each prompt run by one of the engines."""

    def everywhere(self, prompts: Prompts, params: SamplingParams) -> list[list[Any]]:
        """The outputs of each engine to all prompts."""

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """What a method of `worker.Extension` returns, from every worker of every engine."""

    def forget(self) -> None:
        """Empty the prefix caches; nothing may be running."""


def _run(engine: LLM, prompts: Prompts, params: Any, lora: Any, progress: bool) -> list[Any]:
    asked = [TokensPrompt(prompt_token_ids=list(ids)) for ids in prompts]
    found: list[Any] = engine.generate(asked, params, use_tqdm=progress, lora_request=lora)
    return found


class Here:
    """The engine that the harness's model holds."""

    def __init__(self, engine: LLM) -> None:
        self._engine = engine

    def generate(
        self, prompts: Prompts, params: Sequence[SamplingParams], lora: Any, progress: bool
    ) -> list[Any]:
        """As `Engines.generate`."""
        return _run(self._engine, prompts, list(params), lora, progress)

    def everywhere(self, prompts: Prompts, params: SamplingParams) -> list[list[Any]]:
        """As `Engines.everywhere`."""
        return [_run(self._engine, prompts, params, None, False)]

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """As `Engines.ask`."""
        found: list[Any] = self._engine.collective_rpc(method, args=arguments)
        return found

    def forget(self) -> None:
        """As `Engines.forget`."""
        self._engine.reset_prefix_cache()


class Replica:
    """An engine in a Ray actor; its tensor parallel workers are processes of the same node."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        for name in _OF_ANOTHER_ENGINE:
            os.environ.pop(name, None)
        # Ray inside of Ray would wait for its own resources.
        own = {k: v for k, v in arguments.items() if k != "distributed_executor_backend"}
        self._engine = LLM(**own)

    def run(self, prompts: Prompts, params: Any, lora: Any) -> list[Any]:
        """vLLM's outputs."""
        return _run(self._engine, prompts, params, lora, False)

    def ask(self, method: str, arguments: Sequence[Any]) -> list[Any]:
        """As `Engines.ask`, of this engine's workers."""
        found: list[Any] = self._engine.collective_rpc(method, args=tuple(arguments))
        return found

    def forget(self) -> None:
        """As `Engines.forget`."""
        self._engine.reset_prefix_cache()


class Replicas:
    """Engines in Ray actors, on any nodes of the cluster."""

    def __init__(self, count: int, gpus: int, arguments: Mapping[str, Any]) -> None:
        import ray

        self._ray = ray
        actor = ray.remote(num_gpus=gpus)(Replica)
        self._replicas = [actor.remote(dict(arguments)) for _ in range(count)]

    def generate(
        self, prompts: Prompts, params: Sequence[SamplingParams], lora: Any, progress: bool
    ) -> list[Any]:
        """As `Engines.generate`; neighbours, which are of like length, go to different engines."""
        count = len(self._replicas)
        shares = zip(distribute(count, prompts), distribute(count, params), strict=True)
        running = [
            replica.run.remote(list(some), list(settings), lora)
            for replica, (some, settings) in zip(self._replicas, shares, strict=True)
        ]
        found = [iter(outputs) for outputs in self._ray.get(running)]
        return [next(found[place % count]) for place in range(len(prompts))]

    def everywhere(self, prompts: Prompts, params: SamplingParams) -> list[list[Any]]:
        """As `Engines.everywhere`."""
        running = [one.run.remote(prompts, params, None) for one in self._replicas]
        found: list[list[Any]] = self._ray.get(running)
        return found

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """As `Engines.ask`."""
        running = [one.ask.remote(method, arguments) for one in self._replicas]
        return [answer for answers in self._ray.get(running) for answer in answers]

    def forget(self) -> None:
        """As `Engines.forget`."""
        self._ray.get([one.forget.remote() for one in self._replicas])
