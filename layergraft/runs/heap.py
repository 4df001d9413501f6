"""What the C library (glibc) does with memory that is asked for and freed."""

from __future__ import annotations

import ctypes
import os
from typing import Literal

# Options of mallopt, from malloc.h.
_TRIM_THRESHOLD = -1
_TOP_PAD = -2
_MMAP_THRESHOLD = -3
_MMAP_MAX = -4
_ARENA_MAX = -8
_MALLOC = {
    # One heap that never shrinks and grows in large steps.
    "keep": {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 2**26},
    "give back": {_MMAP_MAX: 2**16, _MMAP_THRESHOLD: 2**20, _TRIM_THRESHOLD: 2**17, _TOP_PAD: 0},
}


def share_heap() -> None:
    """Have threads share heaps, one for two cores, before any of them has its own.

    glibc gives up to eight a core to threads, and what one has freed no other takes: the demo's peak on two cores was
    100 MB higher for it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    _set(_ARENA_MAX, max(1, cores // 2))


def set_memory_reuse(policy: Literal["keep", "give back"]) -> None:
    """Say what the C library does with large blocks that are freed.

    A step allocates the same tensors as the one before. Left alone, glibc returns blocks of more than 32 MB to the
    system and gets them back page by page, each page a fault and full of zeros to be overwritten: a third of the time
    of an MAE step of ViT-S on two cores. Kept, they are there at the next step. But kept blocks are cut into pieces
    that do not fit: with activation checkpointing a process of ViT-S held twice what its tensors needed. So those who
    save memory give it back.

    Args:
        policy: keep all for the next step, or give all back.
    """
    for option, value in _MALLOC[policy].items():
        _set(option, value)


def give_memory_back() -> bool:
    """Give what was freed back to the system, whatever the policy; whether the C library can.

    For the end of a phase: what training kept for its next step is nothing that an evaluation needs.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
    return trim is not None


def _set(option: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(option, value)
