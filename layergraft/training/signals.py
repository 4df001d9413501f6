"""What ends a step or a run early, agreed on by all of its processes."""

from __future__ import annotations

import os
import subprocess

import torch
import torch.distributed as dist
from torch import Tensor

from layergraft.encoders.distributed import is_distributed
from layergraft.runs.lock import is_first_process


def is_loss(error: RuntimeError) -> bool:
    """Whether an exchange failed because another process is gone. gloo is known by the source file that it names."""
    return dist.is_available() and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())


def agree(size: Tensor, *wishes: bool) -> list[bool]:
    """What all processes do after a step, in one exchange.

    Args:
        size: finite exactly if this process's step is.
        wishes: what this process would like.

    Returns:
        Whether the step is finite everywhere, and for each wish whether any process has it.
    """
    finite = bool(torch.isfinite(size))
    if not is_distributed():
        return [finite, *wishes]
    shared = torch.tensor([not finite, *wishes], dtype=torch.uint8, device=size.device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    bad, *wished = map(bool, shared.tolist())
    return [not bad, *wished]


def requeue() -> str | None:
    """Put this process's Slurm job back into the queue.

    Returns:
        A sentence about it; None outside Slurm, and in all processes but the first.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or not is_first_process():
        return None
    words = ["scontrol", "requeue", job]
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        return f"Job {job} could not be requeued: {str(reason).strip()} Submit it again to go on."
    return f"Job {job} is back in the queue."
