"""Several processes that train one model, as torchrun starts them. One process alone is the ordinary case."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor

from threedgen.core.errors import UserError


@dataclass(frozen=True)
class World:
    """The processes of a training.

    rank: number of this process. size: number of processes. local: rank of this process on its machine, which
    chooses its GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the files that exist once."""
        return self.rank == 0

    def share(self, items: list[int]) -> list[int]:
        """This process's share of a list. Raises UserError if the list cannot be divided into shares of equal
        length."""
        if len(items) % self.size:
            raise UserError(
                f"a batch of {len(items)} cannot be shared by {self.size} processes: change batch=N"
            )
        count = len(items) // self.size
        return items[self.rank * count : (self.rank + 1) * count]

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes, with one message for all tensors."""
        kept = list(tensors)
        if self.size == 1 or not kept:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in kept])
        torch.distributed.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(kept, flat.split([tensor.numel() for tensor in kept]), strict=True):
            tensor.copy_(mean.reshape(tensor.shape))

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()


def join_world(device: str) -> World:
    """The processes that torchrun started, by its environment variables. Without them it is one process.

    The processes communicate by gloo on the CPU and by nccl on CUDA. Raises UserError if they cannot connect.
    """
    try:
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return World()
        world = World(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))
    except (KeyError, ValueError) as error:
        raise UserError(
            "WORLD_SIZE is set, but not the other variables that torchrun sets: start with torchrun, or unset it"
        ) from error
    if not torch.distributed.is_initialized():
        try:
            if device == "cuda":
                torch.cuda.set_device(world.local)
            # The others wait while the first one packs the objects, however long that takes.
            backend, patience = "nccl" if device == "cuda" else "gloo", timedelta(hours=12)
            torch.distributed.init_process_group(backend, timeout=patience)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"the {size} processes cannot connect: {str(error).splitlines()[0]}; check the addresses that "
                "torchrun was given"
            ) from error
    return world
