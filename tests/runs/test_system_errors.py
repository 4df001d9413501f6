"""A full or read-only disk or a missing permission at the n-th call: exit 2, and the same command goes on."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_run import make_run, prepare, words_of

from layergraft.commands.cli import main

KINDS = [errno.ENOSPC, errno.EROFS, errno.EACCES]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Faults:
    """Let the n-th call that changes something below a folder fail.

    Args:
        folder: what is changed elsewhere is let through; `fsync` has no path and counts always.
        code: of the error.
        number: of the call, from 0.
    """

    def __init__(self, folder: Path, code: int, number: int) -> None:
        self.folder, self.code, self.number = str(folder), code, number
        self.seen = 0

    def meet(self, path: Any) -> None:
        """Count a call, and fail if its turn has come; `path` None has none."""
        if path is not None and not os.fspath(path).startswith(self.folder):
            return
        self.seen += 1
        if self.seen == self.number + 1:
            raise OSError(self.code, os.strerror(self.code), *([] if path is None else [os.fspath(path)]))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand before `open` for writing, `os.open`, `os.mkdir`, `os.replace` and `os.fsync`."""
        plain_open, plain_descriptor = builtins.open, os.open

        def open_file(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if not isinstance(file, int) and set(mode) & set("wax+"):
                self.meet(file)
            return plain_open(file, mode, *rest, **more)

        def open_descriptor(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            if flags & WRITING:
                self.meet(path)
            return plain_descriptor(path, flags, *rest, **more)

        def before(call: Callable[..., Any], has_path: bool) -> Callable[..., Any]:
            def failing(*words: Any, **more: Any) -> Any:
                self.meet(words[0] if has_path else None)
                return call(*words, **more)

            return failing

        patch.setattr(builtins, "open", open_file)
        patch.setattr(io, "open", open_file)  # that of `Path`
        patch.setattr(os, "open", open_descriptor)
        for name in ("mkdir", "replace", "fsync"):
            patch.setattr(os, name, before(getattr(os, name), name != "fsync"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_run(tmp_path_factory.mktemp("faults"))


def attempt(
    finished: tuple[Path, Path], work: Path, command: str, code: int, number: int, capsys: pytest.CaptureFixture[str]
) -> bool:
    """Run a command with a fault, then without; whether the fault was met."""
    images, run = finished
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(run, work / "run")
    if command == "train":
        shutil.rmtree(work / "run")
    else:
        prepare(command, work / "run")
    words = words_of(command, images, work / "run", work / "out")
    faults = Faults(work, code, number)
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        faults.install(patch)
        ended = main(words)
    said = capsys.readouterr().err
    met = faults.seen > number
    # What a fault touches may be a cache or a note that the command can do without.
    assert ended in ((0, 2) if met else (0,)), f"{command}, call {number}: exit {ended}\n{said}"
    assert "Traceback" not in said, said
    if ended == 2:
        assert os.strerror(code) in said, said
    if command == "pack":  # it begins anew, in an empty folder; a finished one is refused
        shutil.rmtree(work / "out", ignore_errors=True)
    assert main(words) == 0, f"{command}, call {number}: not gone on with\n{capsys.readouterr().err}"
    return met


@pytest.mark.parametrize("command", ["report", "evaluate", "embed", "pack", "finish", "predict", "pick"])
@pytest.mark.parametrize("number", [0, 3])
def test_a_fault_costs_nothing(
    finished: tuple[Path, Path], tmp_path: Path, command: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt(finished, tmp_path / "work", command, KINDS[number % 3], number, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "resume"])
@pytest.mark.parametrize("number", [1, 4, 9, 16, 30])
def test_a_fault_while_training_costs_nothing(
    finished: tuple[Path, Path], tmp_path: Path, command: str, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attempt(finished, tmp_path / "work", command, KINDS[number % 3], number, capsys)


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that lets system calls fail."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler is missing")
    library = tmp_path_factory.mktemp("library") / "system_faults.so"
    source = Path(__file__).with_name("system_faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


ALL = ["train", "resume", "finish", "report", "evaluate", "embed", "pack"]
ALL += ["analyze", "predict", "pick", "audit", "look", "export"]


@pytest.mark.soak
@pytest.mark.parametrize("command", ALL)
@pytest.mark.parametrize("code", KINDS)
def test_every_fault_costs_nothing(
    finished: tuple[Path, Path], preloaded: Path, tmp_path: Path, command: str, code: int
) -> None:
    """Every system call that writes, in turn; also those of writers in C++ and Rust, and each write to an open file."""
    here = Path(__file__).parent
    places = os.pathsep.join([*sys.path, str(here), str(here.parent)])
    machine = [sys.executable, str(here / "fault_machine.py"), str(finished[1].parent), str(tmp_path / "work"), command]
    environment = os.environ | {"LD_PRELOAD": str(preloaded), "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([*machine, str(code), "0", "1"], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    *wrong, last = ran.stdout.splitlines()
    assert wrong == []
    assert json.loads(last)["calls"] > 5
