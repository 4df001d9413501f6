"""Killed right before or after any file of a run gets its name: the next start ends with the same bits, and tidily."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import two_classes
from processes import bits, finish, rows, running, start, write_recipe

SETTINGS = {
    "data.holdout": 18,
    "data.workers": 0,
    "encoder.img_size": 16,
    "encoder.patch_size": 8,
    "encoder.in_chans": 3,
    "encoder.embed_dim": 16,
    "encoder.depth": 2,
    "stages.mae.epochs": 1,
    "stages.graft.epochs": 1,
    "stages.graft.plan.lr_scale": [0.5, 1],
    "evaluate": {"shots": [1], "splits": 1},
    "analyze": ["rank"],
}


def kill_at(number: int, after: bool) -> None:
    """SIGKILL this process at the n-th `os.replace`, from 0, before or after it is made."""
    plain, calls, lock = os.replace, itertools.count(), threading.Lock()

    def replace(source: Any, target: Any) -> None:
        with lock:
            turn = next(calls) == number
            if turn and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            plain(source, target)
            if turn:
                os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace  # type: ignore[assignment]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("words")
    images = two_classes(folder / "images", 90)
    return [*write_recipe(folder / "recipe.yaml", SETTINGS), "--data", str(images)]


def train(words: list[str], out: Path, number: int | None = None, after: bool = False) -> int | None:
    prepare = None if number is None else partial(kill_at, number, after)
    environment = {"LAYERGRAFT_CACHE": str(out.with_suffix(".features"))}
    process = start([*words, "--out", str(out)], out.with_suffix(".err"), environment, prepare)
    with running(process):
        return finish(process)[0]


@pytest.fixture(scope="module")
def undisturbed(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(words, out) == 0
    return out


def outcome(run: Path) -> dict[str, Any]:
    """Everything that a run leaves, but for times."""
    results = [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in json.loads((run / "results.json").read_text())
    ]
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if "checkpoints" not in path.parts)
    return {"bits": bits(run), "rows": rows(run), "results": results, "files": names}


def killed_and_gone_on(words: list[str], undisturbed: Path, out: Path, number: int, after: bool) -> bool:
    """Whether there was such a call."""
    code = train(words, out, number, after)
    assert code in (0, -signal.SIGKILL)
    if code:
        assert train(words, out) == 0
    left = [path for pattern in (".*.tmp", "*.part", "lock") for path in out.rglob(pattern)]
    assert left == []
    assert outcome(out) == outcome(undisturbed), (number, after)
    return code != 0


@pytest.mark.parametrize(
    ("number", "after"),
    [(9, False), *(pytest.param(n, n % 2 == 0, marks=pytest.mark.slow) for n in (0, 5, 16, 21))],
)
def test_killed_at_some_renames(words: list[str], undisturbed: Path, tmp_path: Path, number: int, after: bool) -> None:
    assert killed_and_gone_on(words, undisturbed, tmp_path / "run", number, after)


@pytest.mark.soak
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_rename(words: list[str], undisturbed: Path, tmp_path: Path, after: bool) -> None:
    for number in itertools.count():
        if not killed_and_gone_on(words, undisturbed, tmp_path / f"run-{number}", number, after):
            break
    print(f"{number} renames")
    assert number > 20
