"""Checkpoints of a stage: complete, atomic, verified.

The crc32 of the content is part of the file's name, so one rename makes content and checksum valid together. The
newest file whose content matches its name is used; a damaged one is named and passed over.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from layergraft.checkpoints.atomic import write_bytes

State = dict[str, Any]


class Checkpoints:
    """Args:
    directory: `checkpoints/` of a stage.
    keep: how many are kept.
    warn: called with a sentence about a damaged one.
    """

    def __init__(self, directory: Path, keep: int, warn: Callable[[str], None]) -> None:
        self.directory, self.keep, self.warn = directory, keep, warn

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("step-*.pt"), reverse=True)

    def save(self, step: int, state: State) -> None:
        """Write the state after `step` steps, then drop the oldest beyond `keep`."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        write_bytes(self.directory / f"step-{step:09d}-{zlib.crc32(content):08x}.pt", content)
        for old in self._files()[self.keep :]:
            old.unlink(missing_ok=True)

    def newest(self) -> State | None:
        """The state of the newest valid checkpoint, or None."""
        for path in self._files():
            content = path.read_bytes()
            if f"{zlib.crc32(content):08x}" == path.stem.rsplit("-", 1)[1]:
                state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                return state
            self.warn(f"{path} is damaged and passed over.")
        return None
