"""What every command says of a source, and how it ends where a class or all of it cannot be read."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import two_classes

from layergraft.commands.cli import main
from layergraft.commands.label import run as label_run
from layergraft.commands.label.session import Session
from layergraft.config import EncoderConfig
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError

SMALL = {"img_size": 16, "patch_size": 8, "in_chans": 3, "embed_dim": 16, "depth": 2, "num_heads": 2}
RECIPE = [word for key, value in SMALL.items() for word in (f"--encoder.{key}", str(value))]
RECIPE += ["--stages.mae.epochs", "1", "--stages.graft.epochs", "1", "--monitor.every", "0", "--data.workers", "0"]
RECIPE += ["--stages.mae.batch_size", "8", "--stages.graft.batch_size", "8", "--evaluate.splits", "1"]
RECIPE += ["--evaluate.shots", "1", "--analyze", "rank"]
COMMANDS = {
    "embed": ["--out", "features.parquet"],
    "evaluate": ["--protocols", "knn", "logistic", "--shots", "1", "--splits", "1"],
    "analyze": ["--what", "rank", "neighbours", "pca", "cka", "layer-probe", "--out", "found"],
    "pack": ["--out", "packed", "--resize", "16"],
    "pick": ["--number", "2", "--out", "picked.csv"],
    "audit": ["--out", "audited"],
    "predict": ["--labels", "labels.csv", "--out", "predicted.csv"],
    "plan": ["--recipe", "fashion_paper", *RECIPE],
    "train": ["--recipe", "fashion_paper", "--out", "run", *RECIPE],
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("encoder") / "encoder"
    save_encoder(create_encoder(EncoderConfig(**SMALL), 0), out, {})  # type: ignore[arg-type]
    return str(out)


def write_source(folder: Path, kind: str, *, broken: tuple[str, ...]) -> str:
    """24 images of classes a and b; all of the broken classes are text in files that end in .png."""
    images = two_classes(folder / "images", 24)
    for path in sorted(images.rglob("*.png")):
        if path.parent.name in broken:
            path.write_bytes(b"no image")
    names = sorted(str(path.relative_to(folder)) for path in images.rglob("*.png"))
    rows = {"table": names, "shard": [f"t.tar:{n}.png" for n in range(24)], "folder": [name[7:] for name in names]}[
        kind
    ]
    (folder / "labels.csv").write_text("path,label\n" + "".join(f"{row},{n % 2}\n" for n, row in enumerate(rows[:20])))
    if kind == "table":
        (folder / "t.csv").write_text("path,label\n" + "".join(f"{name},{name.split('/')[1]}\n" for name in names))
        return str(folder / "t.csv")
    if kind == "shard":
        with tarfile.open(folder / "t.tar", "w") as archive:
            for number, name in enumerate(names):
                (folder / "x.cls").write_text(name.split("/")[1])
                archive.add(folder / name, f"{number}.png")
                archive.add(folder / "x.cls", f"{number}.cls")
        return str(folder / "t.tar")
    return str(images)


def run(command: str, encoder: str, data: str, *more: str) -> int:
    uses_encoder = command not in ("pack", "plan", "train")
    words = [command, *(["--encoder", encoder] if uses_encoder else []), "--data", data, *COMMANDS[command], *more]
    return main(words)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["folder", "table", "shard"])
def test_a_source_of_which_nothing_can_be_read(
    command: str,
    kind: str,
    encoder: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind != "folder" and command in ("train", "plan", "analyze"):
        pytest.skip("slower, and the same code")
    monkeypatch.chdir(tmp_path)
    data = write_source(tmp_path, kind, broken=("a", "b"))
    test = ["--test", "holdout", "--holdout", "0.3"] if command == "evaluate" else []
    code = run(command, encoder, data, *test)
    said = capsys.readouterr().err
    assert (code, "Traceback" in said) == (2, False), said
    assert "not an image" in said, said
    assert not any(os.path.exists(name) for name in ("features.parquet", "picked.csv"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_class_of_which_nothing_can_be_read(
    command: str, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_source(tmp_path, "folder", broken=("a",))
    test = ["--test", "holdout", "--holdout", "0.3"] if command == "evaluate" else []
    code = run(command, encoder, data, *test)
    said = capsys.readouterr().err
    assert code in (0, 2), said
    assert "Traceback" not in said
    if command in ("embed", "pack"):
        assert (code, "12" in said) == (0, True), said
        assert "12 not an image" in said or command == "embed"


def test_a_test_set_of_which_nothing_can_be_read(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    data = write_source(tmp_path / "good", "folder", broken=())
    test = write_source(tmp_path / "bad", "folder", broken=("a", "b"))
    assert run("evaluate", encoder, data, "--test", test) == 2
    assert "None of the 24 images" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_is_left_out(
    command: str, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_source(tmp_path, "folder", broken=())
    for name in ("1.heic", "a/2.heic", "b/scan.svs"):
        (tmp_path / "images" / name).write_bytes(b"")
    test = ["--test", "holdout", "--holdout", "0.3"] if command == "evaluate" else []
    assert run(command, encoder, data, *test) == 0
    said = capsys.readouterr()
    assert "left out by their ending: 2 .heic, 1 .svs" in " ".join((said.err + said.out).split())


def write_dark(folder: Path) -> str:
    """12 grey images of 16 bits that use 600 levels of 65,536."""
    rng = np.random.default_rng(0)
    for number in range(12):
        file = folder / "dark" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), rng.integers(0, 600, (16, 16)).astype(np.uint16))
    (folder / "labels.csv").write_text("path,label\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(8)))
    return str(folder / "dark")


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"plan", "train", "evaluate"}))
def test_a_range_that_is_to_be_found(
    command: str, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`audit`, `pick` and `pack --resize` ended as a bug, and said nothing of images that are nearly black."""
    monkeypatch.chdir(tmp_path)
    data = write_dark(tmp_path)
    assert run(command, encoder, f"{data}?range=auto") == 0
    assert "percentiles 0.1 and 99.9" in capsys.readouterr().err
    if command != "pack":
        for name in ("picked.csv", "predicted.csv"):
            (tmp_path / name).unlink(missing_ok=True)
        assert run(command, encoder, data) == 0
        assert "they are nearly black" in capsys.readouterr().err


def test_the_page_of_labels_reads_images_as_the_encoder_does(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[tuple[object, int]] = []

    def server(session: Session, channels: int, port: int) -> None:
        served.append((session.source.options.range, channels))
        raise UserError("Enough.")

    monkeypatch.setattr(label_run, "LabelServer", server)
    words = ["--labels", str(tmp_path / "new.csv"), "--data", f"{write_dark(tmp_path)}?range=auto"]
    assert main(["label", "--encoder", encoder, *words]) == 2
    assert "Enough." in capsys.readouterr().err
    ((found, channels),) = served
    assert found != "auto"
    assert channels == 3


@pytest.mark.parametrize("command", ["audit", "evaluate"])
def test_test_images_have_the_range_of_the_training_images(
    command: str, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_dark(tmp_path)
    assert run(command, encoder, f"{data}?range=auto", "--test", f"{data}?range=auto") == 2
    assert "range of the training images" in capsys.readouterr().err
    assert run(command, encoder, f"{data}?range=auto", "--test", data) == 0  # an audit finds each image a second time
    assert "Traceback" not in capsys.readouterr().err


def test_an_audit_of_bands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images of five bands were compared as RGB, which they are not: nothing was found, or the command failed."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    bands = create_encoder(EncoderConfig(**SMALL | {"in_chans": 5}), 0)  # type: ignore[arg-type]
    save_encoder(bands, tmp_path / "encoder", {})
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 16, 16)).astype(np.uint8)
    (tmp_path / "images").mkdir()
    for number, image in enumerate([*pixels, pixels[0]]):
        plain = {"planarconfig": "separate", "photometric": "minisblack", "description": str(number)}
        tifffile.imwrite(tmp_path / "images" / f"{number}.tif", image, **plain)
    words = ["--encoder", str(tmp_path / "encoder"), "--data", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    assert main(["audit", *words]) == 0
    (audit,) = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert audit["same_pixels"] == [["0.tif", "6.tif"]]
