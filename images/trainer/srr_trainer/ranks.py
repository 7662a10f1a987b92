"""The processes of a training stage: who this one is, and what all of them agree on.

Purpose: start torch.distributed through DeepSpeed, also for a single process without a launcher; small collectives.
Must not: know about models or data.
Neighbours: `program` starts it; `reference`, `checkpoints` and `saving` agree through it.
"""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from selfrewarding.api.execution import TrainingSpec
from selfrewarding.contract.program import BadConfiguration
from srr_trainer.operators import use_compiled_cpu_adam

COLLECTIVE_TIMEOUT = timedelta(hours=2)
"""Ranks wait this long for each other: while rank 0 uploads a large model, the others stand at a barrier."""


@dataclass(frozen=True)
class Ranks:
    """This process among the others; started once per process."""

    rank: int
    local_rank: int
    world: int
    local_world: int
    device: str
    """cuda or cpu."""

    @property
    def first(self) -> bool:
        """Whether this rank decides, writes and commits."""
        return self.rank == 0

    @property
    def first_of_node(self) -> bool:
        """Whether this rank fetches and uploads for its pod."""
        return self.local_rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value in the order of ranks, on every rank."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, value)
        return box

    def highest(self, *values: int) -> list[int]:
        """The highest of all ranks' values, by position: how a flag that one rank raised is seen by all."""
        if self.world == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(values, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [int(value) for value in tensor.tolist()]


def start_ranks(training: TrainingSpec) -> Ranks:
    """Join the other processes. Raises BadConfiguration if their number is not the one of the spec."""
    _single_process_environment()
    world, local_world = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    expected = training.nodes * training.gpus_per_node
    if world != expected:
        raise BadConfiguration(
            f"{world} training processes were started, but training.nodes x training.gpusPerNode is "
            f"{training.nodes} x {training.gpus_per_node} = {expected}: start torchrun with that number"
        )
    ranks = Ranks(
        rank=int(os.environ["RANK"]),
        local_rank=int(os.environ["LOCAL_RANK"]),
        world=world,
        local_world=local_world,
        device="cuda" if training.device == "Cuda" else "cpu",
    )
    import torch

    if ranks.device == "cuda":
        if torch.cuda.device_count() < local_world:
            raise BadConfiguration(
                f"training.device is Cuda with {local_world} processes per pod, but this pod sees "
                f"{torch.cuda.device_count()} GPUs: lower training.gpusPerNode, or set training.device: Cpu"
            )
        torch.cuda.set_device(ranks.local_rank)
    else:
        # torchrun sets one thread per process where it starts several; the pod's cores are shared out instead.
        torch.set_num_threads(max(1, available_cores() // local_world))
    _join(ranks)
    return ranks


def available_cores() -> int:
    """Cores that this process may use: its affinity, or the CPU limit of its container if that is lower."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def _single_process_environment() -> None:
    """What torchrun would have set for one process; nothing if it did."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _join(ranks: Ranks) -> None:
    import deepspeed
    import deepspeed.ops
    import torch.distributed as dist

    if ranks.device == "cpu":
        # DeepSpeed would compile its shared-memory collectives for a minute and a half; gloo serves as well here.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    else:
        use_compiled_cpu_adam()
    # Before the trainer is built: DeepSpeed reads the number of ranks when its configuration is checked.
    if not dist.is_initialized():
        deepspeed.init_distributed(
            dist_backend="nccl" if ranks.device == "cuda" else "gloo",
            auto_mpi_discovery=False,
            timeout=COLLECTIVE_TIMEOUT,
            verbose=False,
        )
