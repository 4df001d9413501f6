"""Processes that start again find each other, not what an earlier start left in the store."""

from __future__ import annotations

import threading
import time

import pytest
import torch.distributed as dist

from layergraft.training.rendezvous import name_start


def start(store: dist.Store, delays: list[float]) -> list[str]:
    """The name that each of several processes gets; each comes after its delay."""
    found = [""] * len(delays)

    def process(rank: int) -> None:
        time.sleep(delays[rank])
        found[rank] = name_start(store, rank, len(delays), time.monotonic() + 60)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(len(delays))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


@pytest.mark.parametrize("delays", [[0.0, 0.2, 0.2], [0.4, 0.0, 0.2]])
def test_each_start_has_a_name_of_its_own(delays: list[float]) -> None:
    store = dist.HashStore()
    first, second, smaller = start(store, delays), start(store, delays), start(store, delays[:2])
    assert all(len(set(names)) == 1 for names in (first, second, smaller))
    assert len({first[0], second[0], smaller[0]}) == 3
    assert all(first)
