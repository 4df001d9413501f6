"""Whole runs: the same bits with any number of workers and after a kill, files, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
import yaml
from conftest import TINY

import layergraft
from layergraft.commands.cli import main
from layergraft.commands.train import train_run
from layergraft.config import Recipe, dump_recipe
from layergraft.config.loading import load_recipe

VARYING = {"images_per_second", "data_wait", "time"}


def bits(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*.safetensors"))}


def metrics(run: Path) -> list[dict[str, object]]:
    lines = [line for path in sorted(run.glob("stages/*/metrics.jsonl")) for line in path.read_text().splitlines()]
    return [{key: value for key, value in json.loads(line).items() if key not in VARYING} for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    layergraft.train(recipe="fashion_paper", out=out, overrides=TINY | {"data.workers": 0})
    return out


def test_another_number_of_threads_after_a_finished_stage_is_said(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    (out / "run.json").unlink()
    shutil.rmtree(out / "stages" / "1-graft")
    file, now = out / "stages" / "0-mae" / "plan.json", torch.get_num_threads()
    costs = json.loads(file.read_text())
    assert costs["threads"] == now
    file.write_text(json.dumps(costs | {"threads": now + 1}))
    layergraft.train(recipe="fashion_paper", out=out, overrides=TINY | {"data.workers": 0})
    said = " ".join(capsys.readouterr().err.split())
    assert said.count(f"Stage mae was computed with {now + 1} threads of torch so far, and the run goes on") == 1


def test_files_of_a_run(finished: Path) -> None:
    for stage, names in {
        "0-mae": ["encoder/model.safetensors", "heads.safetensors", "heads.json", "plan.json", "metrics.jsonl"],
        "1-graft": ["encoder/config.json", "encoder_momentum/model.safetensors", "plan.json"],
    }.items():
        for name in names:
            assert (finished / "stages" / stage / name).is_file(), name
        costs = json.loads((finished / "stages" / stage / "plan.json").read_text())
        assert min(costs["flops"], costs["seconds"]) > 0
    rows = json.loads((finished / "results.json").read_text())
    assert {row["encoder"] for row in rows} == {"pixels", "random", "mae", "graft", "graft/momentum"}
    assert {row["split"] for row in rows if row["protocol"] == "logistic"} == {"0", "1", "mean", "std"}
    page = (finished / "report.html").read_text()
    assert {entry["analysis"] for entry in json.loads((finished / "analysis.json").read_text())} == {
        "reconstruct",
        "neighbours",
    }
    assert "Reconstructions" in page
    assert len(page) < 5_000_000
    steps = [row["step"] for row in metrics(finished) if row["stage"] == "mae"]
    assert steps == list(range(1, len(steps) + 1))


def test_timm_loads_the_encoder(finished: Path) -> None:
    x = torch.randn(4, 1, 36, 36, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = timm.create_model(f"local-dir:{finished / 'encoder'}", pretrained=True).eval()(x)
        ours = layergraft.load_encoder(finished / "encoder")(x)
    assert float((theirs - ours).abs().max()) <= 1e-6


@pytest.mark.parametrize("workers", [1, 2])
def test_same_bits_with_any_number_of_workers(finished: Path, tmp_path: Path, workers: int) -> None:
    layergraft.train(recipe="fashion_paper", out=tmp_path / "run", overrides=TINY | {"data.workers": workers})
    assert bits(tmp_path / "run") == bits(finished)
    assert metrics(tmp_path / "run") == metrics(finished)


@pytest.mark.parametrize("stage", ["0-mae", "1-graft"])
def test_killed_run_ends_with_the_same_bits(finished: Path, tmp_path: Path, stage: str) -> None:
    recipe = dump_recipe(load_recipe("fashion_paper", TINY | {"engine.checkpoint_steps": 3}))
    (tmp_path / "recipe.yaml").write_text(recipe)
    out = tmp_path / "run"
    words = [sys.executable, "-m", "layergraft", "train", "--recipe", str(tmp_path / "recipe.yaml"), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    file = out / "stages" / stage / "metrics.jsonl"
    while process.poll() is None and not (file.is_file() and file.read_text().count("\n") >= 5):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "run.json").exists(), "the run ended before it was killed"
    again = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert bits(out) == bits(finished)
    assert metrics(out) == metrics(finished)


def test_stopped_run_exits_with_75_and_goes_on(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(load_recipe("fashion_paper", TINY)))
    out = tmp_path / "run"
    words = [sys.executable, "-m", "layergraft", "train", "--recipe", str(tmp_path / "recipe.yaml"), "--out", str(out)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    file = out / "stages" / "1-graft" / "metrics.jsonl"
    while process.poll() is None and not (file.is_file() and file.read_text().count("\n") >= 2):
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert main(words[3:]) == 0
    assert bits(out) == bits(finished)


def test_finished_run_changes_nothing(finished: Path, tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    layergraft.train(recipe=recipe, out=finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    assert "finished" in capsys.readouterr().err


def test_another_run_is_not_overwritten(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = bits(finished)
    assert main(["train", "--recipe", "fashion_paper", "--seed", "7", "--out", str(finished)]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert bits(finished) == before


def test_another_versions_recipe_is_named(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text((finished / "recipe.yaml").read_text().replace("log_every:", "log_evry:"))
    for words in (["report", str(run)], ["train", "--recipe", "fashion_paper", "--out", str(run)]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "another version" in error
        assert "engine.log_evry" in error


def test_flat_colour_folder(colour_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"encoder.img_size": 32, "encoder.patch_size": 8, "encoder.in_chans": 3, "data.holdout": 8}
    words = ["train", "--recipe", "fashion_paper", "--data", str(colour_folder), "--out", str(tmp_path / "run")]
    tiny = {key: value for key, value in TINY.items() if not key.startswith("data.")} | options
    for key, value in tiny.items():
        words += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    assert main(words) == 0
    assert "no labels" in capsys.readouterr().err
    assert (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "fashion_papr"], "'fashion_paper'"),
        (["--recipe", "fashion_paper", "--data", "/nowhere"], "no folder or file '/nowhere'"),
        (["--recipe", "fashion_paper", "--data", "EMPTY"], "no image"),
        (["--recipe", "fashion_paper", "--stages.mea.epochs", "3"], "'mae'"),
        (["--recipe", "fashion_paper", "--encoder.img-siz", "3"], "'img_size'"),
        (["--recipe", "fashion_paper", "--stages.mae.epochs", "many"], "epochs"),
        (["--recipe", "fashion_paper", "--encoder.img_size", "40"], "not a multiple of"),
        (["--recipe", "fashion_paper", "--stages.graft.plan.lr_scale", "1", "1", "1", "1"], "do not divide"),
        (["--recipe", "fashion_paper", "--evaluate.shots", "5000"], "5000 shots"),
    ],
)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    words = [str(tmp_path / "empty") if word == "EMPTY" else word for word in words]
    assert main(["train", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_direct_call_equals_command(tiny_recipe: Recipe, finished: Path, tmp_path: Path) -> None:
    run = train_run(tiny_recipe, tmp_path / "run", "auto")
    assert bits(run.out) == bits(finished)
