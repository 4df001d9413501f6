"""The hint where training waits for images: once a stage, above a tenth of the time, and about what helps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from layergraft.config import ViewConfig
from layergraft.config.data import Augment
from layergraft.data.cache import CachedImages, MemoryStore
from layergraft.data.loader import TrainLoader
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources.blocks import BlockImages
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.training import step_log
from layergraft.training.display import Display
from layergraft.training.step_log import Record, advice, advice_evaluating


def loader(source: Source, workers: int = 2, augment: Augment = "fast") -> TrainLoader:
    skipped = SkippedImages(0)
    random = Randomness(seed=0, scope="x")
    return TrainLoader(
        source,
        {"a": ViewConfig()},
        size=8,
        channels=1,
        batch_size=8,
        random=random,
        skipped=skipped,
        workers=workers,
        augment=augment,
    )


SOURCE = open_source("builtin:fashion?fraction=0.01")


class Far(BlockImages):
    """Images that nobody reads here."""

    def fetch(self, block: int) -> list[bytes | None]:
        raise AssertionError("read")


def hints(patch: pytest.MonkeyPatch, tmp_path: Path, wait: float, work: float, hint: Any = None) -> list[str]:
    """What is said over some steps that wait and work for so many seconds each, by a clock of the test's own."""
    now, steps = [0.0], 4
    patch.setattr(step_log, "time", SimpleNamespace(perf_counter=lambda: now[0], time=lambda: now[0]))
    stage: Any = SimpleNamespace(
        name="mae",
        directory=tmp_path,
        engine=SimpleNamespace(tracking=(), log_every=1),
        config=SimpleNamespace(batch_size=8),
        objective=SimpleNamespace(selection_metric=None),
        monitor=None,
        guard=None,
        steps=steps,
        loader=loader(SOURCE),
    )
    said: list[str] = []
    trainer: Any = SimpleNamespace(step=0, lr=0.1)
    outcome: Any = SimpleNamespace(losses={"loss": torch.tensor(1.0)}, anchor=None, gradient_norm=None)

    def batches() -> Iterator[Any]:
        while True:
            now[0] += wait
            yield None

    found = batches()
    with Record(stage, lambda row, steps: None, said.append, writes=True, hint=hint) as own:
        for step in range(1, steps + 1):
            own.next(found)
            now[0] += work
            trainer.step = step
            own.step(trainer, outcome, {})
    return said


def test_said_once_and_only_where_much_is_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = hints(monkeypatch, tmp_path, wait=0.15, work=0.85)
    assert len(said) == 1
    assert said[0].startswith("Stage mae waits for images ")
    assert advice(loader(SOURCE)) in said[0]
    assert "15%" in said[0]
    assert hints(monkeypatch, tmp_path, wait=0.09, work=0.91) == []


def test_an_evaluation_names_its_own_remedy_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds are many trainings, and `evaluate` has no option of `data`."""
    display = Display()
    for fold in range(3):
        (tmp_path / str(fold)).mkdir()
        said = hints(monkeypatch, tmp_path / str(fold), 0.5, 0.5, hint=lambda it: display.once(advice_evaluating(it)))
        assert len(said) == (fold == 0)
        assert "--data" not in "".join(said)
    assert "pack --resize" in advice_evaluating(loader(SOURCE))


def test_names_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_log, "available_cores", lambda: 4)
    assert advice(loader(SOURCE, workers=2)) == "Raise --data.workers (2 now): there are 4 cores."
    assert "--data.augment fast" in advice(loader(SOURCE, augment="exact"))
    assert "--data.cache ram" in advice(loader(SOURCE, workers=4))
    assert "layergraft pack" in advice(loader(SOURCE, workers=4))
    kept = replace(SOURCE, images=CachedImages(SOURCE.images, MemoryStore(lambda: None)))
    assert "all cores" in advice(loader(kept, workers=4))
    far = replace(SOURCE, blocks=Far(np.array([0]), len(SOURCE)))
    assert "network" in advice(loader(far, workers=4))
