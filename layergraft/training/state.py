"""Checkpoints of a stage: complete, atomic, verified.

The crc32 of the content is part of the file's name, so one rename makes content and checksum valid together. The
newest file whose content matches its name is used; a damaged one is named and passed over.
"""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from layergraft.checkpoints.atomic import write_bytes
from layergraft.config.recipe import EngineConfig

State = dict[str, Any]


class Checkpoints:
    """Args:
    directory: `checkpoints/` of a stage.
    engine: how often, and how many are kept.
    warn: called with a sentence about a damaged one.
    """

    def __init__(self, directory: Path, engine: EngineConfig, warn: Callable[[str], None]) -> None:
        self.directory, self.engine, self.warn = directory, engine, warn
        self._saved = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save after `step` steps. The clock is monotonic: the time of day may jump."""
        every = self.engine.checkpoint_steps
        late = time.monotonic() - self._saved > 60 * self.engine.checkpoint_minutes
        return late or (every is not None and step % every == 0)

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("step-*.pt"), reverse=True)

    def save(self, step: int, state: State) -> None:
        """Write the state after `step` steps, then drop the oldest ones."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        write_bytes(self.directory / f"step-{step:09d}-{zlib.crc32(content):08x}.pt", content)
        for old in self._files()[self.engine.keep :]:
            old.unlink(missing_ok=True)
        self._saved = time.monotonic()

    def newest(self) -> State | None:
        """The state of the newest valid checkpoint, or None."""
        for path in self._files():
            content = path.read_bytes()
            if f"{zlib.crc32(content):08x}" == path.stem.rsplit("-", 1)[1]:
                state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                return state
            self.warn(f"{path} is damaged and passed over.")
        return None
