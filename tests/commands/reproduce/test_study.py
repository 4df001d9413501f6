"""A study at the smallest scale: killed, stopped and started again, it ends with the numbers of one left alone."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import layergraft
from layergraft.commands.cli import main
from layergraft.commands.reproduce import study
from layergraft.commands.reproduce.arms import ARMS
from layergraft.commands.reproduce.recipes import arm_recipe
from layergraft.commands.reproduce.scales import SCALES
from layergraft.commands.reproduce.study import scale_for
from layergraft.commands.study.directory import claim
from layergraft.commands.study.jobs import Job
from layergraft.commands.study.run_job import run_job
from layergraft.errors import UserError

WORDS = ["reproduce", "--scale", "smoke", "--seeds", "1"]


def start(out: Path, errors: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "layergraft", *WORDS, "--out", str(out), "--jobs", "2"]
    return subprocess.Popen(words, stderr=errors.open("ab"), start_new_session=True)


def finished(out: Path) -> int:
    return len(list(out.glob("outcomes/*/*.json")))


def wait_until(process: subprocess.Popen[bytes], out: Path, jobs: int, seconds: float = 1200) -> bool:
    """Until so many jobs are done; False where the study ended first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if finished(out) >= jobs:
            return True
        time.sleep(0.01)
    return False


def group_is_gone(group: int, seconds: float = 300) -> bool:
    """Whether no process of a group is left."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def numbers(out: Path) -> Any:
    """study.json without what depends on time and place."""
    study = json.loads((out / "study.json").read_text())
    for key in ("seconds", "command", "commit"):
        del study[key]
    for arm in study["arms"]:
        for seed in arm["seeds"]:
            del seed["seconds"]
    return study


@pytest.mark.slow
def test_killed_and_stopped_studies_end_with_the_same_numbers(tmp_path: Path) -> None:
    whole, out, errors = tmp_path / "whole", tmp_path / "out", tmp_path / "errors"
    undisturbed = start(whole, errors)
    assert undisturbed.wait(1800) == 0, errors.read_text()

    process = start(out, errors)
    try:
        assert wait_until(process, out, 3), errors.read_text()
        process.kill()
        process.wait()
        assert group_is_gone(process.pid), "its processes would write where the next ones do"
        known = finished(out)
        process = start(out, errors)
        assert wait_until(process, out, known + 8), errors.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(1200) == 75, errors.read_text()
        assert group_is_gone(process.pid)
        assert not (out / "study.json").exists()
        process = start(out, errors)
        assert process.wait(1800) == 0, errors.read_text()
    finally:
        if process.poll() is None:
            process.kill()
    assert numbers(out) == numbers(whole)
    claims = [json.loads((place / "claims.json").read_text())["claims"] for place in (out, whole)]
    assert claims[0] == claims[1]
    lines = errors.read_text()
    assert " left\n" in lines
    assert "Stopped by SIGTERM" in lines
    names = {arm["name"].removesuffix("_compute") for arm in numbers(out)["arms"]}
    assert names == set(ARMS)
    before = {path: path.read_bytes() for path in out.glob("*.*")}
    layergraft.reproduce(scale="smoke", seeds=1, out=out, jobs=2)  # finished: it changes nothing
    assert {path: path.read_bytes() for path in out.glob("*.*")} == before


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], colour_folder: Path) -> None:
    """Exit code 2, one message, nothing changed."""
    busy = tmp_path / "busy"
    busy.mkdir()
    (busy / "file").write_text("mine")
    other = tmp_path / "other"
    other.mkdir()
    (other / "settings.json").write_text(json.dumps({"scale": "tiny", "source": "builtin:fashion-canvas"}))
    for words, message in (
        ([*WORDS[:-1], "0", "--out", str(tmp_path / "new")], "at least one seed"),
        ([*WORDS, "--jobs", "0", "--out", str(tmp_path / "new")], "at least one job"),
        (["reproduce", "--scale", "small", "--out", str(tmp_path / "new")], "no images of its own"),
        ([*WORDS, "--data", str(colour_folder), "--out", str(tmp_path / "new")], "no test images"),
        ([*WORDS, "--out", str(busy)], "is no study"),
        ([*WORDS, "--out", str(other)], "holds another study"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert [path.name for path in busy.iterdir()] == ["file"]


@pytest.mark.slow
def test_images_of_ones_own(tmp_path: Path) -> None:
    """Scale `small` with a small encoder and few epochs: colour folders, linear and fine-tuned accuracy, few shots."""
    chance = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 6)):
        for label, colour in (("dark", 60), ("light", 190)):
            folder = tmp_path / "images" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(chance.normal(colour, 30, (40, 50, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(folder / f"{number}.png"), pixels)
    source = str(tmp_path / "images" / "train")
    narrow = {"encoder.img_size": 32, "encoder.embed_dim": 32, "encoder.depth": 3, "encoder.num_heads": 2}
    scale = replace(
        SCALES["small"],
        mae_epochs=2,
        recipe=dict(SCALES["small"].recipe) | narrow,
    )
    lines: list[str] = []
    scale, images = scale_for(scale, source, lines.append)
    assert images == 48 - 5  # a tenth is held out
    assert scale.evaluate.shots == (1, 5, 10, "1%", "10%")
    assert "21 training images" in lines[0]
    recipe = arm_recipe(ARMS["mae"], scale, source, 0)
    job = Job(name="mae/seed-0", kind="seed", arm=ARMS["mae"], recipe=recipe, start=None, flops=1.0)
    found = run_job(job, scale, tmp_path / "out")
    assert set(found["test"]) == {"1", "5", "10", "1%", "10%", "knn", "linear", "finetune"}
    assert set(found["holdout"]) == {"1", "5", "10", "1%", "10%", "knn"}
    assert found["test"]["10"] > 80  # dark and light are easy to tell apart
    assert not list((tmp_path / "out").rglob("checkpoints"))


def test_keys_that_are_not_of_all_arms_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key, value in (("stages.mae.epochs", "3"), ("encoder.depth", "4"), ("engine.keep", "2"), ("seed", "1")):
        assert main([*WORDS, f"--{key}", value, "--out", str(tmp_path / "out")]) == 2
        assert key in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_study_is_the_same_however_its_keys_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By Python, by the command line, and by the command that `study.json` gives."""
    commands: list[str] = []

    def begin(out: Path, settings: dict[str, Any]) -> None:
        claim(out, settings, {}, print)
        raise UserError("It may begin.")

    def make(*words: Any) -> str:
        commands.append(command(*words))
        return commands[-1]

    command = study._command
    monkeypatch.setattr(study, "refuse_another", begin)
    monkeypatch.setattr(study, "_command", make)
    keys = {"engine.tracking": ("tensorboard", "mlflow"), "encoder.in-chans": 3, "engine.compile": True}
    for _ in range(2):
        with pytest.raises(UserError, match="It may begin"):
            layergraft.reproduce(scale="smoke", seeds=1, out=tmp_path, costs=True, overrides=keys)
        words = [*shlex.split(commands[-1])[1:], "--costs"]
        assert main(words) == 2
        assert "It may begin" in capsys.readouterr().err
    assert len(set(commands)) == 1


def test_costs_and_a_precision_for_the_whole_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("layergraft.commands.study.cost.step_flops", lambda *parts: 10**6 * parts[-1].batch_size)
    words = [*WORDS, "--costs", "--engine.precision", "bf16-mixed", "--encoder.in_chans", "3"]
    words += ["--data", "builtin:fashion-colour?fraction=0.05", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    told = capsys.readouterr().err
    assert "arm graft with VICReg: " in told
    assert "jobs left" in told
    assert not (tmp_path / "out").exists()
    scale = replace(SCALES["smoke"], changes={"engine.precision": "bf16-mixed", "encoder.in_chans": 3})
    for name in ("mae", "joint", "vicreg_narrow"):
        recipe = arm_recipe(ARMS[name], scale, "images", 0)
        assert (recipe.engine.precision, recipe.encoder.in_chans) == ("bf16-mixed", 3)
