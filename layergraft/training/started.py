"""What torchrun and srun say to each of the processes that they start together."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_PORT = 12910  # where the others are met if nobody says another
_JOB_PORTS = 15000  # the first of those that Slurm's jobs take, by the last four digits of their numbers


@dataclass(frozen=True, kw_only=True)
class Start:
    """One process of several.

    Args:
        rank: from 0, over all machines.
        world_size: how many there are on all machines.
        local_rank: from 0, on this machine.
        local_size: how many there are on this machine.
        address: of the machine where all meet.
        port: likewise.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    address: str
    port: int


def start_of_torchrun() -> Start:
    """As torchrun says it (https://docs.pytorch.org/docs/stable/elastic/run.html, environment variables)."""
    said = os.environ
    return Start(
        rank=int(said["RANK"]),
        world_size=int(said["WORLD_SIZE"]),
        local_rank=int(said["LOCAL_RANK"]),
        local_size=int(said["LOCAL_WORLD_SIZE"]),
        address=said.get("MASTER_ADDR", "127.0.0.1"),
        port=int(said.get("MASTER_PORT", _PORT)),
    )


def start_of_srun() -> Start:
    """As srun says it (https://slurm.schedmd.com/srun.html, output environment variables)."""
    said = os.environ
    tasks = int(said["SLURM_NTASKS"])
    job = said.get("SLURM_JOB_ID", "")
    port = _JOB_PORTS + int(job[-4:]) if job else _PORT  # jobs that share a machine do not share it
    return Start(
        rank=int(said["SLURM_PROCID"]),
        world_size=tasks,
        local_rank=int(said["SLURM_LOCALID"]),
        local_size=tasks // int(said["SLURM_NNODES"]),
        address=said.get("MASTER_ADDR", first_node(said.get("SLURM_NODELIST", "127.0.0.1"))),
        port=int(said.get("MASTER_PORT", port)),
    )


def first_node(nodes: str) -> str:
    """The first of a list as Slurm writes it: `gpu[03-05,9],cpu1` -> `gpu03`."""
    first = re.match(r"[^,\[\s]*(\[[^\]]*\][^,\[\s]*)*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0] if first else nodes)
