"""Whatever one process of a group ends with, at whatever moment: no other one waits for it, none takes it for a bug."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import two_classes
from processes import finish, free_port, running, start, start_group, wait_for, write_recipe

from layergraft.config import EncoderConfig
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError

SMALL_IMAGES = {"encoder.img_size": 16, "encoder.patch_size": 8, "encoder.in_chans": 3, "data.holdout": 10}


def words_of(folder: Path) -> list[str]:
    images = two_classes(folder / "images", 80)
    return [*write_recipe(folder / "recipe.yaml", SMALL_IMAGES), "--data", str(images), "--out", str(folder / "run")]


def _fail(how: str) -> None:
    if how == "user":
        raise UserError("The images of this process cannot be read.", "Mend them.")
    if how == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if how == "signal":
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "bug":
        raise RuntimeError("a bug")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


def fail_in(where: str, rank: int, how: str, command: str = "train") -> None:
    """Let a function that `training.run` or the command's module calls fail in one process."""
    from layergraft.commands import evaluate, train
    from layergraft.training import run

    if int(os.environ["RANK"]) != rank:
        return
    module = evaluate if command == "evaluate" else run if hasattr(run, where) else train
    plain = getattr(module, where)

    def failing(*words: object, **more: object) -> object:
        _fail(how)
        return plain(*words, **more)

    setattr(module, where, failing)


@pytest.mark.parametrize(
    ("where", "rank", "how", "codes"),
    [
        ("load_data", 1, "user", [2, 2]),
        ("as_begun", 1, "bug", [75, 1]),
        ("claim", 0, "disk", [2, 75]),
        ("check_recipe", 1, "signal", [75, 75]),
        pytest.param("open_run", 0, "user", [2, 2], marks=pytest.mark.slow),
        pytest.param("load_data", 0, "signal", [75, 75], marks=pytest.mark.slow),
        pytest.param("prepare_stage", 1, "disk", [75, 2], marks=pytest.mark.slow),
        pytest.param("save_stage", 0, "user", [2, 2], marks=pytest.mark.slow),
        pytest.param("save_stage", 0, "killed", [75, -9], marks=pytest.mark.slow),
        pytest.param("check_contents", 1, "killed", [75, -9], marks=pytest.mark.slow),
    ],
)
def test_one_fails(tmp_path: Path, where: str, rank: int, how: str, codes: list[int]) -> None:
    errors = tmp_path / "errors"
    group = start_group(words_of(tmp_path), errors, 2, partial(fail_in, where, rank, how))
    expected = codes if how != "killed" or rank == 1 else codes[::-1]
    with running(*group):
        assert finish(*group, patience=30) == expected
    said = errors.read_text()
    if how == "user":
        assert said.count("layergraft: The images of this process cannot be read.") == 1
    assert ("this is a bug" in said) == (how == "bug")


def evaluate_words(folder: Path, *protocols: str) -> list[str]:
    images, encoder = two_classes(folder / "images", 80), folder / "encoder"
    config = {"img_size": 16, "patch_size": 8, "in_chans": 3, "embed_dim": 32, "depth": 2, "num_heads": 2}
    save_encoder(create_encoder(EncoderConfig(name="vit_tiny_patch16_224", **config), 0), encoder, {})
    words = ["--encoder", str(encoder), "--data", str(images), "--test", str(images), "--out", str(folder / "out")]
    return [*words, "--protocols", *protocols]


@pytest.mark.parametrize(
    ("where", "rank", "how", "codes"),
    [
        ("load_encoder", 1, "user", [2, 2]),
        pytest.param("evaluate_encoders", 0, "user", [2, 2], marks=pytest.mark.slow),
        pytest.param("evaluate_encoders", 0, "killed", [-9, 75], marks=pytest.mark.slow),
        pytest.param("open_source", 1, "disk", [75, 2], marks=pytest.mark.slow),
        pytest.param("_write_pages", 0, "bug", [1, 75], marks=pytest.mark.slow),
    ],
)
def test_one_fails_in_evaluate(tmp_path: Path, where: str, rank: int, how: str, codes: list[int]) -> None:
    prepare = partial(fail_in, where, rank, how, "evaluate")
    group = start_group(evaluate_words(tmp_path, "knn"), tmp_path / "errors", 2, prepare, "evaluate")
    with running(*group):
        assert finish(*group, patience=30) == codes


def work_for_long() -> None:
    """The first process measures for longer than an exchange may take."""
    from layergraft.commands import evaluate
    from layergraft.training import rendezvous

    rendezvous._EXCHANGE = timedelta(seconds=2)
    plain = evaluate.evaluate_encoders

    def evaluate_encoders(*words: Any, **more: Any) -> Any:
        time.sleep(5)
        return plain(*words, **more)

    evaluate.evaluate_encoders = evaluate_encoders


@pytest.mark.slow
def test_the_others_wait_for_the_first_as_long_as_it_measures(tmp_path: Path) -> None:
    """Measuring on many images takes longer than the 30 minutes after which torch gives an exchange up."""
    words = evaluate_words(tmp_path, "knn")
    group = start_group(words, tmp_path / "errors", 2, work_for_long, "evaluate")
    with running(*group):
        assert finish(*group, patience=30) == [0, 0]


def clear_late() -> None:
    """The first process clears what a kill left when the other one is writing its index, or would be."""
    if os.environ["RANK"] == "1":
        plain = os.replace

        def replace(source: str, target: str) -> None:
            if str(source).endswith(".part"):
                time.sleep(2)
            plain(source, target)

        os.replace = replace  # type: ignore[assignment]
        return
    from layergraft.runs import lock

    clear = lock.remove_leftovers

    def cleared(directory: Path) -> None:
        end = time.monotonic() + 2
        while time.monotonic() < end and not list(directory.rglob("*.part")):
            time.sleep(0.01)
        clear(directory)

    lock.remove_leftovers = cleared


@pytest.mark.slow
def test_the_index_of_one_is_not_cleared_by_another(tmp_path: Path) -> None:
    group = start_group(words_of(tmp_path), tmp_path / "errors", 2, clear_late)
    with running(*group):
        assert finish(*group, patience=30) == [0, 0]


def say_that_it_waits() -> None:
    from layergraft.training import rendezvous

    plain = rendezvous._pause

    def pause(end: float) -> None:
        print("waits", file=sys.stderr)
        plain(end)

    rendezvous._pause = pause


def come_late() -> None:
    time.sleep(2)


@pytest.mark.parametrize(("waits", "comes"), [(1, True), pytest.param(0, False, marks=pytest.mark.slow)])
def test_a_signal_while_the_group_forms(tmp_path: Path, waits: int, comes: bool) -> None:
    """One is stopped before the other comes, which then does not wait for it; or where the other never comes."""
    environment = {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
    }

    def own(rank: int) -> dict[str, str]:
        return environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}

    words, errors = words_of(tmp_path), tmp_path / "errors"
    first = start(words, errors, own(waits), say_that_it_waits)
    with running(first):
        assert wait_for(lambda: "waits" in (errors.read_text() if errors.exists() else ""), first, seconds=60)
        os.kill(first.pid, signal.SIGTERM)
        others = [start(words, errors, own(1 - waits), come_late)] if comes else []
        with running(*others):
            assert finish(first, *others, patience=30) == [75] * (1 + comes)
