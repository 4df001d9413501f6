"""SIGTERM in the middle of any command: 75 and one message, or done; the same command then ends with the same files."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from small_run import contents, make_run, prepare, words_of

import layergraft
from layergraft.commands.cli import main

BEFORE = 20  # calls until the command takes signals
PACKAGE = str(Path(layergraft.__file__).parent)
Fixtures = tuple[Path, Path]
COMMANDS = ["evaluate", "embed", "analyze", "pack", "report", "predict", "pick", "audit", "look", "export"]


class Calls:
    """Counts the calls of the package's functions, and sends SIGTERM at one of them.

    Args:
        number: of the call, from 1; None sends nothing.
    """

    def __init__(self, number: int | None = None) -> None:
        self.number, self.seen = number, 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.seen += 1
            if self.seen == self.number:
                os.kill(os.getpid(), signal.SIGTERM)

    def around(self, words: list[str]) -> int:
        """The exit code of a command."""
        sys.setprofile(self)
        try:
            return main(words)
        finally:
            sys.setprofile(None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_run(tmp_path_factory.mktemp("signals"))


def renew(finished: tuple[Path, Path], work: Path, command: str) -> list[str]:
    """A copy of the finished run in `work`, without what the command makes; the command's words."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(finished[1], work / "run")
    prepare(command, work / "run")
    return words_of(command, finished[0], work / "run", work / "out")


def stopped_and_gone_on(
    finished: tuple[Path, Path],
    command: str,
    places: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> list[int]:
    """Exit codes of a command that SIGTERM met in places that are spread evenly over its calls."""
    monkeypatch.setenv("LAYERGRAFT_CACHE", str(tmp_path / "work" / "cache"))
    work = tmp_path / "work"
    words = renew(finished, work, command)
    main(words)  # what is done only once in a process is done
    words = renew(finished, work, command)
    whole = Calls()
    assert whole.around(words) == 0, capsys.readouterr().err
    undisturbed = contents(work)
    assert undisturbed
    codes = []
    for place in range(places):
        renew(finished, work, command)
        capsys.readouterr()
        codes.append(Calls(BEFORE + whole.seen * place // places).around(words))
        said = capsys.readouterr().err
        where = f"{command}, place {place} of {places}: exit {codes[-1]}\n{said}"
        assert codes[-1] in (0, 75), where
        assert "Traceback" not in said, where
        assert said.count("Stopped by SIGTERM") == (codes[-1] == 75), where
        assert not codes[-1] or main(words) == 0, f"{where}\n{capsys.readouterr().err}"
        seen = contents(work)
        assert [name for name in {*seen, *undisturbed} if seen.get(name) != undisturbed.get(name)] == [], where
    return codes


@pytest.mark.parametrize("command", ["pack", "embed"])
def test_a_signal_in_two_places(
    command: str,
    finished: Fixtures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert stopped_and_gone_on(finished, command, 2, tmp_path, monkeypatch, capsys) == [75, 75]


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"pack", "embed"}))
def test_a_signal_in_three_places(
    command: str,
    finished: Fixtures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert stopped_and_gone_on(finished, command, 3, tmp_path, monkeypatch, capsys)[0] == 75


@pytest.mark.soak
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_in_20_places(
    command: str,
    finished: Fixtures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    codes = stopped_and_gone_on(finished, command, 20, tmp_path, monkeypatch, capsys)
    assert codes[:3] == [75] * 3
