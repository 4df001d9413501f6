"""Threads of a command share heaps, so that what one has freed another can take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PEAK = """
import os
import sys
import threading

os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:2])
from layergraft.runs.heap import share_heap

if sys.argv[1] == "shared":
    share_heap()


def work(turn):
    for place in range(8):
        if place == turn:
            parts = [bytearray(100_000) for _ in range(200)]  # 20 MB, in pieces below the threshold of mmap
            del parts
        barrier.wait()


barrier = threading.Barrier(8)
threads = [threading.Thread(target=work, args=(turn,)) for turn in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the peak")
def test_eight_threads_in_turn_take_the_memory_of_one_or_two() -> None:
    glibc = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}  # what is freed is kept
    peaks = {}
    for how in ("shared", "apart"):
        words = [sys.executable, "-c", PEAK, how]
        told = subprocess.run(words, check=True, capture_output=True, text=True, env=os.environ | glibc)
        peaks[how] = int(told.stdout)
    assert peaks["shared"] < peaks["apart"] - 60_000
