"""One process writes to a directory at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from layergraft.errors import UserError
from layergraft.runs import lock
from layergraft.runs.lock import LOCK, locked

SILENT: list[str] = []


def test_the_second_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with locked(out, SILENT.append):
        before = (out / LOCK).read_bytes()
        with pytest.raises(UserError) as refused, locked(out, SILENT.append):
            pass
        assert f"process {os.getpid()} on " in refused.value.problem
        assert json.loads(before)["since"] in refused.value.problem
        assert (out / LOCK).read_bytes() == before
        (out / "file").touch()
    assert [path.name for path in out.iterdir()] == ["file"]
    with locked(out, SILENT.append):
        pass


def test_a_lock_that_could_not_be_written_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk while the lock is made: the same process, a notebook say, may try again."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full_disk)
        with pytest.raises(UserError, match="No space left"), locked(tmp_path / "run", SILENT.append):
            pass
    with monkeypatch.context() as patch:
        patch.setattr(lock, "remove_leftovers", full_disk)
        with pytest.raises(UserError, match="No space left"), locked(tmp_path / "run", SILENT.append, clear=True):
            pass
    with locked(tmp_path / "run", SILENT.append):
        pass


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A link to nothing, and a place where nothing can be made: trying for ever is no answer."""
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for place in (tmp_path / "link", tmp_path / "link" / "run", Path("/proc/layergraft/run")):
        with pytest.raises(UserError, match="Cannot write"), locked(place, SILENT.append):
            pass


def test_an_empty_directory_goes_with_the_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b", SILENT.append):
        pass
    assert not (tmp_path / "a" / "b").exists()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    program = "import os, sys, pathlib, layergraft.runs.lock as k\n"
    program += "with k.locked(pathlib.Path(sys.argv[1]), print): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert (tmp_path / LOCK).is_file()
    with locked(tmp_path, SILENT.append):
        pass


def test_only_names_of_unfinished_files_are_cleared(tmp_path: Path) -> None:
    left = [tmp_path / "encoder" / ".12-140093.tmp", tmp_path / "index" / f"ab12.{'0' * 32}.part"]
    left.append(tmp_path / f"index.{'0' * 32}.part")  # of a pack
    kept = [tmp_path / "notes.tmp", tmp_path / ".mine.tmp", tmp_path / "film.part"]
    for path in (*left, *kept):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with locked(tmp_path, SILENT.append):
        assert all(path.exists() for path in left)
    with locked(tmp_path, SILENT.append, clear=True):
        assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_a_directory_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write to"), locked(tmp_path / "file" / "run", SILENT.append):
        pass


def test_a_network_file_system_locks_files_that_are_open_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS answers EBADF to an exclusive lock of a file that is open for reading."""
    flock, said = fcntl.flock, SILENT.copy()

    def strict(descriptor: int, operation: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", strict)
    with (
        locked(tmp_path, said.append),
        pytest.raises(UserError, match=f"process {os.getpid()} on "),
        locked(tmp_path, said.append),
    ):
        pass
    assert said == []
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "run", said.append):
        (tmp_path / "run" / "file").touch()
    assert len(said) == 1
    assert "knows no locks" in said[0]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]
