"""`predict` gives every image a row: in order, calibrated, honest about what it cannot read, and whole or not there."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from conftest import Open
from msgspec.structs import replace

import layergraft
from layergraft.commands.cli import main
from layergraft.commands.predict.table import COLUMNS
from layergraft.config import EncoderConfig
from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.evaluation import cache, features
from layergraft.evaluation.probes import Probe, save_probe

CONFIG = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=32, depth=2, num_heads=2
)
NAMES = ("007", "1.0", "bag, or so")
IMAGES = 90


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("encoder") / "encoder"
    save_encoder(create_encoder(CONFIG, 0), path, {})
    return str(path)


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Images of three classes, and the class of each; two files that cannot be read lie among them."""
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    truth = {}
    for number, kind in enumerate(random.integers(0, 3, IMAGES).tolist()):
        name = f"{'more/' if number % 2 else ''}{number:03d}.png"
        noise = random.normal(0, 12, (36, 36))
        noise[9 * kind : 9 * kind + 18] += 150  # a bar at the top, in the middle or at the bottom
        cv2.imwrite(str(root / name), noise.clip(0, 255).astype(np.uint8))
        truth[name] = NAMES[kind]
    (root / "000b.png").write_bytes(b"")
    (root / "more" / "zz.png").write_bytes(b"no picture")
    return root, truth


def label(file: Path, truth: dict[str, str], count: int) -> Path:
    """The first images in a label file of a Windows program."""
    lines = [f'{name},"{one}"' for name, one in list(truth.items())[:count]]
    file.write_bytes(("\ufeffpath,label\r\n" + "\r\n".join(lines) + "\r\n000b.png,\r\n").encode())
    return file


def rows_of(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_image_has_a_row(
    encoder: str, photos: tuple[Path, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, truth = photos
    labels = label(tmp_path / "labels.csv", truth, 30)
    words = ["--encoder", encoder, "--data", str(root), "--labels", str(labels)]
    assert main(["predict", *words, "--out", str(tmp_path / "p.csv")]) == 0
    said = capsys.readouterr().err
    assert "90 of 92 images are classified" in said
    assert "95 % interval" in said
    rows = rows_of(tmp_path / "p.csv")
    source = open_source(str(root))
    assert [row["path"] for row in rows] == [source.images.name(index) for index in range(len(source))]
    assert list(rows[0]) == [*COLUMNS, "note"]
    unreadable = [row for row in rows if row["path"] not in truth]
    assert len(unreadable) == 2
    assert all(row["note"] for row in unreadable)
    assert all(row[name] == "" for row in unreadable for name in COLUMNS[1:])
    readable = [row for row in rows if row["path"] in truth]
    assert np.mean([row["label"] == truth[row["path"]] for row in readable]) > 0.8
    assert {row["label"] for row in readable} <= set(NAMES)
    for row in readable:
        assert row["second"] != row["label"]
        assert 1 >= float(row["probability"]) >= float(row["second_probability"]) >= 0
        assert row["sure"] in ("true", "false")
        assert row["nearest"] in truth
        assert row["nearest"] != row["path"]  # a labelled image is not its own neighbour
        assert row["note"] == ""
    # The same as Parquet, through Python.
    result = layergraft.predict(encoder=encoder, data=str(root), labels=labels, out=tmp_path / "p.parquet")
    table = pq.read_table(result.out).to_pylist()
    assert [row["label"] or "" for row in table] == [row["label"] for row in rows]
    assert [row["sure"] for row in table if row["sure"] is not None] == [row["sure"] == "true" for row in readable]
    assert (result.images, result.unreadable) == (92, 2)
    assert result.sure == sum(row["sure"] == "true" for row in readable)
    assert "p.parquet" in repr(result)
    assert result.page.read_text().count('<ul class="sheet">') >= 3


def test_label_noise_and_labels_of_one_image(encoder: str, photos: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """Wrong labels and a class with one image: the others are found, and labelled images are judged without theirs."""
    root, truth = photos
    given = dict(list(truth.items())[:40])
    wrong = [name for name, one in given.items() if one == "007"][:2]
    given |= dict.fromkeys(wrong, "1.0")
    given[list(truth)[41]] = "alone"
    result = layergraft.predict(
        encoder=encoder, data=str(root), labels=label(tmp_path / "l.csv", given, 99), out=tmp_path / "p.csv"
    )
    rows = {row["path"]: row for row in rows_of(result.out)}
    assert [rows[name]["label"] for name in wrong] == ["007", "007"]
    rest = [name for name in truth if name not in given]
    assert np.mean([rows[name]["label"] == truth[name] for name in rest]) > 0.75
    assert rows[list(truth)[41]]["label"] != "alone"
    assert result.low is not None
    assert result.high is not None
    assert result.high - result.low > 15  # forty labels tell little, and that is said


def test_one_image_of_each_class_promises_nothing(
    encoder: str, photos: tuple[Path, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, truth = photos
    first = {one: name for name, one in reversed(truth.items())}
    labels = label(tmp_path / "l.csv", {name: one for one, name in first.items()}, 9)
    result = layergraft.predict(encoder=encoder, data=str(root), labels=labels, out=tmp_path / "p.csv")
    assert result.sure == 0
    assert result.accuracy is None
    assert "3 of 3 classes have one labelled image each" in capsys.readouterr().err


def test_an_encoder_normalises_as_it_was_trained(
    encoder: str, photos: tuple[Path, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A SOURCE's mean and deviation change nothing of what a trained encoder is given; that was not said."""
    root, truth = photos
    labels = str(label(tmp_path / "l.csv", truth, 30))
    files = []
    for name, options in (("a", ""), ("b", "?mean=0.1&std=0.5")):
        words = ["predict", "--encoder", encoder, "--data", f"{root}{options}", "--labels", labels]
        assert main([*words, "--out", str(tmp_path / f"{name}.csv")]) == 0
        assert ("normalises images as it was trained" in capsys.readouterr().err) == bool(options)
        files.append((tmp_path / f"{name}.csv").read_bytes())
    assert files[0] == files[1]


def test_what_is_refused(encoder: str, photos: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    root, truth = photos
    labels = label(tmp_path / "l.csv", truth, 9)

    def refused(match: str, **changes: object) -> None:
        arguments = {"encoder": encoder, "data": str(root), "labels": labels, "out": tmp_path / "p.csv"} | changes
        with pytest.raises(UserError, match=match):
            layergraft.predict(**arguments)  # type: ignore[arg-type]
        assert not (tmp_path / "p.csv").exists()

    refused("Give one of --labels FILE, --probe PROBE and --head", labels=None)
    refused("Give one of --labels FILE, --probe PROBE and --head", head=True)
    refused("no .csv and no .parquet", out=tmp_path / "p.txt")
    refused("It is a share above 0", error=10)
    refused("holds no classifier", labels=None, head=True)
    before = labels.read_bytes()
    refused("is the file of labels", out=labels)
    labels.with_name("m.csv").symlink_to(labels)
    refused("is the file of labels", out=labels.with_name("m.csv"), labels=f"{labels}?label=label")
    refused("exists and holds no predictions", out=labels, labels=None, probe=tmp_path / "probe")
    assert labels.read_bytes() == before
    (tmp_path / "p.html").write_text("mine")
    refused("The page of predictions would replace")
    assert (tmp_path / "p.html").read_text() == "mine"
    (tmp_path / "p.html").unlink()
    (tmp_path / "q.parquet").write_bytes(b"no table")
    refused("exists and holds no predictions", out=tmp_path / "q.parquet")
    (tmp_path / "one.csv").write_text(f"path,label\n{next(iter(truth))},x\n")
    refused("1 label of 1 class", labels=tmp_path / "one.csv")


def test_a_probe_says_what_it_was_fitted_to_say(
    encoder: str, photos: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    root, _ = photos
    probe = save_probe(
        Probe(
            weight=torch.zeros(3, 32),
            bias=torch.tensor([0.0, 2.0, 1.0]),
            classes=["cat", "dog", "cow"],
            encoder=encoder,
            source="elsewhere",
            protocol="logistic",
            variant=None,
            shots="5",
            split="0",
            pooling="mean",
        ),
        tmp_path,
    )
    words = ["predict", "--encoder", encoder, "--data", str(root), "--probe", str(probe)]
    assert main([*words, "--out", str(tmp_path / "p.csv")]) == 0
    rows = [row for row in rows_of(tmp_path / "p.csv") if not row["note"]]
    assert {row["sure"] + row["nearest"] for row in rows} == {""}
    assert {(row["label"], row["second"]) for row in rows} == {("dog", "cow")}
    assert {row["probability"] for row in rows} == {f"{np.exp(2) / (1 + np.e + np.exp(2)):.4f}"}
    save_encoder(create_encoder(replace(CONFIG, embed_dim=16), 0), tmp_path / "other", {})
    with pytest.raises(UserError, match="takes features of 32 numbers"):
        layergraft.predict(encoder=tmp_path / "other", data=str(root), probe=probe, out=tmp_path / "q.csv")


def test_a_run_that_is_killed_goes_on(
    encoder: str, photos: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM ends it with 75 and no file; what was computed is not computed again."""
    root, truth = photos
    words = ["predict", "--encoder", encoder, "--data", str(root)]
    words += ["--labels", str(label(tmp_path / "l.csv", truth, 30)), "--out", str(tmp_path / "p.csv")]
    assert main(words) == 0
    at_once = (tmp_path / "p.csv").read_bytes()
    (tmp_path / "p.csv").unlink()
    monkeypatch.setenv("LAYERGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "BATCH", 16)
    monkeypatch.setattr(cache, "PART", 16)
    write, batches, computed = cache._write, features.pool_all, []

    def stop_after_the_second(file: Path, array: features.Array) -> None:
        write(file, array)
        if "-16." in file.name:
            os.kill(os.getpid(), signal.SIGTERM)

    def count(*arguments: Any) -> Any:
        computed.append(len(arguments[1]))
        return batches(*arguments)

    monkeypatch.setattr(features, "pool_all", count)
    monkeypatch.setattr(cache, "_write", stop_after_the_second)
    assert main(words) == 75
    assert not (tmp_path / "p.csv").exists()
    monkeypatch.setattr(cache, "_write", write)
    before = sum(computed)
    assert before < IMAGES
    computed.clear()
    assert main(words) == 0
    assert sum(computed) == IMAGES - 31  # 32 files were done, one of which cannot be read
    assert rows_of(tmp_path / "p.csv") == list(csv.DictReader(at_once.decode().splitlines()))
    assert len(list((tmp_path / "cache").rglob("*.features"))) == 1  # parts of what is whole are gone


@pytest.mark.slow
def test_the_page_shows_what_was_predicted(
    encoder: str, photos: tuple[Path, dict[str, str]], tmp_path: Path, visit: Open
) -> None:
    """Each picture leads to its file; the confusion matrix is drawn; nothing is asked from anywhere."""
    root, truth = photos
    labels = label(tmp_path / "l.csv", truth, 30)
    result = layergraft.predict(encoder=encoder, data=str(root), labels=labels, out=tmp_path / "p.csv")
    page = visit(result.page)
    places = page.locator(".sheet a").evaluate_all("links => links.map(link => link.href)")
    assert len(places) > 20
    assert {Path(unquote(urlparse(place).path)) for place in places} <= {root / name for name in truth}
    assert page.locator(".sheet img").first.get_attribute("alt") in truth
    page.locator("[data-figure=confusion]").scroll_into_view_if_needed()
    page.wait_for_selector("[data-figure=confusion] svg")
    assert page.locator("#unreadable tbody tr").count() == 2


def test_a_head_gives_the_probabilities_that_timm_gives(tmp_path: Path) -> None:
    """Without names its classes are numbers, and that is said; the numbers are timm's own softmax."""
    torch.manual_seed(0)
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4, **arguments).eval()
    torch.nn.init.normal_(model.head.weight, std=0.2)
    torch.nn.init.normal_(model.head.bias)
    torch.save({"model": model.state_dict()}, tmp_path / "file.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(pixels):
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), image[:, :, ::-1])
    words = ["--encoder", str(tmp_path / "file.pth"), "--data", str(tmp_path / "photos")]
    assert main(["predict", *words, "--head", "--out", str(tmp_path / "p.csv")]) == 0
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = model(((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)).softmax(1)
    best, order = expected.sort(dim=1, descending=True)
    rows = rows_of(tmp_path / "p.csv")
    assert [(row["label"], row["second"]) for row in rows] == [(str(int(a)), str(int(b))) for a, b in order[:, :2]]
    found = [[float(row["probability"]), float(row["second_probability"])] for row in rows]
    assert np.abs(np.array(found) - best[:, :2].numpy()).max() < 2e-3
    assert {row["sure"] + row["nearest"] for row in rows} == {""}
