"""What was held out stays held out, wherever the images are named from and whatever becomes of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import two_classes

from layergraft.analysis.run import build_subject
from layergraft.commands.cli import main
from layergraft.commands.train import evaluate_run
from layergraft.data.batch import Batch
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.open import open_source
from layergraft.evaluation.task import Task
from layergraft.runs.report.model_card import model_card
from layergraft.runs.report.run_files import read_run
from layergraft.runs.results import ResultRow
from layergraft.training.trainer import Outcome, Trainer

SEED, HELD = 3, 10


def command(images: Path, out: Path) -> list[str]:
    settings: dict[str, Any] = {
        "seed": SEED,
        "data.holdout": HELD,
        "encoder.img_size": 16,
        "encoder.patch_size": 8,
        "encoder.in_chans": 3,
        "encoder.embed_dim": 16,
        "encoder.depth": 2,
        "encoder.num_heads": 2,
        "stages.mae.epochs": 1,
        "stages.mae.batch_size": 16,
        "stages.graft.epochs": 1,
        "stages.graft.batch_size": 16,
        "monitor.every": 0,
        "evaluate.shots": "1",
        "evaluate.splits": 1,
    }
    found = ["train", "--recipe", "fashion_paper", "--data", str(images), "--out", str(out), "--analyze", "[]"]
    return found + [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def names(source: Any) -> set[str]:
    return {source.images.name(int(key)) for key in source.keys}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return two_classes(tmp_path / "images", 60)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[set[str], set[str]]]:
    """(labelled, tested) names of each evaluation on held-out images."""
    seen: list[tuple[set[str], set[str]]] = []
    plain = Task.on_holdout

    def note(train: Any, held: Any, seed: int) -> Task:
        seen.append((names(train), names(held)))
        return plain(train, held, seed)

    monkeypatch.setattr(Task, "on_holdout", note)
    return seen


def test_a_folder_that_changes_meanwhile_is_measured_as_it_was_split(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[tuple[set[str], set[str]]]
) -> None:
    train, held = split_holdout(open_source(str(images)), HELD, SEED)
    expected = (names(train), names(held))

    def measure(*arguments: Any) -> list[ResultRow]:
        shutil.copy(images / "a" / "00.png", images / "a" / "-new.png")  # in front of all others
        return evaluate_run(*arguments)

    monkeypatch.setattr("layergraft.commands.train.evaluate_run", measure)
    assert main(command(images, tmp_path / "run")) == 0
    assert measured == [expected]


def test_a_finished_stage_is_not_built_upon_with_other_images(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(images, out)) == 0
    (out / "run.json").unlink()
    shutil.rmtree(out / "stages" / "1-graft")
    (images / "a" / "-new.png").write_bytes((images / "a" / "00.png").read_bytes())
    assert main(command(images, out)) == 2
    assert "not those that the run began with: files came or went" in capsys.readouterr().err
    (out / "images.json").unlink()  # runs of earlier versions have none
    assert main(command(images, out)) == 2
    assert "not those that stage 'mae' was trained on: files came or went" in capsys.readouterr().err
    (images / "a" / "-new.png").unlink()
    assert main(command(images, out)) == 0


def test_evaluate_finds_what_the_run_held_out(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    measured: list[tuple[set[str], set[str]]],
) -> None:
    out = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    assert main(command(Path("images"), out)) == 0
    moved = tmp_path / "moved"
    shutil.copytree(images, moved)
    evaluate = ["evaluate", "--encoder", str(out), "--test", "holdout", "--protocols", "knn"]
    card = out / "encoder" / "MODEL_CARD.md"
    card.write_text("of an earlier evaluation")
    for place in ("images", "images/", str(images), str(moved)):
        assert main([*evaluate, "--data", place]) == 0
    assert len(measured) == 5
    assert all(one == measured[0] for one in measured)
    rows = json.loads((out / "results.json").read_text())
    assert {row["n_test"] for row in rows} == {HELD}
    assert card.read_text() == model_card(read_run(out), "timm")
    before = (out / "results.json").read_bytes()
    (images / "a" / "-new.png").write_bytes((images / "a" / "00.png").read_bytes())
    assert main([*evaluate, "--data", f"{images}/"]) == 2
    assert "files came or went" in capsys.readouterr().err
    assert (out / "results.json").read_bytes() == before


def test_a_run_of_an_earlier_version_keeps_its_held_out_images(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    measured: list[tuple[set[str], set[str]]],
) -> None:
    """Versions without the key `data.holdout_by` dealt as many of each class; this one deals in proportion."""
    for file in sorted((images / "b").iterdir())[:20]:
        file.unlink()
    source = open_source(str(images))
    before, now = (split_holdout(source, HELD, SEED, by)[1] for by in ("class", "proportion"))
    assert names(before) != names(now)
    out, recipe = tmp_path / "run", tmp_path / "run" / "recipe.yaml"

    def as_before() -> None:
        text = recipe.read_text()
        assert "  holdout_by: class\n" in text
        recipe.write_text(text.replace("  holdout_by: class\n", ""))

    assert main([*command(images, out), "--data.holdout_by", "class"]) == 0
    assert "8 are held out" in (printed := capsys.readouterr().err)
    assert "of each class as many as of any other" in printed
    as_before()
    assert (
        main(["evaluate", "--encoder", str(out), "--test", "holdout", "--protocols", "knn", "--data", str(images)]) == 0
    )
    subject = build_subject(str(out), [], str(images))
    assert subject.held_out
    assert names(subject.queries) == names(before)
    (out / "run.json").unlink()
    shutil.rmtree(out / "stages" / "1-graft")
    assert main(command(images, out)) == 0  # goes on as it was begun
    assert "of each class as many as of any other" in capsys.readouterr().err
    assert main(command(images, out)) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert [held for _, held in measured] == [names(before)] * 3
    assert main(command(images, tmp_path / "new")) == 0
    assert "of each class in proportion to its size" in capsys.readouterr().err
    assert measured[-1][1] == names(now)


def test_a_run_of_an_earlier_version_is_compared_from_its_next_start_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it is stopped again before a stage has ended."""
    out, compute = tmp_path / "run", Trainer.compute

    def told(trainer: Trainer, batch: Batch) -> Outcome:
        os.kill(os.getpid(), signal.SIGTERM)
        return compute(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "compute", told)
        assert main(command(images, out)) == 75
        (out / "images.json").unlink()  # earlier versions wrote none
        assert main(command(images, out)) == 75
    assert not list(out.glob("stages/*/plan.json"))
    image = images / "a" / "00.png"
    kept = image.read_bytes()
    shutil.copy(images / "b" / "01.png", image)
    capsys.readouterr()
    assert main(command(images, out)) == 2
    assert "'a/00.png' changed under the same name" in capsys.readouterr().err
    image.write_bytes(kept)
    assert main(command(images, out)) == 0
