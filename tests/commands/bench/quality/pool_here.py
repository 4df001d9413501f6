"""A pool that has no processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class Here:
    """Does jobs in this process, one at a time."""

    done: list[str] = []

    def __init__(self, size: int, log: Path) -> None:
        self.size = size
        self.started: dict[str, Callable[[], Any]] = {}

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None: ...

    @property
    def running(self) -> set[str]:
        return set(self.started)

    @property
    def free(self) -> int:
        return 1 - len(self.started)

    def start(self, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        self.started[name] = lambda: function(*arguments)

    def finished(self, signals: Any) -> Iterator[tuple[str, Any]]:
        for name in list(self.started):
            self.done.append(name)
            yield name, self.started.pop(name)()
