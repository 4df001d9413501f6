"""Run commands on mutated input in this process, and name the place of every bug (exit code 1) or hang."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import random
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from layergraft.commands.cli import main

SECONDS = 240  # a machine may be busy
WEIRD_WORDS = ["", " ", "\0", "nan", "-inf", "1e999", "-1", "0", "99999999999999999999", "null", "true", "é😀"]
WEIRD_WORDS += ["\ud800", "../..", "/", "a" * 5000, "%00", "[1, 2]", "{}", "0x10", "1_000", "½", "\u202e", "\r\n"]
WEIRD_WORDS += ["'", '"', "~", "#"]
JSON_WORDS = [b"null", b"-1", b"1e999", b"NaN", b'"x"', b"[]", b"{}", b"true", b"99999999999999999999", b"0", b'""']
JSON_WORDS += [b"0.5"]
PIECES = [b"\0", b"\xff\xfe", b"\n\n", b'"', b",", b"\r", b"\t", b"\xe9", b"\xef\xbb\xbf"]
WHOLES = [b"", b"\n", b"{}", b"[]", b"null", bytes(64), b"[" * 50_000]


@contextlib.contextmanager
def _stopped_after(seconds: int) -> Iterator[None]:
    """Let a command end in order when its time is up, with 75; one that does not is a hang, and ends the process."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # for a signal that comes when the command has just ended
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    faulthandler.dump_traceback_later(seconds + 120, exit=True, file=sys.__stderr__)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGTERM, before)


def _place(text: str) -> str:
    """The innermost line of the package and the error, of a traceback."""
    lines = re.findall(r'File ".*?(layergraft/[^"]+)", line (\d+)', text)
    error = [line for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception|Interrupt|Found)\b", line)]
    where = ":".join(lines[-1]) if lines else "?"
    return f"{where} {error[-1][:160] if error else text[-300:]}"


def bug(words: list[str], ends: bool = True) -> str:
    """Where a command ended otherwise than with 0 or 2, and the error; empty where it did not.

    Args:
        words: of the command.
        ends: whether it must end in time; else it is cut off after some seconds.
    """
    said = io.StringIO()
    try:
        timed = _stopped_after(SECONDS if ends else 10)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), timed:
            code = main(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:  # whatever gets past the last line of the command
        return f"{words[0]}: {type(error).__name__}: {error}"
    if code == 75:
        return f"{words[0]}: not done after {SECONDS} s" if ends else ""
    return "" if code in (0, 2) else f"{words[0]}: exit {code}, {_place(said.getvalue())}"


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Cut, flip, insert, double or drop bytes, or change a word or a number of the text."""
    at, kind = rng.randrange(len(content) + 1), rng.randrange(9)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + rng.randbytes(rng.randrange(1, 9)) + content[at + 1 :]
    if kind == 2:
        return content[:at] + content[max(0, at - rng.randrange(60)) :]
    if kind == 3:
        return content[:at] + content[at + rng.randrange(1, 60) :]
    if kind == 4:
        return (
            content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
            if at < len(content)
            else b""
        )
    if kind == 5:
        return content[:at] + rng.choice(PIECES) + content[at:]
    if kind == 6:
        return rng.choice(
            [b"", b"\n", b"{}", b"[]", b"null", b"\0" * 64, b"[" * 50_000, content + content, content[::-1]]
        )
    spots = list(re.finditer(rb"-?\d+(\.\d+)?|\b\w+\b" if kind == 7 else rb'"[^"]*"|\[[^\[\]]*\]|\{[^{}]*\}', content))
    if not spots:
        return content + b"\0"
    spot = rng.choice(spots)
    return content[: spot.start()] + rng.choice(JSON_WORDS) + content[spot.end() :]


def replace_file(path: Path, rng: random.Random) -> None:
    """Put something else where a file is: nothing, a folder, a link to itself, a pipe, an empty file."""
    path.unlink()
    kind = rng.randrange(7)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(path)
    elif kind == 2:
        os.mkfifo(path)
    elif kind == 3:
        path.touch()
    elif kind == 4:
        path.symlink_to("/dev/zero")
    elif kind == 5:
        path.symlink_to("/proc/self/mem")


def damage(root: Path, rng: random.Random, often: Callable[[Path], bool] = lambda _: True) -> str:
    """Mutate a file below a folder, or replace it; returns its name."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    wanted = [path for path in files if often(path)] or files
    path = rng.choice(wanted if rng.random() < 0.8 else files)
    if rng.random() < 0.15:
        replace_file(path, rng)
    else:
        path.write_bytes(mutate(path.read_bytes(), rng))
    return str(path.relative_to(root))


def fresh_copy(source: Path, target: Path) -> Path:
    """Copy a folder to where the copy before was."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return target


def distinct(bugs: Iterator[tuple[str, str]]) -> dict[str, str]:
    """Bug -> the first input that met it."""
    result: dict[str, str] = {}
    for text, example in bugs:
        if text:
            result.setdefault(text, example)
    return result
