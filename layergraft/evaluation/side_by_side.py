"""Small fits that do not depend on each other, on all cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from layergraft.runs.interruption import check

_NUMBERS = 2**25  # that all fits of one moment may have as features
Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], size: int, device: torch.device
) -> list[Result]:
    """What `work` gives for each item, in their order.

    A fit on few rows is a chain of products so small that a second thread in each of them is waited for rather than
    of use; so each fit has one core, and several run at a time. Large ones, and those on a GPU, run in turn.

    Args:
        work: of one item; it runs in a thread.
        items: all of them.
        size: numbers of the largest item's features.
        device: that computes.
    """
    threads = torch.get_num_threads()
    together = min(threads, len(items), _NUMBERS // max(1, size))
    if device.type != "cpu" or together < 2:
        return [work(item) for item in items]
    results: list[Result] = []
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(together, thread_name_prefix="layergraft-fit")
    try:
        for result in pool.map(work, items):
            check()
            results.append(result)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
    return results
