"""What several processes of one study rest on: locks of jobs, times that count once, no launcher's environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from layergraft.commands.study.carry_out import alone
from layergraft.commands.study.clock import Clock
from layergraft.commands.study.directory import SETTINGS, claim
from layergraft.errors import UserError
from layergraft.runs.lock import is_held, locked_or_not, waited_for


def test_a_job_is_held_by_one_and_free_once_it_is_killed(tmp_path: Path) -> None:
    directory = tmp_path / "locks" / "arm" / "seed-0"
    words = "import sys, time; from pathlib import Path; from layergraft.runs.lock import locked_or_not\n"
    words += "with locked_or_not(Path(sys.argv[1]), print) as mine: print(mine, flush=True); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", words, str(directory)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "True\n"
        assert is_held(directory)
        with locked_or_not(directory, print) as mine:
            assert not mine
    finally:
        other.kill()
        other.wait()
    assert not is_held(directory)
    with locked_or_not(directory, print) as mine:
        assert mine
    assert not directory.exists()


def test_many_threads_take_turns(tmp_path: Path) -> None:
    """Each end removes lock and directory, while others try for it."""
    inside, most, done, ended = 0, 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, done, ended
        turns = 0
        while turns < 5:
            with locked_or_not(tmp_path / "a" / "b", print) as mine:
                if mine:
                    turns += 1
                    with guard:
                        inside += 1
                        most, done = max(most, inside), done + 1
                    with guard:
                        inside -= 1
        with guard:
            ended += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == len(threads)  # none of them failed
    assert most == 1
    assert done == 20


def test_a_directory_that_goes_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another holder removes it between the try to make it and the look whether it is there."""
    folder, plain, tries = tmp_path / "a", Path.mkdir, []

    def mkdir(path: Path, *arguments: Any, **options: Any) -> None:
        tries.append(path)
        if len(tries) == 1:
            raise FileExistsError(17, "File exists")
        plain(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with locked_or_not(folder, print) as mine:
        assert mine
    assert len(tries) == 2


def test_times_of_several_processes_count_once(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    began = clock._began
    for name, times in (("a", [began - 100, began - 60]), ("b", [began - 80, began - 50]), ("c", [began - 10, began])):
        (tmp_path / f"{name}.json").write_text(json.dumps(times))
    clock.save()
    assert clock.seconds == pytest.approx(50 + 10, abs=5)


def test_a_process_of_a_launcher_is_alone_within(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "2", "RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    before = dict(os.environ)
    with alone():
        assert not {"SLURM_STEP_ID", "SLURM_NTASKS", "RANK"} & os.environ.keys()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert dict(os.environ) == before


def test_a_failure_of_any_process_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(UserError), alone():
        raise UserError("slow/seed-1: it diverged.")
    assert "slow/seed-1: it diverged." in capsys.readouterr().err


def test_a_directory_is_one_studys(tmp_path: Path) -> None:
    images = {"images": "names", "contents": "bytes"}
    claim(tmp_path / "out", {"scale": "tiny"}, {"images": "names"}, print)  # by an earlier version
    claim(tmp_path / "out", {"scale": "tiny"}, images, print)
    claim(tmp_path / "out", {"scale": "tiny"}, images, print)
    with pytest.raises(UserError, match="another study"):
        claim(tmp_path / "out", {"scale": "small"}, images, print)
    with pytest.raises(UserError, match="files came or went"):
        claim(tmp_path / "out", {"scale": "tiny"}, images | {"images": "one more"}, print)
    with pytest.raises(UserError, match="changed under the same names"):
        claim(tmp_path / "out", {"scale": "tiny"}, images | {"contents": "others"}, print)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [SETTINGS]
    with waited_for(tmp_path / "out", print):
        pass
