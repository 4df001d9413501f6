"""A signal is noted whatever runs when it comes, and acted on at the next place that asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from layergraft.errors import Stopped
from layergraft.runs.interruption import FORCED, SignalGuard, check


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_nothing_that_runs_sees_a_signal_but_the_next_check_does(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with SignalGuard():
        os.kill(os.getpid(), number)  # raises nothing that C++, or a reader of damaged files, could drop
        with pytest.raises(Stopped) as caught:
            check()
    assert number.name in str(caught.value)
    assert caught.value.requeue == (number in (signal.SIGUSR1, signal.SIGUSR2))
    assert not isinstance(caught.value, Exception)  # `except Exception` does not take it for a damaged file
    assert signal.getsignal(number) is before
    check()  # the next command knows nothing of it


def stop_in_a_loop() -> None:
    with SignalGuard(hold=True) as loop:
        check()  # a loop asks by itself
        assert loop.received == signal.SIGTERM


def test_guards_within_guards_share_the_note() -> None:
    with SignalGuard():
        with SignalGuard():
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            stop_in_a_loop()
        with pytest.raises(Stopped):
            check()


@pytest.mark.parametrize("hangs", [True, False])
def test_a_second_interrupt_ends_a_process_that_hangs_in_c(hangs: bool) -> None:
    lock = "mutex = ctypes.create_string_buffer(64); c.pthread_mutex_lock(mutex); c.pthread_mutex_lock(mutex)"
    wait = lock if hangs else "time.sleep(60)"
    program = (
        "import ctypes, time, layergraft.runs.interruption as i, layergraft.commands.cli as cli\n"
        "i._GRACE = 0.2\n"
        "def hang(words):\n"
        "    c = ctypes.CDLL(None)\n"
        "    print('ready', flush=True)\n"
        f"    {wait}\n"
        "cli._run = hang\n"
        "raise SystemExit(cli.main(['train']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.1)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == FORCED
    assert b"Traceback" not in errors
