"""How the last start of a run ended: its exit code and why, for `layergraft status`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict

from layergraft.errors import Lost, Stopped, UserError
from layergraft.runs.atomic import write_text
from layergraft.runs.json_files import read_json_as

FILE = "ending.json"


class Ending(TypedDict):
    """What is kept: exit code, the message or "", and when, in seconds since 1970."""

    exit_code: int
    message: str
    time: float


@contextmanager
def ending_kept(run: Path | None) -> Iterator[None]:
    """Around what a run does: note how it ends. A process that is killed leaves no note.

    Args:
        run: its directory; None where another process notes it.
    """
    if run is None:
        yield
        return
    with suppress(OSError):
        (run / FILE).unlink(missing_ok=True)
    code, message = 0, ""
    try:
        yield
    except (Stopped, Lost) as error:
        code, message = 75, str(error)
        raise
    except UserError as error:
        code, message = 2, str(error)
        raise
    except KeyboardInterrupt:
        code, message = 130, "forced to end"
        raise
    except BaseException as error:
        code, message = 1, f"{type(error).__name__}: {error}"
        raise
    finally:
        _write(run, code, message)


def _write(run: Path, code: int, message: str) -> None:
    ending: Ending = {"exit_code": code, "message": message, "time": time.time()}
    with suppress(UserError):  # a full disk is why it ends: what it says itself counts
        write_text(run / FILE, json.dumps(ending) + "\n")


def note_finished(run: Path) -> None:
    """Note that a run is finished, where a kill came just before that was noted."""
    if not (run / FILE).is_file():
        _write(run, 0, "")


def read_ending(run: Path) -> Ending | None:
    """How the last start ended; None while it runs, or after a kill."""
    try:
        return read_json_as(run / FILE, Ending) if (run / FILE).is_file() else None
    except UserError:
        return None
