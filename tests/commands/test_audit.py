"""`audit` finds what is there twice, what leaks into the test, what is labelled wrong; and keeps it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from PIL import Image

import layergraft
from layergraft.commands.cli import main
from layergraft.config import EncoderConfig
from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.runs.audit import Audit, Near, read_audits, write_audit

CONFIG = EncoderConfig(name="vit_tiny_patch16_224", img_size=36, patch_size=9, embed_dim=32, depth=2, num_heads=2)


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    save_encoder(create_encoder(CONFIG, 0), tmp_path / "encoder", {})
    return str(tmp_path / "encoder")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """120 colour images of ten classes; copies of bytes, of pixels, resized; test images that hold three."""
    source = open_source("builtin:fashion-colour:test")
    train, test = tmp_path / "train", tmp_path / "test"
    test.mkdir()
    for key in range(120):
        folder = train / source.classes[source.selected_labels[key]]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{key}.png"), source.images.load(key, 3))
    for key in range(200, 230):
        cv2.imwrite(str(test / f"{key}.png"), source.images.load(key, 3))
    files = {int(file.stem): file for file in train.rglob("*.png")}
    files[1].with_name("bytes.png").write_bytes(files[1].read_bytes())
    Image.open(files[2]).save(files[2].with_name("pixels.bmp"))
    image = cv2.imread(str(files[3]))
    cv2.imwrite(str(files[3].with_name("resized.png")), cv2.resize(image, (29, 29), interpolation=cv2.INTER_AREA))
    (train / "coat" / "broken.png").write_bytes(b"nothing")
    (test / "leak.png").write_bytes(files[4].read_bytes())
    Image.open(files[5]).save(test / "leak.bmp")
    cv2.imwrite(str(test / "leak.jpg"), cv2.imread(str(files[6])), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return train, test


def test_what_was_planted_is_found_and_kept(
    encoder: str, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = folders
    words = ["audit", "--encoder", encoder, "--data", str(train), "--test", str(test), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 copy of another file: " in said
    assert "3 (9.1 %)" in said or "3 of 33 test images" in said
    (audit,) = read_audits(tmp_path / "out" / "audit.json")
    assert (audit.images, audit.labelled) == (124, 124)
    assert [[Path(path).name for path in group] for group in audit.same_bytes] == [["1.png", "bytes.png"]]
    assert [{Path(path).name for path in group} for group in audit.same_pixels] == [{"2.png", "pixels.bmp"}]
    assert {Path(path).name for pair in audit.near for path in (pair.first, pair.second)} == {"3.png", "resized.png"}
    assert audit.unreadable == ["coat/broken.png"]
    assert audit.leak is not None
    assert sorted((first, Path(second).name) for first, second in audit.leak.exact) == [
        ("leak.bmp", "5.png"),
        ("leak.png", "4.png"),
    ]
    assert [(pair.first, Path(pair.second).name) for pair in audit.leak.near] == [("leak.jpg", "6.png")]
    assert main(words) == 0  # once more: it takes the first one's place, and is the last
    again = layergraft.audit(encoder=encoder, data=str(train), out=tmp_path / "out")
    assert again.leak is None
    assert [one.leak is None for one in read_audits(tmp_path / "out" / "audit.json")] == [False, True]
    frame = again.to_pandas()
    assert {"same bytes", "same pixels", "near-duplicate", "unreadable"} <= set(frame["finding"])
    assert str(train) in repr(again)
    assert json.loads((tmp_path / "out" / "audit.json").read_text())[0]["encoder"] == encoder


def test_the_report_shows_the_last_audit(encoder: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    train, test = folders
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("[]")
    layergraft.audit(encoder=encoder, data=str(train), test=str(test), out=tmp_path / "run")
    page = layergraft.report(runs=[str(tmp_path / "run")]).read_text()
    for text in ("Audit of", "Test images among the training images", "leak.jpg", "Near-duplicates", "resized.png"):
        assert text in page


def test_lines_say_how_many_and_what_was_not_asked(tmp_path: Path) -> None:
    """One is one; classes of too few labels are not called told apart; the audit that was made last stands last."""
    one = Audit(
        encoder="e",
        data="d",
        labels="l.csv",
        images=9,
        unreadable=["u.png"],
        same_bytes=[["a.png", "b.png"]],
        same_pixels=[],
        near=[Near(first="c.png", second="d.png", likeness=1.0)],
        threshold=0.9,
        outliers=[],
        labelled=6,
        agreement=0.0,
    )
    assert one.lines() == [
        "1 copy of another file: a.png = b.png",
        "0 images with the pixels of another",
        "1 near-duplicate pair: c.png ~ d.png",
        "0 outliers",
        "0 of 6 labels are doubted by a classifier that gets 0 % right",
        "0 pairs of classes are looked at: it takes two classes of five labels each",
        "1 image cannot be read: u.png",
    ]
    for audit in (one, replace(one, data="other"), one):
        write_audit(tmp_path / "audit.json", audit)
    assert [audit.data for audit in read_audits(tmp_path / "audit.json")] == ["other", "d"]


def test_labels_may_lie_in_a_file(encoder: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Without a directory nothing is written; an image that is alone in its class is left out."""
    train, _ = folders
    paths = sorted(path.relative_to(train).as_posix() for path in train.rglob("*.png") if path.stem.isdigit())
    rows = [f"{path},{path.partition('/')[0]}" for path in paths[::2]] + [f"{paths[1]},007"]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    audit = layergraft.audit(encoder=encoder, data=str(train), labels=tmp_path / "labels.csv")
    assert audit.labelled == 61
    assert audit.estimated_errors is not None
    assert audit.label_errors
    assert not any("007" in (one.label, one.suggested) for one in audit.label_errors)
    assert all(one.label == one.path.partition("/")[0] != one.suggested for one in audit.label_errors)


def test_copies_with_two_labels_are_named(encoder: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Of the same file, of the same pixels and of nearly the same; a copy without a label says nothing."""
    train, _ = folders
    names = {path.name: path.relative_to(train).as_posix() for path in train.rglob("*.*")}
    labels = {"1.png": "a", "bytes.png": "b", "2.png": "a", "pixels.bmp": "b", "3.png": "a", "resized.png": "b"}
    for kept, pairs in ((labels, [("1", "bytes"), ("2", "pixels"), ("3", "resized")]), ({"1.png": "a"}, [])):
        rows = "".join(f"{names[name]},{one}\n" for name, one in kept.items())
        (tmp_path / "l.csv").write_text("path,label\n" + rows)
        audit = layergraft.audit(encoder=encoder, data=str(train), labels=tmp_path / "l.csv", out=tmp_path / "out")
        found = {frozenset((Path(one.first).stem, Path(one.second).stem)) for one in audit.two_labels}
        assert found == set(map(frozenset, pairs))
        assert all({one.label, one.other} == {"a", "b"} for one in audit.two_labels)
        assert any("3 pairs of copies have two labels: " in line for line in audit.lines()) == bool(pairs)


def test_many_copies_are_not_paired_each_with_each(encoder: str, tmp_path: Path) -> None:
    """Blank images come in thousands: each with a label that most have not is named, beside one with theirs."""
    source = open_source("builtin:fashion-colour:test")
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(40):
        image = source.images.load(number, 3) if number < 12 else source.images.load(12, 3) * 0
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), image)
        rows += [] if number == 12 else [f"{number}.png,{'b' if number % 10 == 5 else 'a'}"]
    (tmp_path / "l.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    audit = layergraft.audit(encoder=encoder, data=str(tmp_path / "images"), labels=tmp_path / "l.csv")
    pairs = {(*sorted((one.first, one.second)), *sorted((one.label, one.other))) for one in audit.two_labels}
    assert pairs == {("13.png", odd, "a", "b") for odd in ("15.png", "25.png", "35.png")}


def test_images_without_labels_are_audited(encoder: str, folders: tuple[Path, Path]) -> None:
    audit = layergraft.audit(encoder=encoder, data=str(folders[1]))
    assert (audit.labelled, audit.label_errors, audit.estimated_errors, audit.classes) == (0, [], None, [])
    assert audit.images == 33


@pytest.mark.parametrize("options", [{"data": "nowhere"}, {"test": "nowhere"}, {"labels": "nowhere.csv"}])
def test_what_is_not_there_is_named(options: dict[str, str], folders: tuple[Path, Path]) -> None:
    given = {"encoder": "nobody", "data": str(folders[0])}
    with pytest.raises(UserError, match="nowhere"):
        layergraft.audit(**(given | options))


def test_all_of_200_exact_copies_are_found(encoder: str, tmp_path: Path) -> None:
    """Half of them as the same file, half with the same pixels in another."""
    source = open_source("builtin:fashion-colour:test")
    for key in range(260):
        cv2.imwrite(str(tmp_path / f"{key}.png"), source.images.load(key, 3))
        if key < 100:
            (tmp_path / f"copy {key}.png").write_bytes((tmp_path / f"{key}.png").read_bytes())
        elif key < 200:
            cv2.imwrite(str(tmp_path / f"copy {key}.bmp"), source.images.load(key, 3))
    audit = layergraft.audit(encoder=encoder, data=str(tmp_path))
    for groups, keys in ((audit.same_bytes, range(100)), (audit.same_pixels, range(100, 200))):
        stems = sorted(tuple(sorted(Path(path).stem.split()[-1] for path in group)) for group in groups)
        assert stems == sorted((str(key), str(key)) for key in keys)
