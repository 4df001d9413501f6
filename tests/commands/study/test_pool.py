"""Processes of a study: forked from the command where that is safe, stopped by a signal, and gone with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from layergraft.commands.study.pool import start_method

# Two jobs that last until SIGTERM comes; the command line's guard is around them, with its thread.
STUDY = """
import os, sys, time
from pathlib import Path
from layergraft.commands.study.pool import Pool
from layergraft.errors import Stopped
from layergraft.runs.interruption import SignalGuard

def job(name):
    import signal, torch
    with SignalGuard(hold=True) as signals:
        Path(f"{name}.began").write_text(f"{os.getpid()} {torch.get_num_threads()} {signal.set_wakeup_fd(-1)}")
        print("at work on", name)
        os.write(2, b"as C code writes\\n")
        while signals.received is None:
            time.sleep(0.02)
        Path(f"{name}.saved").write_text(str(signals.received))

if __name__ == "__main__":
    with SignalGuard(force=True), Pool(2, Path("log")) as pool, SignalGuard(hold=True) as signals:
        print(pool.method, Path("log").exists(), flush=True)
        for name in ("one", "two"):
            pool.start(name, job, name)
        try:
            list(pool.finished(signals))
        except Stopped as stopped:
            print(stopped, flush=True)
"""


def begun(folder: Path) -> tuple[subprocess.Popen[str], dict[str, list[int]]]:
    """A study whose jobs run, and what each of them wrote: process, threads, pipe that a signal writes to."""
    (folder / "study.py").write_text(STUDY)
    process = subprocess.Popen([sys.executable, "study.py"], cwd=folder, stdout=subprocess.PIPE, text=True)
    jobs: dict[str, list[int]] = {}
    end = time.monotonic() + 120
    while len(jobs) < 2 and time.monotonic() < end and process.poll() is None:
        for file in folder.glob("*.began"):
            if words := file.read_text().split():
                jobs[file.stem] = list(map(int, words))
        time.sleep(0.02)
    assert set(jobs) == {"one", "two"}
    return process, jobs


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")
def test_processes_are_forked_and_save_on_a_signal(tmp_path: Path) -> None:
    process, jobs = begun(tmp_path)
    process.send_signal(signal.SIGTERM)
    words, _ = process.communicate(timeout=120)
    import torch

    assert words.splitlines()[0] == ("spawn" if torch.cuda.is_available() else "fork") + " False"
    assert "Stopped by SIGTERM; everything is saved." in words
    assert sorted(file.name for file in tmp_path.glob("*.saved")) == ["one.saved", "two.saved"]
    for _, threads, pipe in jobs.values():
        assert threads == 1 or torch.cuda.is_available()
        assert pipe == -1  # else an interrupt of theirs would count as the command's
    log = (tmp_path / "log").read_text()
    assert sorted(log.splitlines()) == ["as C code writes"] * 2 + ["at work on one", "at work on two"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc for processes")
def test_a_killed_command_leaves_no_processes(tmp_path: Path) -> None:
    process, jobs = begun(tmp_path)
    process.kill()
    process.communicate(timeout=120)
    end = time.monotonic() + 60
    while any(runs(pid) for pid, *_ in jobs.values()) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(runs(pid) for pid, *_ in jobs.values())


def test_nothing_is_forked_beside_threads_or_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it forked"))
    with monkeypatch.context() as gpu:
        gpu.setattr("torch.cuda.is_available", lambda: True)
        assert start_method() == "spawn"
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert start_method() == "spawn"
    finally:
        done.set()
        thread.join()
