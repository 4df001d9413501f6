"""`--labels FILE` beside `--data SOURCE`: `evaluate` and `analyze` with labels of some images."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import layergraft
from layergraft.commands.cli import main
from layergraft.config import EncoderConfig
from layergraft.data.fashion.load import CLASSES, canvases, embedded
from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.runs.intervals import wilson

CONFIG = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=32, depth=2, num_heads=2
)
SOURCE = "builtin:fashion-canvas:test?fraction=0.02"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("encoder") / "encoder"
    save_encoder(create_encoder(CONFIG, 0), path, {})
    return str(path)


def label(file: Path, classes: list[int], count: int) -> str:
    """Write labels of some images of each class that are in the source."""
    keys, labels = open_source(SOURCE).keys, embedded("test")[1]
    rows = [f"image {key},{CLASSES[c]}" for c in classes for key in keys[labels[keys] == c][:count]]
    file.write_text("\n".join(["path,label", *rows]) + "\n")
    return str(file)


@pytest.mark.parametrize(("count", "dealt", "n_train"), [(5, 5, 12), (4, 1, 11)])
def test_labels_of_some_images_are_cross_validated(
    encoder: str, tmp_path: Path, count: int, dealt: int, n_train: int
) -> None:
    """Five folds dealt five times; each image left out once, where a class has under five."""
    labels = label(tmp_path / "labels.csv", [1, 8, 5], count)
    out = tmp_path / "out"
    words = ["evaluate", "--encoder", encoder, "--data", SOURCE, "--labels", labels, "--out", str(out)]
    assert main([*words, "--protocols", "knn", "logistic", "ridge", "prototype"]) == 0
    rows = json.loads((out / "results.json").read_text())
    assert {(row["encoder"] == "pixels", row["protocol"], row["variant"]) for row in rows} == {
        (is_floor, protocol, variant)
        for is_floor in (True, False)
        for protocol, variant in (("knn", None), ("logistic", "published"), ("ridge", "cv"), ("prototype", None))
    }
    assert {row["test"] for row in rows} == {"cross-validation"}
    assert {row["source"] for row in rows} == {f"{SOURCE} labelled by {labels}"}
    logistic = {row["split"]: row for row in rows if row["protocol"] == "logistic" and row["encoder"] == "pixels"}
    assert set(logistic) == {*map(str, range(dealt)), "mean"} | ({"std"} if dealt > 1 else set())
    mean = logistic["mean"]
    assert (mean["n_train"], mean["n_test"]) == (n_train, 3 * count)
    assert mean["high"] - mean["low"] > 20
    assert mean["low"] <= mean["value"] <= mean["high"]
    # Other folds are no other images: the interval is as wide as that of so many test images.
    assert (mean["low"], mean["high"]) == pytest.approx(wilson(mean["value"], 3 * count))
    (kept,) = json.loads((out / "examples.json").read_text())  # of the first protocol that fits a classifier
    assert (kept["protocol"], kept["test"]) == ("logistic", "cross-validation")
    assert set(kept["classes"]) == {CLASSES[c] for c in (1, 8, 5)}
    right = sum(images for one, other, images in kept["taken"] if one == other)
    of_the_encoder = [row for row in rows if row["encoder"] != "pixels" and row["protocol"] == "logistic"]
    (first,) = [row["value"] for row in of_the_encoder if row["split"] == "0"]
    assert first == pytest.approx(100 * right / (3 * count))
    assert kept["images"] == [count] * 3


def test_what_cross_validation_refuses(encoder: str, tmp_path: Path) -> None:
    labels = label(tmp_path / "labels.csv", [1, 8], 6)

    def refused(match: str, **changes: object) -> None:
        with pytest.raises(UserError, match=match):
            layergraft.evaluate(**({"encoder": encoder, "data": SOURCE, "labels": labels} | changes))  # type: ignore[arg-type]

    refused("segment learns masks", protocols=["segment"])
    few = label(tmp_path / "few.csv", [1, 8], 2)
    refused("and these are 3", protocols=["linear"], out=tmp_path / "out", labels=few)
    assert not (tmp_path / "out").exists()
    refused("holds no classifier", protocols=["head"])
    refused("holds none out", variant=["holdout"])
    refused("holds none out", pooling=["auto"])
    refused("so --shots and lists", shots=["5"])
    refused("is for sources that are labelled throughout", test="holdout")
    refused("6 labels of 1 class", labels=label(tmp_path / "one.csv", [1], 6))


def test_labels_of_some_images_with_a_test_set(encoder: str, tmp_path: Path) -> None:
    """Only they are labelled images; the test images are as given."""
    labels = label(tmp_path / "labels.csv", list(range(10)), 2)
    results = layergraft.evaluate(
        encoder=encoder,
        data=SOURCE,
        labels=labels,
        test="builtin:fashion-canvas:train?fraction=0.02",
        protocols=["logistic"],
        shots=["1", "100%"],
        splits=1,
    )
    assert {(row.shots, row.n_train, row.n_test) for row in results} == {("1", 10, 240), ("100%", 20, 240)}


def test_analyses_use_the_labels_of_the_file(encoder: str, tmp_path: Path) -> None:
    labels = label(tmp_path / "labels.csv", [1, 8, 5], 5)
    entries = layergraft.analyze(
        encoder=encoder, data=SOURCE, labels=labels, what=["layer-probe", "neighbours", "map"], out=tmp_path / "out"
    )
    numbers = {entry.analysis: entry for entry in entries}
    assert numbers["layer-probe"].data == f"{SOURCE} labelled by {labels}"
    shown = {cell["label"] for figure in numbers["neighbours"].figures for cell in figure.data}
    assert shown <= {"trouser", "bag", "sandal"}
    assert np.isfinite(numbers["neighbours"].numbers["of_same_class"])
    assert "map" not in numbers or all("label" not in cell for figure in numbers["map"].figures for cell in figure.data)


def folder(root: Path) -> Path:
    """Four images of each of two classes, as a test set."""
    images, labels = canvases("train"), embedded("train")[1]
    for c in (1, 8):
        (root / CLASSES[c]).mkdir(parents=True)
        for row in np.flatnonzero(labels == c)[:4]:
            cv2.imwrite(str(root / CLASSES[c] / f"{row}.png"), images[row])
    return root


@pytest.mark.slow
def test_a_stage_of_other_labels_is_not_taken_for_done(encoder: str, tmp_path: Path) -> None:
    """A label file that was mended has as many labels of the same images; what was trained before is no answer."""
    labels = label(tmp_path / "labels.csv", [1, 8], 5)
    text = Path(labels).read_text()
    test = folder(tmp_path / "test")
    for other in (text, text.replace("trouser", "x").replace("bag", "trouser").replace("x", "bag")):
        Path(labels).write_text(other)
        layergraft.evaluate(
            encoder=encoder,
            data=SOURCE,
            labels=labels,
            test=str(test),
            protocols=["linear"],
            out=tmp_path / "out",
            overrides={"linear.epochs": 2, "linear.warmup_epochs": 0},
        )
    assert len(list((tmp_path / "out" / "trained").iterdir())) == 2


def test_a_table_that_labels_some_images_is_told_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("path,label\na.png,cat\nb.png,dog\nc.png,\n")
    with pytest.raises(UserError, match="have a label and some have none") as refused:
        open_source(str(tmp_path / "table.csv"))
    assert "--labels FILE" in refused.value.hint
