"""`layergraft.runs.report`, `bench` and `reproduce` are packages, and commands of the same name.

Importing a package puts it where `layergraft.__getattr__` would give the command; so the package itself can be called.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Command(types.ModuleType):
    def __call__(self, **arguments: Any) -> Any:
        import layergraft.commands

        return getattr(layergraft.commands, self.__name__.rpartition(".")[2])(**arguments)


def make_callable(package: str) -> None:
    """Let a package be called as the command of its name.

    Args:
        package: its `__name__`.
    """
    sys.modules[package].__class__ = _Command
