"""Nothing is lost when steps go bad, files rot, disks fill up or clocks jump."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from conftest import TINY
from processes import SMALL, bits, rows

import layergraft
from layergraft.commands.cli import main
from layergraft.config import Recipe, dump_recipe, load_recipe
from layergraft.data.batch import Batch
from layergraft.errors import Stopped, UserError
from layergraft.graft.donors import first_encoder
from layergraft.runs.readable import counted
from layergraft.training.checkpoints import host_copy
from layergraft.training.launch import launch
from layergraft.training.run_data import load_data
from layergraft.training.stage import prepare_stage
from layergraft.training.trainer import Outcome, Trainer

STEPS = 16


def recipe_of(**changes: Any) -> Recipe:
    """The contrastive stage alone, 16 steps, with an anchor and a running average."""
    base = {"data.workers": 0, "engine.checkpoint_steps": 5, "stages.graft.ema": 0.9}
    anchor = {"stages.graft.plan.anchor": {"norm": "l1", "weight": 1e-3}}
    recipe = load_recipe("fashion_paper", SMALL | base | anchor | changes)
    return msgspec.structs.replace(recipe, stages={"graft": recipe.stages["graft"]})


def train(out: Path, **changes: Any) -> Path:
    layergraft.train(recipe=msgspec.to_builtins(recipe_of(**changes)), out=out)
    return out


def words_of(folder: Path, **changes: Any) -> list[str]:
    (folder / "recipe.yaml").write_text(dump_recipe(recipe_of(**changes)))
    return ["train", "--recipe", str(folder / "recipe.yaml"), "--out", str(folder / "run")]


def poison(monkeypatch: pytest.MonkeyPatch, is_bad: Callable[[int], bool]) -> list[int]:
    """Make the pixels of some batches NaN; returns a list that receives the number of each batch taken."""
    compute, seen = Trainer.compute, []

    def poisoned(trainer: Trainer, raw: Batch) -> Outcome:
        number = next(n for n in range(200) if list(trainer.stage.loader.keys(n)[1]) == list(raw.keys))
        seen.append(number)
        normalize = trainer.normalize
        if is_bad(number):
            trainer.normalize = lambda pixels: torch.full(pixels.shape, float("nan"))  # type: ignore[assignment]
        outcome = compute(trainer, raw)
        trainer.normalize = normalize
        return outcome

    monkeypatch.setattr(Trainer, "compute", poisoned)
    return seen


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    """Do something when a step has been accepted."""
    accept = Trainer.accept

    def accepted(trainer: Trainer, outcome: Outcome) -> None:
        accept(trainer, outcome)
        if trainer.step == step:
            act()

    monkeypatch.setattr(Trainer, "accept", accepted)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.mark.parametrize("objective", ["moco", "nnclr"])
def test_a_rejected_step_leaves_no_trace(objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {}
    if objective == "nnclr":
        heads = {"blocks": [2], "projector": [64, 16], "predictor": [64, 16], "queue": 64}
        changes = {"stages.graft.objective": {"name": "nnclr"} | heads, "stages.graft.views": {}}
    recipe = recipe_of(**changes)
    data = load_data(recipe)
    stage = prepare_stage(recipe, "graft", tmp_path, first_encoder(recipe, data.mean, data.std), data)
    trainer = Trainer(launch(), stage)
    poison(monkeypatch, lambda number: number == 2)
    trainer.begin()
    batches = trainer.batches()
    for _ in range(2):
        trainer.accept(trainer.compute(next(batches)))
    before = host_copy(trainer.state())
    outcome = trainer.compute(next(batches))
    assert not torch.isfinite(outcome.size)
    trainer.reject()
    after = host_copy(trainer.state())
    assert (after.pop("step"), after.pop("rejected")) == (3, 1)
    assert (before.pop("step"), before.pop("rejected")) == (2, 0)
    assert_same(before, after)
    trainer.accept(trainer.compute(next(batches)))
    assert trainer.rejected == 0


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{where}.{index}")
    else:
        assert a == b, where


def test_two_bad_steps_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = poison(monkeypatch, lambda number: number in (6, 7))
    found = rows(train(tmp_path / "run"))
    assert seen == list(range(STEPS))
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    assert [row["step"] for row in found if row["loss"] is None] == [7, 8]


def test_three_bad_steps_go_back_and_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = poison(monkeypatch, lambda number: number in (6, 7, 8))
    out = train(tmp_path / "run")
    assert seen == [*range(9), *range(9, 9 + STEPS - 5)]  # back at step 5, on with batch 9
    assert [row["step"] for row in rows(out)] == list(range(1, STEPS + 1))
    assert all(row["loss"] is not None for row in rows(out))


def test_a_run_that_was_stopped_between_bad_steps_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, lambda number: number in (6, 7, 8))
    whole = train(tmp_path / "whole")
    reject = Trainer.reject

    def rejected(trainer: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        reject(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "reject", rejected)
        for _ in range(2):  # with two steps in a row thrown away, and with three
            with pytest.raises(Stopped):
                train(tmp_path / "run")
    train(tmp_path / "run")
    assert bits(tmp_path / "run") == bits(whole)
    assert rows(tmp_path / "run") == rows(whole)


def test_a_stop_does_not_hide_that_nothing_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        at_step(patch, 7, lambda: (patch.setattr(os, "replace", fails), os.kill(os.getpid(), signal.SIGTERM)))
        assert main(words_of(tmp_path)) == 2
    assert "No space left" in capsys.readouterr().err


def test_a_run_that_was_killed_after_going_back_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, lambda number: number in (6, 7, 8))
    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        at_step(patch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM) if len(list(tmp_path.rglob("*-1-*.pt"))) else 0)
        with pytest.raises(Stopped):
            train(tmp_path / "run")
    train(tmp_path / "run")
    assert bits(tmp_path / "run") == bits(whole)
    assert rows(tmp_path / "run") == rows(whole)


def test_a_diverged_run_stops_and_can_be_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(tmp_path)
    with monkeypatch.context() as patch:
        seen = poison(patch, lambda number: number >= 6)
        assert main(words) == 2
        error = capsys.readouterr().err
        assert seen == [*range(6), 6, 7, 8, 9, 10, 11, 12, 13, 14]
        assert "diverged" in error
        assert "Traceback" not in error
        (file,) = tmp_path.glob("run/stages/*/replay-*.pt")
        assert str(file) in error
        before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        assert main([*words, "--replay", str(file)]) == 2
        shown = capsys.readouterr().err
        assert seen[-3:] == [12, 13, 14]
        assert "first bad output: encoder.vit" in shown
        assert "bad gradients: " in shown
    assert main([*words, "--replay", str(file)]) == 0  # without the fault
    assert "the steps are finite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_flipped_bytes_in_the_newest_checkpoint(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 12, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            train(tmp_path / "run")
    older, newest = sorted(tmp_path.glob("run/stages/*/checkpoints/step-*.pt"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 3] ^= 4
    newest.write_bytes(content)
    train(tmp_path / "run")
    said = capsys.readouterr().err.replace("\n", "")
    assert f"{newest} is damaged and passed over" in said
    assert f"goes on at step 10 of {STEPS}, from {older}" in said
    assert bits(tmp_path / "run") == bits(undisturbed)
    assert rows(tmp_path / "run") == rows(undisturbed)


def test_another_number_of_threads_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            train(tmp_path / "run")
    own = torch.get_num_threads()
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            train(tmp_path / "run")
    assert "of torch so far" not in capsys.readouterr().err  # the same number
    torch.set_num_threads(own + 1)
    try:
        train(tmp_path / "run")
    finally:
        torch.set_num_threads(own)
    said = " ".join(capsys.readouterr().err.split())
    before = counted(own, "thread")
    assert f"Stage graft was computed with {before} of torch so far, and the run goes on with {own + 1}" in said
    assert f"OMP_NUM_THREADS={own}" in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 32 MB, or a skip where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> None:
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_takes_no_more(
    undisturbed: Path, small_disk: Path, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(small_disk, **{"engine.log_every": 1000})
    kept: dict[Path, bytes] = {}

    def break_disk() -> None:
        kept.update({path: path.read_bytes() for path in small_disk.rglob("step-*.pt")})
        if fault == "full":
            fill(small_disk)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    with monkeypatch.context() as patch:
        at_step(patch, 7, break_disk)
        assert main(words) == 2
    error = capsys.readouterr().err
    assert ("No space left" if fault == "full" else "Read-only") in error
    assert "Traceback" not in error
    assert kept
    assert {path: path.read_bytes() for path in small_disk.rglob("step-*.pt")} == kept
    assert not list(small_disk.rglob(".*.tmp"))
    if fault == "full":
        (small_disk / "filler").unlink()
    else:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert main(words) == 0, capsys.readouterr().err
    assert bits(small_disk / "run") == bits(undisturbed)


def test_a_clock_that_jumps(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back a year, forth two: no checkpoint is missed or hurried, and no number but `time` changes."""
    real, calls, saved = time.time, [0], []
    save = layergraft.training.checkpoints.Checkpoints.save
    monkeypatch.setattr(
        layergraft.training.checkpoints.Checkpoints,
        "save",
        lambda own, state: (saved.append(state["step"]), save(own, state)),
    )

    def jumping() -> float:
        calls[0] += 1
        return real() + (-1) ** calls[0] * 365 * 86400.0

    monkeypatch.setattr(time, "time", jumping)
    train(tmp_path / "run")
    assert calls[0] > STEPS
    assert saved == [0, 5, 10, 15, STEPS]
    assert bits(tmp_path / "run") == bits(undisturbed)
    assert rows(tmp_path / "run") == rows(undisturbed)
    every = [json.loads(line) for line in next(tmp_path.glob("run/stages/*/metrics.jsonl")).read_text().splitlines()]
    assert all(row["images_per_second"] > 0 for row in every)


def test_minutes_are_measured_on_a_monotonic_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from layergraft.config import EngineConfig
    from layergraft.training.checkpoints import Checkpoints

    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Checkpoints(tmp_path, EngineConfig(checkpoint_minutes=2), lambda text: None) as checkpoints:
        now[0] += 119
        assert not checkpoints.due(1)
        now[0] += 2
        assert checkpoints.due(2)
        checkpoints.save({"step": 2, "returns": 0})
        assert not checkpoints.due(3)


def test_recipes_may_change_in_free_keys_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in the first stage: the second one's length may still change; the first one's may not."""
    base = ["train", "--recipe", "fashion_paper", "--out", str(tmp_path / "run")]
    settings = SMALL | {"engine.checkpoint_steps": "null", "evaluate": "null"}
    for key, value in settings.items():
        base += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    assert main([*base, "--resume", "must"]) == 2
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert main(base) == 75
    for extra, key in (
        (["--stages.mae.epochs", "4"], "stages.mae.epochs"),
        (["--stages.graft.optimizer.base_lr", "1"], "stages.graft.optimizer.base_lr"),
        (["--engine.precision", "bf16-mixed"], "engine.precision"),
        (["--seed", "5"], "seed"),
        (["--resume", "never"], "never"),
    ):
        capsys.readouterr()
        assert main([*base, *extra]) == 2
        assert key in capsys.readouterr().err
    changed = ["--stages.graft.epochs", "1", "--data.workers", "0", "--engine.log_every", "2", "--resume", "must"]
    assert main([*base, *changed]) == 0
    assert f"goes on at step 4 of {3 * 8}" in capsys.readouterr().err
    assert len(rows(tmp_path / "run")) == 4 + 10 + 4
    recipe = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert recipe.stages["graft"].epochs == 1
    assert TINY["stages.graft.epochs"] == 2


def test_changed_images_are_refused(colour_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"data.source": str(colour_folder), "data.holdout": 8, "encoder.in_chans": 3, "encoder.patch_size": 9}
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            train(tmp_path / "run", **own)
    next(colour_folder.iterdir()).unlink()
    with pytest.raises(UserError, match="files came or went"):
        train(tmp_path / "run", **own)
