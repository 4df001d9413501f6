"""A directory that one process writes to at a time.

The lock is the operating system's (flock), so it ends with the process that holds it, however that ends. The file says
who holds it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypedDict

from layergraft.errors import UserError
from layergraft.runs.atomic import remove_leftovers
from layergraft.runs.interruption import check
from layergraft.runs.json_files import read_json_as

LOCK = "lock"
_PAUSE = 0.2
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


class InUse(UserError):
    """Another process holds the directory."""


class _Holder(TypedDict):
    pid: int
    host: str
    since: str


def is_first_process() -> bool:
    """Whether this is the process of a run that writes; before the processes have met."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def _patience() -> float:
    """Seconds to wait for a lock: under torchrun, processes of the start before may still be about to end."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        return 120.0  # on a network file system, a lock of a lost machine lives on for some time
    return 15.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.0


def is_held(directory: Path) -> bool:
    """Whether a process holds a directory now; False where the file system knows no locks."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


@contextmanager
def locked(directory: Path, say: Callable[[str], None], *, clear: bool = False) -> Iterator[None]:
    """Hold a directory, so that no other process writes to it.

    Args:
        directory: it is made if need be, and removed at the end if it is empty then.
        say: called with a sentence where the file system knows no locks.
        clear: whether it is a run's own, with all that lies in it: what a killed process was writing there is deleted.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    file = directory / LOCK
    with _refused(directory):
        _make(directory)
        descriptor = _take(file, time.monotonic() + _patience(), say)
    try:
        if clear:
            with _refused(directory):
                remove_leftovers(directory)
        yield
    finally:
        with suppress(OSError):
            file.unlink()
        os.close(descriptor)
        with suppress(OSError):  # it holds something
            directory.rmdir()


@contextmanager
def locked_or_not(directory: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """As `locked`, of a directory that several processes want: True where it is held now, False where another has it.

    Args:
        directory: it is made if need be, and removed at the end if it is empty then.
        say: called with a sentence where the file system knows no locks.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(directory, say))
            mine = True
        except InUse:
            mine = False
        yield mine


@contextmanager
def waited_for(directory: Path, say: Callable[[str], None]) -> Iterator[None]:
    """As `locked`, waiting until it is free: of a directory that nobody holds for long."""
    while True:
        check()
        with locked_or_not(directory, say) as mine:
            if mine:
                yield
                return
        time.sleep(_PAUSE)


@contextmanager
def _refused(directory: Path) -> Iterator[None]:
    """Around what a disk or permission may refuse before anything is done."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Cannot write to {str(directory)!r}: {error.strerror}.", "Use another --out. Nothing was changed."
        ) from None


def _make(directory: Path) -> None:
    """Make a directory that others may be making, or removing, at the same time."""
    for left in reversed(range(100)):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            return
        except (FileExistsError, FileNotFoundError):
            # It was there, and is gone: its holder has removed it, or the one that it lies in, between two looks.
            blocked = any(os.path.lexists(part) and not part.is_dir() for part in (directory, *directory.parents))
            if blocked or not left:  # by a file, or a link to what is not there; or it is a place such as /proc
                raise


def _take(file: Path, end: float, say: Callable[[str], None]) -> int:
    """A descriptor that holds the lock for as long as it is open."""
    mode = os.O_RDONLY
    while True:
        check()
        # Held for reading: a file that is open for writing would keep the disk from being remounted read-only.
        try:
            descriptor = os.open(file, mode | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # its holder has just removed the directory
            _make(file.parent)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EBADF and mode == os.O_RDONLY:  # NFS locks files that are open for writing alone
                os.close(descriptor)
                mode = os.O_RDWR
                continue
            if error.errno in _NO_LOCKS:
                say(f"The file system of {file.parent} knows no locks: see to it that nothing else writes there.")
                return descriptor
            os.close(descriptor)
            if time.monotonic() >= end:
                raise InUse(
                    f"{str(file.parent)!r} is in use{_holder(file)}.",
                    "Wait until it has ended, or use another --out. Nothing was changed.",
                ) from None
            time.sleep(_PAUSE)
            continue
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == os.stat(file).st_ino:  # else its holder has just removed it
                break
        os.close(descriptor)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder: _Holder = {"pid": os.getpid(), "host": platform.node(), "since": since}
    try:
        file.write_text(json.dumps(holder) + "\n", encoding="utf-8")
    except OSError:
        os.close(descriptor)  # else this process would refuse itself the directory for as long as it lives
        raise
    return descriptor


def _holder(file: Path) -> str:
    """What the file says about who holds it."""
    try:
        holder = read_json_as(file, _Holder)
    except UserError:
        return " by another process"
    return f": process {holder['pid']} on {holder['host']} writes to it since {holder['since']}"
