"""Slurm: a job that a signal stopped puts itself back into the queue."""

from __future__ import annotations

import os
import subprocess


def requeue() -> str | None:
    """Requeue this process's job; a sentence about it, None outside Slurm and in all processes but the first."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0":
        return None
    words = ["scontrol", "requeue", job]
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        return f"Job {job} could not be requeued: {str(reason).strip()} Submit it again to go on."
    return f"Job {job} is back in the queue."
