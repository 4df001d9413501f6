"""What a run checks before it begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TINY, two_classes

from layergraft.commands.cli import main
from layergraft.config import load_recipe
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.training.check_recipe import check_recipe
from layergraft.training.run_data import load_data


@pytest.mark.parametrize("out", ["run", "{here}/run", "../{name}/run"])
@pytest.mark.parametrize("source", ["run/stages/0-mae?encoder=online", "{here}/run/stages/0-mae", "./run/stages/0-mae"])
def test_a_source_may_be_a_stage_that_this_run_will_make(
    out: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the two paths are written."""
    monkeypatch.chdir(tmp_path)
    place, stage = (text.format(here=tmp_path, name=tmp_path.name) for text in (out, source))
    recipe = load_recipe("fashion_paper", TINY | {"stages.graft.plan.source": {"blocks.0": stage}})
    data, encoder = load_data(recipe), create_encoder(recipe.encoder, 0)
    check_recipe(recipe, encoder, data, Path(place))
    with pytest.raises(UserError, match="There is no encoder"):
        check_recipe(recipe, encoder, data, Path("another"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of two classes, beside encoders that no small recipe can start from, and one that it can."""
    root = tmp_path_factory.mktemp("refused")
    two_classes(root / "images" / "train", 8)
    two_classes(root / "images" / "test", 4)
    for name, change in {"fits": {}, "patches": {"patch_size": 10}, "deep": {"depth": 5}, "flat": {"depth": 1}}.items():
        encoder = load_recipe(
            "fashion_paper", TINY | SMALL | {f"encoder.{key}": v for key, v in change.items()}
        ).encoder
        save_encoder(create_encoder(encoder, 0), root / name, {})
    return root


SMALL = {"encoder.img_size": 20, "encoder.patch_size": 5, "encoder.in_chans": 3, "data.holdout": 2}
REFUSED: dict[str, dict[str, object]] = {
    "a start of another patch size": {"start": "{}/patches"},
    "a start of more blocks": {"start": "{}/deep"},
    "a start of fewer blocks": {"start": "{}/flat"},
    "no such start": {"start": "{}/nowhere.pth"},
    "no such source of a row": {"stages.graft.plan.source": {"blocks.0": "{}/nowhere.pth"}},
    "a source of another patch size": {"stages.graft.plan.source": {"blocks.0": "{}/patches"}},
    "a layer that is not there": {"stages.graft.plan.freeze": ["blocks.7"]},
    "views that patches do not tile": {"stages.graft.views.first.size": 12},
    "more shots than images": {"evaluate.shots": [1, 50]},
    "more shots than images, trained": {"evaluate.protocols": ["linear"], "evaluate.shots": [50]},
    "one image to normalise over": {"stages.graft.batch_size": 1},
    "parts of a batch that is normalised": {
        **{"encoder.stem": "conv", "encoder.img_size": 32, "encoder.patch_size": 16},
        "engine.micro_batch": 2,
    },
    "heads to choose from without held-out images": {
        "data.holdout": 0,
        "stages.graft": {
            "objective": {"name": "classify", "grid": {"lr_scale": [1.0, 2.0], "weight_decay": [0.0]}},
            "optimizer": {"name": "sgd", "base_lr": 0.1},
            "epochs": 1,
            "batch_size": 4,
        },
    },
    "a penalty to choose on one image a class": {"evaluate.protocols": ["logistic"], "evaluate.variant": ["holdout"]},
    "statistics of another number of channels": {"data.source": "{}/images/train?mean=0.5"},
}


@pytest.mark.parametrize("case", REFUSED)
def test_plan_refuses_what_train_refuses(
    case: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit code 2 and the same words, before a run begins."""
    refused = REFUSED[case]
    settings = TINY | SMALL | {"data.source": "{}/images/train"} | refused
    arguments = []
    for key, value in settings.items():
        if not ("stages.graft" in refused and key.startswith("stages.graft.")):
            text = value if isinstance(value, str) else json.dumps(value)
            arguments += [f"--{key}", text.replace("{}", str(folder))]
    messages = []
    for command in (["train", "--out", str(tmp_path / "run")], ["plan"]):
        assert main([*command, "--recipe", "fashion_paper", *arguments]) == 2
        said = capsys.readouterr().err.splitlines()
        messages.append([line for line in said if not line.startswith("Training ")])  # what a run says at once
    assert messages[0] == messages[1] != []
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize("words", [["--data", "{}/images/train"], []], ids=["images", "no images"])
def test_plan_shows_what_train_takes(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A start that fits; without images, also one that is elsewhere."""
    sizes = ["--stages.graft.plan.lr_scale", "1.0", "--evaluate.shots", "1"]
    for key, value in (TINY | SMALL).items():
        if key.startswith("encoder."):
            sizes += [f"--{key}", str(value)]
    words = [word.replace("{}", str(folder)) for word in words or ["--data.source", "null"]]
    assert main(["plan", "--recipe", "fashion_paper", *sizes, *words, "--start", str(folder / "fits")]) == 0
    assert "was not checked" not in capsys.readouterr().err
    if "null" in words:
        assert main(["plan", "--recipe", "fashion_paper", *sizes, *words, "--start", "elsewhere.pth"]) == 0
        assert "'elsewhere.pth' is not here: whether it fits was not checked" in capsys.readouterr().err
        assert main(["plan", "--recipe", "fashion_paper", *sizes, *words, "--start", str(folder / "patches")]) == 2


def test_plan_takes_a_stage_that_the_run_will_make(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It does not know where the run will lie."""
    arguments = ["plan", "--recipe", "fashion_paper", "--data", "builtin:fashion-canvas?fraction=0.01"]
    arguments += ["--evaluate", "null", "--stages.graft.plan.source"]
    assert main([*arguments, json.dumps({"blocks.0": "run/stages/0-mae?encoder=online"})]) == 0
    assert main([*arguments, json.dumps({"blocks.0": "run/stages/3-mae"})]) == 2
    assert "There is no encoder 'run/stages/3-mae'" in capsys.readouterr().err
