"""Core-seconds: how long the cores of the machine have worked for a process and those that it has started."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path


def cpu_seconds() -> float:
    """Seconds of all cores together that the process tree has computed so far, in user and system mode.

    Threads count, and so do processes that this one has started and that have ended. Of those that still run, the
    system tells on Linux alone, in hundredths of a second.
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(_of_process, _started_by(os.getpid())))


def _started_by(pid: int) -> list[int]:
    """Processes that a process has started and that still run, those below them included."""
    below: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in file.read_text().split()]
        except OSError:  # the thread has just ended
            continue
        for child in children:
            below += [child, *_started_by(child)]
    return below


def _of_process(pid: int) -> float:
    """Core-seconds of a process that runs, with what has ended below it; 0 where it has just ended itself."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    ticks = sum(int(word) for word in after_name[11:15])  # utime, stime, cutime, cstime: proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")
