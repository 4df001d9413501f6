"""`train --data FOLDER` and `plan --data FOLDER`, without a recipe."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layergraft.commands.cli import main
from layergraft.config.loading import load_recipe, read_run_recipe
from layergraft.encoders.checkpoint import load_encoder

TINY = [
    *("--encoder.embed_dim", "32", "--encoder.depth", "2", "--encoder.num_heads", "2", "--minutes", "0.3"),
    *("--stages.mae.steps", "2", "--stages.graft.steps", "2", "--analyze", "neighbours", "--evaluate.splits", "2"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty colour images of 32 by 40 pixels, of two classes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(40):
        name = folder / ("red" if index % 2 else "blue") / f"{index}.png"
        name.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 120, (32, 40, 3))
        pixels[:, :, 0 if index % 2 else 2] += 130
        Image.fromarray(pixels.astype(np.uint8)).save(name)
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own") / "run"
    assert main(["train", "--data", str(photos), "--out", str(out), *TINY]) == 0
    return out


def test_a_recipe_is_written_with_reasons(run: Path, photos: Path) -> None:
    text = (run / "recipe.yaml").read_text()
    recipe = read_run_recipe(run)
    assert recipe.data.source == str(photos)
    assert (recipe.encoder.in_chans, recipe.encoder.img_size, recipe.encoder.embed_dim) == (3, 32, 32)
    assert list(recipe.stages) == ["mae", "graft"]
    assert recipe.stages["graft"].steps == 2
    lines = text.splitlines()
    for key in ("  img_size:", "  in_chans:", "  patch_size:", "  holdout:", "    batch_size:"):
        above = next(lines[number - 1] for number, line in enumerate(lines) if line.startswith(key))
        assert above.lstrip().startswith("# ")


def test_the_whole_time_is_told_and_taken(run: Path) -> None:
    time = json.loads((run / "run.json").read_text())["time"]
    for part in (time["told"], time["taken"]):
        assert set(part) == {"stages", "evaluation", "analyses"}
        assert set(part["stages"]) == {"mae", "graft"}
        assert all(seconds > 0 for seconds in part["stages"].values())


def test_the_same_command_finds_it_finished_and_keeps_the_reasons(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "recipe.yaml").read_bytes()
    assert main(["train", "--data", str(photos), "--out", str(run), *TINY]) == 0
    assert "nothing to do" in capsys.readouterr().err
    (run / "report.html").unlink()
    assert main(["train", "--data", str(photos), "--out", str(run), *TINY]) == 0
    assert (run / "recipe.yaml").read_bytes() == before


def test_weights_at_hand_are_grafted_onto(run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "grafted"
    short = ["--stages.heads.steps", "1", "--stages.upper.steps", "1", "--stages.graft.steps", "3"]
    short += ["--stages.graft.guard", "null", "--analyze", "[]", "--evaluate", "null"]
    words = ["--data", str(photos), "--start", str(run), "--out", str(out), "--minutes", "0.3", *short]
    assert main(["train", *words]) == 0
    recipe = read_run_recipe(out)
    assert list(recipe.stages) == ["heads", "upper", "graft"]
    assert list(json.loads((out / "run.json").read_text())["guards"]) == ["upper"]
    assert (recipe.encoder.embed_dim, recipe.encoder.depth) == (32, 2)
    encoders = [load_encoder(path) for path in (run, out / "stages" / "0-heads", out)]
    lower, upper = (
        [encoder.vit.blocks[block].mlp.fc1.weight.detach().numpy() for encoder in encoders] for block in (0, 1)
    )
    assert np.array_equal(lower[0], lower[2])  # the lower half is frozen
    assert np.array_equal(upper[0], upper[1])  # heads first
    assert not np.array_equal(upper[1], upper[2])


def test_other_images_are_another_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    assert main(["train", "--data", str(tmp_path), "--out", str(run)]) == 2
    assert "data.source" in capsys.readouterr().err


def test_plan_shows_the_recipe_and_writes_it(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.yaml"
    assert main(["plan", "--data", str(photos), *TINY, "--out", str(file), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in printed["stages"]] == ["mae", "graft"]
    assert printed["time"]["stages"]["mae"] > 0
    assert load_recipe(file).encoder.in_chans == 3
    assert file.read_text().startswith("# Chosen")
    assert main(["plan", "--data", str(photos), *TINY, "--out", str(file)]) == 2  # nothing is overwritten
    assert "is there" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    assert main(["plan", "--data", str(photos), *TINY]) == 2
    assert "--recipe my.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "run"], "Give --data FOLDER"),
        (["--out", "run", "--data", "photos", "--minutes", "1", "--hours", "1"], "say the same"),
        (["--out", "run", "--recipe", "fashion_paper", "--minutes", "1"], "Leave --recipe out"),
        (["--out", "run", "--data", "nowhere"], "There is no folder"),
        (["--out", "run", "--data", "photos", "--minutes", "0"], "--minutes 30"),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    words: list[str], said: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"photos": str(photos), "run": str(tmp_path / "run")}
    assert main(["train", *(known.get(word, word) for word in words)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.soak
def test_a_plan_of_50_000_jpegs_takes_under_10_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(50_000):
        folder = tmp_path / "images" / f"class{index % 50}"
        folder.mkdir(parents=True, exist_ok=True)
        if index < 50:
            pixels = rng.integers(0, 255, (375, 500, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.jpg")
        else:
            os.link(tmp_path / "images" / f"class{index % 50}" / f"{index % 50}.jpg", folder / f"{index}.jpg")
    plan = [sys.executable, "-m", "layergraft", "plan", "--data", str(tmp_path / "images")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = subprocess.run(plan, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(said.stderr, said.stdout[-600:], f"{seconds:.1f} s of CPU")
    assert "50,000 images" in said.stdout
    assert seconds < 10
