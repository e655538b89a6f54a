"""`ctx-train` on CPUs, sharded: `accelerate launch -m tests.training.tuning.cpus_as_gpus KILL_AT`.

accelerate 1.15 shards by FSDP only what it has found to be GPUs: `AcceleratorState.__init__` lists
the kinds of processes, and CPU processes (MULTI_CPU) are not among them, so that without this
module they train unsharded copies and nothing says so. Here they are entered under the name of
GPUs; device (CPU), backend (gloo) and everything after it are accelerate's and torch's own.

The arguments after KILL_AT are those of `ctx-train`. The second process kills itself before step
KILL_AT (-1: never). Each process prints how many numbers of the input embedding it holds.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from trl import SFTTrainer

from training import cli

initialise = PartialState.__init__
training_step = SFTTrainer.training_step


def initialise_as_gpus(state: Any, *arguments: Any, **keywords: Any) -> None:
    initialise(state, *arguments, **keywords)
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


def watched_step(trainer: Any, *arguments: Any, **keywords: Any) -> Any:
    process = trainer.args.process_index
    if trainer.state.global_step == 0:
        part = held(trainer.model.get_input_embeddings().weight)
        print(f"process {process} holds {part} numbers", flush=True)
    if trainer.state.global_step == kill_at and process == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return training_step(trainer, *arguments, **keywords)


def held(weight: Any) -> int:
    """The size of this process's part, by FSDP2 or by ZeRO-3."""
    part = weight.to_local() if isinstance(weight, DTensor) else weight.ds_tensor
    return int(part.numel())


if __name__ == "__main__":
    kill_at = int(sys.argv.pop(1))
    PartialState.__init__ = initialise_as_gpus
    SFTTrainer.training_step = watched_step
    cli.main()
