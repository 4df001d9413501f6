"""Protocols that train, cross-validated over labels of some images: honest, and stopped at no cost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import layergraft
from layergraft.commands.cli import main
from layergraft.config import EncoderConfig, EngineConfig, load_recipe
from layergraft.data.decode import ReadOptions
from layergraft.data.fashion.load import CLASSES, embedded
from layergraft.data.sources import file_state
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import Stopped
from layergraft.objectives.classify import Classify
from layergraft.runs.intervals import wilson
from layergraft.training import transfer_folds
from layergraft.training.stage import StageRun
from layergraft.training.transfer import Cell, CellTraining, TrainedTask

CONFIG = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=32, depth=2, num_heads=2
)
SOURCE = "builtin:fashion-canvas:test?fraction=0.02"
SHORT = ["--linear.epochs", "2", "--finetune.epochs", "2", "--finetune.warmup-epochs", "0"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("encoder") / "encoder"
    save_encoder(create_encoder(CONFIG, 0), path, {})
    return str(path)


def labels_of(counts: dict[int, int], file: Path) -> str:
    """Write labels of so many images of each class."""
    keys, labels = open_source(SOURCE).keys, embedded("test")[1]
    rows = [f"image {key},{CLASSES[c]}" for c, count in counts.items() for key in keys[labels[keys] == c][:count]]
    file.write_text("\n".join(["path,label", *rows]) + "\n")
    return str(file)


def words(encoder: str, labels: str, out: Path, *protocols: str, splits: int = 1) -> list[str]:
    files = ["--encoder", encoder, "--data", SOURCE, "--labels", labels, "--out", str(out)]
    return ["evaluate", *files, "--protocols", *protocols, "--splits", str(splits), *SHORT]


class Watched:
    """What is trained and tested.

    Args:
        monkeypatch: puts the watch in.
        stop_at: number of the training, from 0, that a signal ends at its beginning; None for none.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> None:
        self.trained: list[tuple[set[int], set[int]]] = []  # (trained on, chosen on)
        self.tested: list[set[int]] = []
        train, measure = transfer_folds.train_stage, Classify.measure

        def trained(process: Any, stage: StageRun, *arguments: Any) -> None:
            if len(self.trained) == stop_at:
                raise Stopped("a signal")
            held = stage.monitor.holdout.keys if stage.monitor else []
            self.trained.append((set(stage.loader.source.keys.tolist()), set(np.array(held).tolist())))
            train(process, stage, *arguments)

        def measured(objective: Classify, encoder: Encoder, source: Source) -> dict[str, float]:
            self.tested.append(set(source.keys.tolist()))
            return measure(objective, encoder, source)

        monkeypatch.setattr(transfer_folds, "train_stage", trained)
        monkeypatch.setattr(Classify, "measure", measured)


def test_each_image_is_tested_by_those_that_have_not_seen_it(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, out = labels_of({1: 5, 8: 6, 5: 5}, tmp_path / "labels.csv"), tmp_path / "out"
    seen = Watched(monkeypatch)
    assert main(words(encoder, labels, out, "linear", "finetune", "knn")) == 0
    said = capsys.readouterr().err
    assert "linear of" in said
    assert "5 trainings: 5 folds of 16 labelled images" in said
    assert "Training 1 of 5 took" in said
    assert len(seen.trained) == len(seen.tested) == 10
    for (trained, chosen), tested in zip(seen.trained, seen.tested, strict=True):
        assert not (trained | chosen) & tested
        assert not trained & chosen
    for part in (slice(5), slice(5, 10)):
        assert sorted(key for tested in seen.tested[part] for key in tested) == sorted(set().union(*seen.tested))
    assert all(chosen for _, chosen in seen.trained[:5])  # a head of linear is chosen on some of the others
    assert not any(chosen for _, chosen in seen.trained[5:])

    rows = [row for row in json.loads((out / "results.json").read_text()) if row["protocol"] != "knn"]
    assert {(row["protocol"], row["test"], row["n_test"]) for row in rows} == {
        ("linear", "cross-validation", 16),
        ("finetune", "cross-validation", 16),
    }
    for row in rows:
        assert (row["low"], row["high"]) == pytest.approx(wilson(row["value"], 16))
        results = [json.loads(path.read_text()) for path in (out / "trained").glob(f"{row['protocol']}-*/fold.json")]
        assert row["value"] == pytest.approx(100 * sum(result["hits"] for result in results) / 16)
    assert not list(out.rglob("*.safetensors"))


def test_a_stopped_run_goes_on_where_it_stood(encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = labels_of({1: 5, 8: 6, 5: 5}, tmp_path / "labels.csv")
    out, whole = tmp_path / "out", tmp_path / "whole"
    with monkeypatch.context() as patched:
        Watched(patched, stop_at=3)
        assert main(words(encoder, labels, out, "finetune")) == 75
    for arguments in (words(encoder, labels, out, "finetune"), words(encoder, labels, whole, "finetune")):
        with monkeypatch.context() as patched:
            seen = Watched(patched)
            assert main(arguments) == 0
            assert len(seen.trained) == (2 if str(out) in arguments else 5)
    values = [[row["value"] for row in json.loads((part / "results.json").read_text())] for part in (out, whole)]
    assert values[0] == values[1]
    left = next((out / "trained").glob("*/fold.json")).parent / "stages"  # by a start that was killed just then
    left.mkdir()
    with monkeypatch.context() as patched:
        seen = Watched(patched)
        assert main(words(encoder, labels, out, "finetune")) == 0
        assert not seen.trained
    assert not left.exists()
    # Other labels of the same images are other ones.
    Path(labels).write_text(Path(labels).read_text().replace("trouser", "shirt"))
    with monkeypatch.context() as patched:
        seen = Watched(patched)
        assert main(words(encoder, labels, out, "finetune")) == 0
        assert len(seen.trained) == 5


def test_a_class_with_one_image_and_few_labels_are_left_out_one_by_one(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = labels_of({1: 3, 8: 1, 5: 3}, tmp_path / "labels.csv")
    seen = Watched(monkeypatch)
    results = layergraft.evaluate(
        encoder=encoder,
        data=SOURCE,
        labels=labels,
        protocols=["finetune"],
        out=tmp_path / "out",
        overrides={"finetune.epochs": 1, "finetune.warmup_epochs": 0},
    )
    assert [len(tested) for tested in seen.tested] == [1] * 7
    assert [len(trained) for trained, _ in seen.trained] == [6] * 7
    (row,) = results
    assert (row.n_train, row.n_test, row.chosen) == (6, 7, {"folds": 7, "dealt": 1})


def _corrected(images: Path, table: Path) -> None:
    table.write_text(table.read_text().replace("3.bmp,b", "3.bmp,a"))


def _replaced(images: Path, table: Path) -> None:
    """Another image as large as before, with its time."""
    file = images / "2.bmp"
    times = file.stat().st_mtime_ns
    file.write_bytes((images / "3.bmp").read_bytes())
    os.utime(file, ns=(times, times))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("change", [_corrected, _replaced])
def test_other_images_or_labels_under_the_same_names_are_trained_anew(
    change: Callable[[Path, Path], None], cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERGRAFT_CACHE", str(tmp_path / "cache") if cached else "off")
    monkeypatch.setattr(file_state, "_FRESH", 0)  # files are trusted at once, when they are most alike
    config = load_recipe("fashion_paper", {"evaluate.protocols": ["finetune"]}).evaluate
    encoder, table = create_encoder(CONFIG, 0), tmp_path / "table.csv"
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.bmp"), np.full((8, 8), 40 * number, dtype=np.uint8))
    table.write_text("path,label\n" + "".join(f"{number}.bmp,{'ab'[number % 2]}\n" for number in range(4)))

    def cells() -> list[Path]:
        source = open_source(str(table))
        one: Any = None
        task = TrainedTask(
            train=source.subset(source.keys[:2]),
            holdout=source.subset(source.keys[2:]),
            test=source.subset(source.keys[2:]),
            test_name="",
            seed=0,
            config=config or one,
            protocols=["finetune"],
            engine=EngineConfig(),
            out=tmp_path,
            process=one,
            display=SimpleNamespace(say=print) or one,
        ).read_by(ReadOptions())
        made = (Cell(encoder_name="e", protocol="finetune", shots="100%", split=0, fold=fold) for fold in (None, 0))
        return [CellTraining.of(task, cell, encoder, None).out for cell in made]

    before = cells()
    assert before == cells()
    change(tmp_path, table)
    assert not set(before) & set(cells())
