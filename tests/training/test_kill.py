"""Processes that are killed at any moment, or told to stop, end with the bits of one that was left alone."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest
from processes import bits, finish, rows, running, start, start_group, wait_for, write_recipe

from layergraft.errors import Stopped
from layergraft.runs.interruption import SignalGuard
from layergraft.training.trainer import Outcome, Trainer


def slow_disk() -> None:
    """Every flush takes a while, so that kills fall into writes."""
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        time.sleep(0.06)
        flush(descriptor)

    os.fsync = fsync


def in_no_hurry() -> None:
    """A slow disk, and half a second for each step but the first three: whoever waits for some may come late."""
    slow_disk()
    accept, made = Trainer.accept, itertools.count()

    def accepted(trainer: Trainer, outcome: Outcome) -> None:
        accept(trainer, outcome)
        if next(made) >= 3:
            time.sleep(0.5)

    Trainer.accept = accepted  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    words = write_recipe(folder / "recipe.yaml", {"engine.checkpoint_steps": None})
    assert finish(start([*words, "--out", str(folder / "run")], folder / "errors")) == [0], (
        folder / "errors"
    ).read_text()
    return folder / "run"


@pytest.mark.parametrize(
    "kills", [3, pytest.param(10, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.soak)]
)
def test_kills_at_random_moments(undisturbed: Path, tmp_path: Path, kills: int) -> None:
    """Every third kill waits for a half-written checkpoint; the others come at a random time."""
    chance = random.Random(kills)
    out, errors = tmp_path / "run", tmp_path / "errors"
    words = [*write_recipe(tmp_path / "recipe.yaml"), "--out", str(out)]
    during_a_write = 0
    for number in range(kills):
        begun = sum(path.stat().st_size for path in out.glob("stages/*/metrics.jsonl"))
        process = start(words, errors, prepare=in_no_hurry)
        with running(process):

            def training(before: int = begun) -> bool:
                return sum(path.stat().st_size for path in out.glob("stages/*/metrics.jsonl")) != before

            def writing() -> bool:
                return any(path.stat().st_size > 0 for path in out.glob("stages/*/checkpoints/.*.tmp"))

            assert wait_for(training, process), f"ended before kill {number}: {errors.read_text()}"
            time.sleep(chance.uniform(0, 0.3 if kills < 20 else 0.1))
            if number % 3 == 0:
                during_a_write += wait_for(writing, process)
            assert process.is_alive(), f"ended before kill {number}: {errors.read_text()}"
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
    assert during_a_write
    assert not (out / "run.json").exists()
    assert finish(start(words, errors)) == [0], errors.read_text()
    assert "goes on at step" in errors.read_text()
    assert bits(out) == bits(undisturbed)
    assert rows(out) == rows(undisturbed)
    assert not [path for pattern in (".*.tmp", "*.part", "lock") for path in out.rglob(pattern)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_stop_with_75(undisturbed: Path, tmp_path: Path, number: signal.Signals) -> None:
    out, errors = tmp_path / "run", tmp_path / "errors"
    words = [*write_recipe(tmp_path / "recipe.yaml", {"engine.checkpoint_steps": None}), "--out", str(out)]
    process = start(words, errors, prepare=in_no_hurry)
    with running(process):
        assert wait_for(lambda: len(rows(out)) >= 4, process), errors.read_text()
        os.kill(process.pid, number)
        assert finish(process) == [75], errors.read_text()
    assert number.name in errors.read_text()
    assert finish(start(words, errors)) == [0], errors.read_text()
    assert bits(out) == bits(undisturbed)
    assert rows(out) == rows(undisturbed)


def test_a_second_interrupt_forces() -> None:
    before = signal.getsignal(signal.SIGINT)  # a shell's background job ignores it
    guard = SignalGuard(hold=True)
    guard.__enter__()
    os.kill(os.getpid(), signal.SIGINT)
    assert guard.received == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Stopped):  # nobody acted on it
        guard.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGINT) is before


def test_who_loses_the_others_says_what_is_saved(tmp_path: Path) -> None:
    out, errors = tmp_path / "run", tmp_path / "errors"
    group = start_group([*write_recipe(tmp_path / "recipe.yaml"), "--out", str(out)], errors, 2, prepare=in_no_hurry)
    with running(*group):
        assert wait_for(lambda: len(rows(out)) >= 4, *group), errors.read_text()
        group[1].kill()
        assert finish(*group) == [75, -signal.SIGKILL], errors.read_text()
    said = errors.read_text()
    newest = max(out.glob("stages/*/checkpoints/step-*.pt"))
    assert "Another process of this run is gone" in said
    assert f"Saved: {newest}." in said
    assert "Traceback" not in said


def test_signal_to_one_of_two_processes_stops_both(tmp_path: Path) -> None:
    out, errors = tmp_path / "run", tmp_path / "errors"
    words = write_recipe(tmp_path / "recipe.yaml")
    whole = start_group([*words, "--out", str(tmp_path / "whole")], errors, 2)
    with running(*whole):
        assert finish(*whole) == [0, 0], errors.read_text()
    group = start_group([*words, "--out", str(out)], errors, 2, prepare=in_no_hurry)
    with running(*group):
        assert wait_for(lambda: len(rows(out)) >= 4, *group), errors.read_text()
        os.kill(group[1].pid, signal.SIGUSR1)
        assert finish(*group) == [75, 75], errors.read_text()
    for kill in (True, False):  # once killed, then left alone
        group = start_group([*words, "--out", str(out)], errors, 2, prepare=in_no_hurry if kill else None)
        with running(*group):
            if kill:
                known = len(rows(out))
                assert wait_for(lambda before=known: len(rows(out)) > before, *group), errors.read_text()
                for process in group:
                    process.kill()
                finish(*group)
            else:
                assert finish(*group) == [0, 0], errors.read_text()
    assert bits(out) == bits(tmp_path / "whole")
    assert rows(out) == rows(tmp_path / "whole")
