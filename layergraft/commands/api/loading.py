"""Imports that cost seconds, without what makes them a quarter slower."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Around imports: the garbage collector waits.

    What an import makes stays, some 400,000 objects, and the collector would look at all of them again and again.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # All that is there counts as old, without being looked at.
        gc.freeze()
        gc.unfreeze()
        if collects:
            gc.enable()
