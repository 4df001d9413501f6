"""Run one command again and again, each time with the next system call failing; started with `system_faults.c` loaded.

`python fault_machine.py WORK COMMAND ERRNO FIRST STEP`: prints a JSON line for each call that made a difference to what
it must be, and one with the number of calls at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from small_run import contents, prepare, words_of

from layergraft.commands.cli import main


class Machine:
    """Arms the preloaded library around a command.

    Args:
        finished: a folder with `images` and the finished run `run`.
        work: a copy of the run in which the command works.
        command: see `words_of`; also `train`, `resume` and `finish`.
        code: of the error.
    """

    def __init__(self, finished: Path, work: Path, command: str, code: int) -> None:
        self.finished, self.work, self.command, self.code = finished, work, command, code
        self.words = words_of(command, finished / "images", work / "run", work / "out")
        self.library = ctypes.CDLL(None)
        self.library.faults_met.restype = ctypes.c_char_p
        self.library.faults_disarm.restype = ctypes.c_long
        self.undisturbed: dict[str, Any] = {}

    def renew(self) -> None:
        """The state before the command."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        if self.command != "train":
            shutil.copytree(self.finished / "run", self.work / "run")
            prepare(self.command, self.work / "run")

    def run(self, number: int = 1 << 40) -> tuple[int, str, str]:
        """(exit code, stderr, the call that failed) of the command with call `number` failing."""
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            self.library.faults_arm(str(self.work).encode(), self.code, ctypes.c_long(number))
            code = main(self.words)
            self.calls = self.library.faults_disarm()
        return code, said.getvalue(), self.library.faults_met().decode()

    def attempt(self, number: int) -> str:
        """What is wrong with what a fault led to; empty where nothing is."""
        self.renew()
        code, said, met = self.run(number)
        wrong = []
        if code not in (0, 2) or "Traceback" in said:
            wrong.append(f"exit {code}")
        if code == 2 and (os.strerror(self.code) not in said or str(self.work) not in said):
            wrong.append("neither the file nor the error is named")
        if code == 2 and self.command == "pack" and not (self.work / "out" / "unfinished.json").exists():
            shutil.rmtree(self.work / "out", ignore_errors=True)
        after, again = ("", 0) if code == 0 else self.run()[1::-1]
        if again:
            wrong.append(f"not gone on with: exit {again}: {after[-600:]}")
        elif (differing := self._differing()) and code in (0, 2):
            wrong.append(f"other results: {differing}")
        return f"{met}: {'; '.join(wrong)}\n{said[-1500:]}" if wrong else ""

    def _differing(self) -> list[str]:
        seen, before = contents(self.work), self.undisturbed
        return sorted(name for name in seen.keys() | before.keys() if seen.get(name) != before.get(name))


def attack(finished: Path, work: Path, command: str, code: int, first: int, step: int) -> None:
    """Print what is wrong."""
    os.environ["LAYERGRAFT_CACHE"] = str(work / "cache")
    machine = Machine(finished, work, command, code)
    machine.renew()
    ended, said, _ = machine.run()
    assert ended == 0, said
    calls, machine.undisturbed = machine.calls, contents(work)
    for number in range(first, calls, step):
        if wrong := machine.attempt(number):
            print(json.dumps({"number": number, "wrong": wrong}), flush=True)
    print(json.dumps({"calls": calls}), flush=True)


if __name__ == "__main__":
    finished, work, command, *numbers = sys.argv[1:]
    attack(Path(finished), Path(work), command, *map(int, numbers))
