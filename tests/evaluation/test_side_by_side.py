"""Fits that run at a time."""

from __future__ import annotations

import threading

import pytest
import torch

from layergraft.evaluation.side_by_side import side_by_side

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_run_at_a_time_with_a_thread_each_and_keep_their_order() -> None:
    meet = threading.Barrier(2, timeout=20)

    def work(item: int) -> tuple[int, int]:
        meet.wait()
        return item, torch.get_num_threads()

    assert side_by_side(work, range(6), 10, CPU) == [(item, 1) for item in range(6)]
    assert torch.get_num_threads() == 2


def test_large_ones_run_in_turn_with_all_threads() -> None:
    here = threading.get_ident()
    assert side_by_side(lambda item: (threading.get_ident(), torch.get_num_threads()), [0, 1], 2**25, CPU) == [
        (here, 2),
        (here, 2),
    ]


def test_what_fails_is_raised_and_the_threads_are_given_back() -> None:
    def work(item: int) -> int:
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        side_by_side(work, [1, 0, 2, 3], 10, CPU)
    assert torch.get_num_threads() == 2
