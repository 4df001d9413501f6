"""Checkpoints of a stage: complete, atomic, verified, written off the training thread.

What a checkpoint holds is made by `training.trainer.Trainer.state`; here are the files.

The crc32 of the content is part of the file's name, so one rename makes content and checksum valid together. The
newest file whose content matches its name is used; a damaged one is set aside as `damaged-NAME` and named. A file is
never overwritten, and older ones go only once the new one is on the disk. Only files that are known to be whole count
as kept ones.
"""

from __future__ import annotations

import io
import re
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from layergraft.config.paths import read_regular
from layergraft.config.recipe import EngineConfig
from layergraft.errors import Stopped, UserError
from layergraft.runs.atomic import remove_leftovers, write_file

State = dict[str, Any]
# Attribute of the trainer -> its key in a state. Two keys are older than the attributes' names: files of earlier
# versions have them.
COUNTERS = {"step": "step", "skipped_batches": "skipped", "rollbacks": "returns", "rejected": "rejected"}


def host_copy(value: Any) -> Any:
    """Nested dicts and lists with every tensor copied to host memory, where later steps do not change it."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: host_copy(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [host_copy(part) for part in value]
    return value


class _Checksummed:
    """Passes what torch writes on to a file, and sums it up.

    torch's writer cannot be left by an exception in the middle, so the first error is kept and raised afterwards.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.crc = file, 0
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        if self.error is None:
            self.crc = zlib.crc32(view, self.crc)
            try:
                self.file.write(view)
            except OSError as error:
                self.error = error
        return len(view)

    def flush(self) -> None:
        """torch calls it; the file is flushed once, at the end."""


def write_state(directory: Path, prefix: str, state: State) -> Path:
    """Write a state as PREFIX-CRC.pt, whole or not at all."""

    def fill(file: BinaryIO) -> str:
        stream = _Checksummed(file)
        torch.save(state, cast(Any, stream))
        if stream.error:
            raise stream.error
        return f"{prefix}-{stream.crc:08x}.pt"

    return write_file(directory, fill)


def _whole_content(path: Path) -> bytes | None:
    """The bytes of a file of `write_state`; None where they do not match its name, or it is gone."""
    try:
        content = read_regular(path)
    except FileNotFoundError:  # another process has set it aside
        return None
    except OSError as error:
        raise UserError(
            f"The checkpoint {str(path)!r} cannot be read: {error.strerror}.",
            "Mend the disk or the permissions and run the same command again; nothing was changed.",
        ) from None
    return content if f"{zlib.crc32(content):08x}" == path.stem.rsplit("-", 1)[1] else None


def read_state(path: Path) -> State | None:
    """The state in a file of `write_state`; None where its content does not match its name."""
    content = _whole_content(path)
    if content is None:
        return None
    state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if "objective" in state:  # runs that 0.1.0 began called the momentum copies `slow`
        names = state["objective"]
        state["objective"] = {re.sub(r"^slow\.", "momentum_copies.", name): value for name, value in names.items()}
    return state


class Checkpoints:
    """The checkpoints of one stage: when one is due, writing it in the background, and finding the newest.

    Args:
        directory: `checkpoints/` of a stage.
        engine: how often, and how many are kept.
        warn: called with a sentence about a damaged one.
        writes: whether this process is the one that writes.
        before: called in the writing thread before a checkpoint becomes valid: what must be on the disk with it.
    """

    def __init__(
        self,
        directory: Path,
        engine: EngineConfig,
        warn: Callable[[str], None],
        writes: bool = True,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory = directory
        self.engine = engine
        self.warn = warn
        self.writes = writes
        self.before = before
        self._saved = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="layergraft-checkpoint")
        self._writing: Future[None] | None = None
        self._whole: set[Path] = set()  # files that were read or written here, so that none is read twice
        if writes:
            remove_leftovers(directory)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the last one; its failure hides no other error, but a stop would promise that all is saved."""
        try:
            self.wait()
        except UserError:
            if error is None or isinstance(error, Stopped):
                raise
        finally:
            self._thread.shutdown()

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("step-*.pt"), reverse=True)

    def due(self, step: int) -> bool:
        """Whether to save after `step` steps. The clock is monotonic: the time of day may jump."""
        every = self.engine.checkpoint_steps
        late = time.monotonic() - self._saved > 60 * self.engine.checkpoint_minutes
        return late or (every is not None and step % every == 0)

    def save(self, state: State, trunk: bool = False) -> None:
        """Copy a state and write it in the background, then drop the oldest ones.

        Args:
            state: what is saved.
            trunk: whether it is to stay for branches; then it is no checkpoint to go on from.

        Raises:
            UserError: the one before could not be written; those that were are untouched.
        """
        self._saved = time.monotonic()
        if not self.writes:
            return
        self.wait()
        self._writing = self._thread.submit(self._write, host_copy(state), trunk)

    def _write(self, state: State, trunk: bool) -> None:
        self.before()
        # A run that went back to a step has a second file of it, which sorts after the first.
        step, rollbacks = state[COUNTERS["step"]], state[COUNTERS["rollbacks"]]
        self._whole.add(write_state(self.directory, f"{'trunk' if trunk else 'step'}-{step:09d}-{rollbacks}", state))
        kept = 0
        for path in self._files():
            if kept == max(1, self.engine.keep):
                path.unlink(missing_ok=True)
            elif path in self._whole or _whole_content(path) is not None:
                self._whole.add(path)
                kept += 1
            else:
                self._set_aside(path)

    def _set_aside(self, path: Path) -> None:
        """Rename a damaged file, so that it neither counts as a checkpoint nor is lost to who wants to look at it."""
        aside = path.with_name(f"damaged-{path.name}")
        if self.writes:
            with suppress(FileNotFoundError):
                path.replace(aside)
        self.warn(f"{path} is damaged and passed over; it is kept as {aside.name}.")

    def failed(self) -> bool:
        """Whether the last one could not be written; `wait` raises why."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def wait(self) -> None:
        """Until the last one is on the disk.

        Raises:
            UserError: it could not be written.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def newest(self, settled: bool = False) -> tuple[Path, State] | None:
        """The newest valid checkpoint, or None.

        Args:
            settled: prefer a checkpoint that was not written in the middle of a series of rejected steps.
        """
        between = None
        for path in self._files():
            state = read_state(path)
            if state is None:
                self._set_aside(path)
                continue
            self._whole.add(path)
            if settled and state[COUNTERS["rejected"]]:
                between = between or (path, state)
            else:
                return path, state
        return between

    def drop_after(self, step: int) -> None:
        """Once a state of `step` is on the disk again, those of later steps are of a past that is not to come back."""
        self.wait()
        for path in self._files() if self.writes else ():
            if int(path.stem.split("-")[1]) > step:
                path.unlink(missing_ok=True)
