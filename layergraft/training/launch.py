"""What a run runs on: processes and devices, alone, under torchrun, or under srun."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layergraft.errors import UserError
from layergraft.runs.readable import counted
from layergraft.training.started import Start, start_of_srun, start_of_torchrun

CPU = torch.device("cpu")
_WATCH, _ORPHAN_SECONDS = 1.0, 7.0  # how often a process looks for its torchrun, and how long it may then save


@dataclass(frozen=True, kw_only=True)
class Process:
    """Which of a run's processes this is, and what it computes on.

    Args:
        rank: from 0.
        world_size: how many processes there are.
        device: where it computes.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = CPU

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes and says what all have found."""
        return self.rank == 0

    def to_device(self, tensor: Tensor) -> Tensor:
        """The tensor where this process computes."""
        return tensor.to(self.device, non_blocking=self.device.type == "cuda")


ALONE = Process()


def _own_device() -> torch.device:
    """That of a process which is alone: the first GPU, if there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("mps", 0) if torch.backends.mps.is_available() else torch.device("cpu")


def is_one_of_several() -> bool:
    """Whether torchrun or srun has started this process with others; a batch script that calls no srun is one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"]) > 1
    return os.environ.get("SLURM_STEP_ID", "").isdigit() and int(os.environ.get("SLURM_NTASKS", "1")) > 1


def _started_by() -> Start | None:
    """Who started this process with others; None of a process that is alone."""
    if not is_one_of_several():
        return None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return start_of_torchrun()
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise UserError("The Slurm job says --ntasks alone.", "Say --nodes and --ntasks-per-node instead.")
    return start_of_srun()


def _device_of(start: Start) -> torch.device:
    """That of one of several processes of a machine: a GPU each, where there are GPUs.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    if not torch.cuda.is_available():
        return CPU
    visible = torch.cuda.device_count()
    if start.local_size > visible:
        raise UserError(
            f"{start.local_size} processes were started where {counted(visible, 'GPU')} can be seen.",
            "Start one for each GPU, and let each process see all of them.",
        )
    return torch.device("cuda", start.local_rank)


def launch() -> Process:
    """Join the other processes, if there are any.

    Done before anything that may fail in one of them alone: who has met the others can tell them (`signals.together`).
    """
    start = _started_by()
    if start is None:
        return Process(device=_own_device())
    device = _device_of(start)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _end_with_torchrun()
    from layergraft.training import rendezvous  # which torch is not always built for

    rendezvous.join(start, device)
    if "OMP_NUM_THREADS" not in os.environ:  # else each of them would take all cores
        torch.set_num_threads(max(1, available_cores() // start.local_size))
    return Process(rank=start.rank, world_size=start.world_size, device=device)


@cache
def _end_with_torchrun() -> None:
    """Stop, saved, within seconds after torchrun was killed: nobody would start, stop or count this process again."""
    agent = os.getppid()

    def watch() -> None:
        while os.getppid() == agent:
            time.sleep(_WATCH)
        print("layergraft: torchrun is gone; this process of it stops.", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ORPHAN_SECONDS)
        os._exit(75)

    threading.Thread(target=watch, daemon=True, name="layergraft-torchrun").start()


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def other_threads(what: str, before: int | None, device: torch.device) -> str | None:
    """A sentence where torch has another number of threads than something was computed with.

    Args:
        what: was computed.
        before: its number of threads; None where an earlier version did not note it.
        device: that computes now.
    """
    threads = torch.get_num_threads()
    if before in (None, threads) or device.type != "cpu":
        return None
    return (
        f"{what} was computed with {counted(before, 'thread')} of torch so far, and the run goes on with {threads}: "
        f"sums are rounded in another order, so the result will not be the same bits. OMP_NUM_THREADS={before} keeps "
        "them."
    )


def machine() -> dict[str, Any]:
    """What the numbers were made on."""
    import timm

    cpu = platform.processor() or platform.machine()
    try:
        names = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
        cpu = names[0] if names else cpu
    except OSError:
        pass
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "timm": timm.__version__}
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu, "versions": versions}
