"""How the processes that torchrun starts together find each other.

torchrun keeps one store over all restarts, and gloo leaves the addresses of its processes in it. After a restart, a
process that is quicker than its peers would read where they listened before, and be refused; the peers would wait for
it. So each start of the group keeps what it says under a name of its own.

Needed with torch 2.14 and gloo, under torchrun with restarts. There, `torch.distributed.rendezvous` says "We create a
new TCPStore for every retry", but what it creates is another client of the agent's one store.
TORCHELASTIC_RESTART_COUNT is no such name: each agent counts its own failures, so nodes disagree, and a restart for a
changed membership is not counted. TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 is read by torchrun itself, before this
program starts: only the user could set it.
"""

from __future__ import annotations

import atexit
import os
import time
import uuid
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed's, with their types

from layergraft.errors import Lost
from layergraft.runs.interruption import check

_START = "layergraft/start"
_TIMEOUT, _PAUSE = timedelta(minutes=30), 0.05


def needed() -> bool:
    """Whether this process still has to meet the others in a store of torchrun's; elsewhere a start brings its own."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and not dist.is_initialized()


def join(device: torch.device) -> None:
    """Make the process group of this start.

    Args:
        device: of this process.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), wait_for_workers=False)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(name_start(store, rank, world), store),
        rank=rank,
        world_size=world,
        timeout=_TIMEOUT,
        device_id=None if device.type == "cpu" else device,
    )
    if device.type == "cuda":  # nccl warns where nobody does it
        atexit.register(dist.destroy_process_group)


def name_start(store: Store, rank: int, world: int) -> str:
    """Agree on a name that no earlier start has had.

    The first process makes it up and publishes it. Another one cannot know whether the name it reads is that of an
    earlier start: it leaves a word of its own there, again and again, until the first process has answered that word.

    Args:
        store: shared by all starts.
        rank: of this process.
        world: number of processes.

    Raises:
        Lost: the others did not come.
    """
    end = time.monotonic() + _TIMEOUT.total_seconds()
    word = uuid.uuid4().hex
    if rank == 0:
        store.set(_START, word)
        for other in range(1, world):
            said = f"{word}/{other}"
            while not store.check([said]):
                _pause(end)
            store.set(f"{word}/{store.get(said).decode()}", "welcome")
        return word
    while True:
        if store.check([_START]):
            name = store.get(_START).decode()
            store.set(f"{name}/{rank}", word)
            if store.check([f"{name}/{word}"]):
                return name
        _pause(end)


def _pause(end: float) -> None:
    """Not one long wait in the store, which would take no signal."""
    check()
    if time.monotonic() > end:
        raise Lost(f"The other processes did not come within {_TIMEOUT}.")
    time.sleep(_PAUSE)
