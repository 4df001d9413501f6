"""A training step that runs over and over on the other cores, as beside the threads that make a trainer's views."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from typing import Any, Literal

from layergraft.commands.study.pool import end_with_parent
from layergraft.errors import UserError

ENCODER, IMAGES = "vit_small_patch16_224", 8
PATIENCE = 300  # seconds until the first step must be done


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _stay_on(chosen: list[int]) -> None:
    """Keep this thread on cores, where the system can be told so."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, chosen)


def _train(objective: Literal["mae", "moco"], img_size: int, chosen: list[int], ready: Event, ends: Any) -> None:
    """Steps without an end, in a process of its own: how many, and when the last one ended; `ready` after the first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; it ends when its parent does
    sys.stdout = sys.stderr
    threading.Thread(target=end_with_parent, daemon=True).start()
    _stay_on(chosen)
    import torch

    torch.set_num_threads(len(chosen))
    from layergraft.commands.bench.step import our_step, prepare
    from layergraft.config.encoder import EncoderConfig
    from layergraft.config.objectives import MaeConfig, MocoConfig

    config = MaeConfig() if objective == "mae" else MocoConfig()
    step = our_step(*prepare(config, EncoderConfig(name=ENCODER, img_size=img_size), IMAGES, 0))
    while True:
        step()
        ends[:] = [ends[0] + 1, time.monotonic()]
        ready.set()


class Training:
    """What runs beside a measurement: steps done and the time of the last one's end, which its process tells."""

    def __init__(self, ends: Any) -> None:
        self._ends, self._start = ends, ends[:]

    def images_per_second(self) -> float | None:
        """Of the steps that ended since it was ready; None where none did."""
        steps, seconds = (now - start for now, start in zip(self._ends[:], self._start, strict=True))
        return IMAGES * steps / seconds if steps else None


@contextmanager
def training_beside(objective: Literal["mae", "moco"], img_size: int) -> Iterator[Training]:
    """Steps of an objective on ViT-S/16 on all cores but one; on that one this thread stays.

    Args:
        objective: whose step.
        img_size: side of its images in pixels.

    Raises:
        UserError: there is one core alone, or the training does not start.
    """
    first, *others = cores()
    if not others:
        raise UserError("This process has one core, so nothing can run beside it.", "Leave --busy out.")
    context = get_context("spawn")
    ready, ends = context.Event(), context.Array("d", [0.0, 0.0])
    process = context.Process(target=_train, args=(objective, img_size, others, ready, ends), daemon=True)
    process.start()
    try:
        end = time.monotonic() + PATIENCE
        while not ready.wait(0.2):
            if not process.is_alive() or time.monotonic() > end:
                raise UserError(
                    "The training step beside the measurement did not start.",
                    "See the messages above; `layergraft bench step` runs it alone.",
                )
        _stay_on([first])
        yield Training(ends)
    finally:
        _stay_on([first, *others])
        process.kill()
        process.join()
