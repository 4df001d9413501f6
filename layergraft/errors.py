"""The ways a command ends early without a bug. Everything else that is raised is a bug (exit code 1)."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """It cannot go on without you: input, disk, data or divergence (exit code 2).

    Args:
        problem: what is wrong and where, in one sentence.
        hint: what to do about it, and what is saved.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(f"{problem}\n{hint}" if hint else problem)
        self.problem = problem
        self.hint = hint


class Stopped(BaseException):
    """A signal stopped the run with everything saved; the same command goes on (exit code 75).

    Like KeyboardInterrupt no `Exception`: nothing that takes any failure for a damaged file takes it for one.

    Args:
        text: for the user.
        requeue: whether a scheduler asked for it, which should start the job again.
    """

    def __init__(self, text: str, requeue: bool = False) -> None:
        super().__init__(text)
        self.requeue = requeue


class Lost(Stopped):
    """Another process of the run is gone; what was saved is there, and the same command goes on (exit code 75)."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was asked for which there is not; of torch it is known by its words."""
    words = ("can't allocate memory", "not enough memory", "CUDA out of memory")
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(part in str(error) for part in words))
    )


def nearest(word: str, valid: Iterable[str]) -> str:
    """A hint that names the valid word nearest to a mis-spelt one, or all of them where none is near."""
    words = sorted(valid)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Valid: {', '.join(words)}."
