"""Labels in a file of their own: every spelling that people and spreadsheets have, and what must be refused."""

from __future__ import annotations

import re
import tarfile
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layergraft.data.sources.label_file import match_paths, read_label_rows, read_labels
from layergraft.data.sources.open import open_source
from layergraft.errors import UserError

NAMES = ("a/1.png", "a/2.png", "b/2.png", "b/3.png", "4 .png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in NAMES:
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.zeros((8, 8), dtype=np.uint8))
    return tmp_path / "photos"


def labelled(photos: Path, text: str | bytes) -> dict[str, str]:
    """Name of an image -> its label, of those that have one."""
    file = photos.parent / "labels.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    source = read_labels(file, open_source(str(photos)))
    kept = source.labelled
    assert len(source) == len(NAMES)
    return {
        source.images.name(int(key)): source.classes[label]
        for key, label in zip(kept.keys, kept.selected_labels, strict=True)
    }


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/1.png", "a/1.png"),
        ("./a/1.png", "a/1.png"),
        ("a\\1.png", "a/1.png"),
        ("photos/a/2.png", "a/2.png"),
        ("{photos}/b/2.png", "b/2.png"),
        ("../{top}/photos/b/2.png", "b/2.png"),
        ("1.png", "a/1.png"),
        ("3.png", "b/3.png"),
        ("4 .png", "4 .png"),
    ],
)
def test_spellings_of_a_path(photos: Path, path: str, name: str) -> None:
    path = path.format(photos=photos, top=photos.parent.name)
    assert labelled(photos, f'path,label\n"{path}",cat\n') == {name: "cat"}


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("comma", [",", ";", "\t"])
def test_files_of_spreadsheets(photos: Path, line_end: str, mark: str, comma: str) -> None:
    rows = [
        ("path", "label"),
        ("a/1.png", "007"),
        ("a/2.png", "1.0"),
        ("b/2.png", "1"),
        ("b/3.png", " "),
        ("4 .png", ""),
    ]
    text = mark + "".join(comma.join(row) + line_end for row in rows)
    assert labelled(photos, text) == {"a/1.png": "007", "a/2.png": "1.0", "b/2.png": "1"}


def test_numbers_are_ordered_as_such_and_stay_text(photos: Path) -> None:
    (photos.parent / "l.csv").write_text("path,label\n1.png,10\n3.png,9\na/2.png,09\n")
    assert read_labels(photos.parent / "l.csv", open_source(str(photos))).classes == ["09", "9", "10"]


def test_other_columns(photos: Path) -> None:
    file = photos.parent / "labels.csv"
    file.write_text("file,kind,label\n1.png,cat,0\n3.png,dog,1\n")
    assert read_label_rows(f"{file}?image=file&label=kind") == [("1.png", "cat"), ("3.png", "dog")]
    assert read_label_rows(str(file)) == [("1.png", "0"), ("3.png", "1")]
    file.write_text("file,kind\n1.png,cat\n")
    with pytest.raises(UserError, match=r"no column `label`(.|\n)*\?label=COLUMN: it has kind"):
        read_label_rows(str(file))
    with pytest.raises(UserError, match=r"no column 'kin'(.|\n)*Did you mean 'kind'"):
        read_label_rows(f"{file}?image=file&label=kin")
    with pytest.raises(UserError, match=r"unknown option 'class'"):
        read_label_rows(f"{file}?class=kind")


def test_parquet_with_numbers(photos: Path) -> None:
    file = photos.parent / "labels.parquet"
    pq.write_table(pa.table({"path": ["1.png", "3.png"], "label": pa.array([7, None])}), file)
    assert read_label_rows(str(file)) == [("1.png", "7")]


def test_what_is_refused(photos: Path) -> None:
    def refused(text: str | bytes, match: str) -> None:
        with pytest.raises(UserError, match=match):
            labelled(photos, text)

    refused("path,label\nc/1.png,x\n5.png,x\na/1.png,x\n", r"2 paths of .* name no image of .*: 'c/1.png', '5.png'")
    refused("path,label\n2.png,x\n", r"1 path of .* fit several images of .*: '2.png'")
    refused("path,label\na/1.png,x\n1.png,y\n", r"gives 1 image two labels: '1.png' \('x' and 'y'\)")
    refused("path,label\n,x\na/1.png,x\n", r"1 row of .* have a label and no path")
    refused("path,label\na/1.png,x,y\n", r"cannot be read as a table")
    refused("", r"cannot be read as a table")
    refused("path,label\na/1.png,caf\u00e9\n".encode("latin-1"), r"cannot be read as a table(.|\n)*as UTF-8")
    refused("a/1.png,cat\na/2.png,dog\n", r"no column `path` or `image`(.|\n)*Its first line names the columns")
    with pytest.raises(UserError, match=r"There is no label file"):
        read_labels(photos.parent / "none.csv", open_source(str(photos)))


def test_one_label_twice_and_a_blank_beside_it(photos: Path) -> None:
    assert labelled(photos, "path,label\n1.png,x\na/1.png,x\na/1.png,\n") == {"a/1.png": "x"}
    assert labelled(photos, "path,label\n") == {}


def test_a_foreign_folder_is_not_taken_for_the_source(photos: Path) -> None:
    """`other/1.png` is another image, even though one is called `1.png` here."""
    with pytest.raises(UserError, match=r"name no image"):
        labelled(photos, "path,label\nother/1.png,x\n")


def test_labels_replace_those_of_the_source(photos: Path) -> None:
    (photos / "4 .png").unlink()
    source = open_source(str(photos))
    assert source.classes == ["a", "b"]
    (photos.parent / "l.csv").write_text("path,label\n1.png,x\n3.png,y\n")
    (photos.parent / "m.csv").write_text("path,label\n1.png,y\n3.png,x\n")
    one, other = (read_labels(photos.parent / name, source) for name in ("l.csv", "m.csv"))
    assert one.classes == ["x", "y"]
    assert one.identity != other.identity  # work that is done for one is not taken for the other's
    with pytest.raises(UserError, match=r"2 of 4 images of .* have no label"):
        _ = one.selected_labels
    assert one.labelled.selected_labels.tolist() == [0, 1]


@pytest.mark.parametrize(("file", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_are_the_same_however_they_are_encoded(tmp_path: Path, file: str, written: str) -> None:
    """A Mac writes two letters for `ä`, a spreadsheet one; where both are files, a path of neither is vague."""

    def form(name: str, text: str) -> str:
        return unicodedata.normalize(name, text)

    photos = tmp_path / form(file, "Käfer")
    (photos / "a").mkdir(parents=True)
    for name in ("ä.png", "b.png"):
        cv2.imwrite(str(photos / "a" / form(file, name)), np.zeros((8, 8), dtype=np.uint8))
    for path in ("ä.png", "a/ä.png", "Käfer/a/ä.png", str(photos / "a" / "ä.png")):
        (tmp_path / "l.csv").write_text(f"path,label\n{form(written, path)},x\n", encoding="utf-8")
        source = read_labels(tmp_path / "l.csv", open_source(str(photos))).labelled
        assert [source.images.name(int(key)) for key in source.keys] == [form(file, "a/ä.png")]
    for name in (form(file, "a/Ö.png"), form(written, "a/Ö.png")):
        cv2.imwrite(str(photos / name), np.zeros((8, 8), dtype=np.uint8))
    images = open_source(str(photos))
    if len(images) == 4:  # some file systems take both for one
        (key,) = match_paths("l.csv", [form(file, "a/Ö.png")], images).values()
        assert images.images.name(key[0]) == form(file, "a/Ö.png")
        with pytest.raises(UserError, match="fit several images"):
            match_paths("l.csv", [form(written, "Käfer/") + form(file, "a/Ö.png")], images)


def test_members_of_shards_are_found_by_their_names(photos: Path) -> None:
    for shard, name in (("0", "a/1.png"), ("1", "4 .png"), ("1", "a/2.png"), ("0", "b/2.png")):
        with tarfile.open(photos.parent / f"{shard}.tar", "a") as file:
            file.add(photos / name, name)
    (photos.parent / "l.csv").write_text("path,label\n4 .png,x\n1.png,y\n0.tar:b/2.png,z\n")
    source = read_labels(photos.parent / "l.csv", open_source(f"{photos.parent}/{{0..1}}.tar")).labelled
    assert {source.images.name(int(key)) for key in source.keys} == {"1.tar:4 .png", "0.tar:a/1.png", "0.tar:b/2.png"}
    (photos.parent / "l.csv").write_text("path,label\n2.png,x\n")
    with pytest.raises(UserError, match="fit several images"):
        read_labels(photos.parent / "l.csv", open_source(f"{photos.parent}/{{0..1}}.tar"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\n1.png,NA\n3.png,cat\n", "labels 1 image 'NA', which is a class like any other"),
        ("path,label\n1.png,Cat\n3.png,cat\na/2.png,dog\n", "in several ways, .*: 'Cat' \\(1\\), 'cat' \\(1\\)"),
        ("path,label\n1.png,caf\u00e9\n3.png,cafe\u0301\n", "in several ways"),
        ("path,label,second,second_probability\n1.png,cat,dog,0.2\n", "is a file of predictions"),
        ("path,label,rank\n1.png,none,1\n3.png,dog,2\n", "^$"),
    ],
)
def test_what_looks_like_a_slip_is_said(photos: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    labelled(photos, text)
    assert re.search(said, capsys.readouterr().err)


def test_cells_of_several_lines_and_capital_endings(photos: Path) -> None:
    """A table above a megabyte whose notes have lines of their own was refused; a .PARQUET was read as text."""
    note = "x" * 1000 + "\n" + "y" * 1000
    rows = [f'1.png,cat,"{note}"\n'] * 1500
    file = photos.parent / "notes.CSV"
    file.write_text("path,label,note\n" + "".join(rows))
    assert read_label_rows(str(file)) == [("1.png", "cat")] * 1500
    pq.write_table(pa.table({"path": ["1.png"], "label": ["cat"]}), photos.parent / "L.PARQUET")
    assert read_label_rows(str(photos.parent / "L.PARQUET")) == [("1.png", "cat")]


def test_images_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,label\nimage 3,x\n")
    assert read_labels(tmp_path / "l.csv", open_source("builtin:fashion:test")).labelled.keys.tolist() == [3]


@pytest.mark.parametrize("label", ["9" * 5000, "²", "٣"])
def test_labels_of_odd_digits_are_classes(photos: Path, label: str) -> None:
    """More digits than Python makes a number of ended as a bug, in a label file and in a table of images."""
    (photos.parent / "odd.csv").write_text(f"path,label\na/1.png,{label}\na/2.png,2\n")
    assert set(read_labels(str(photos.parent / "odd.csv"), open_source(str(photos))).classes) == {label, "2"}
    assert set(open_source(f"{photos.parent / 'odd.csv'}?root={photos}").classes) == {label, "2"}


def test_a_header_that_is_no_text_is_refused(photos: Path) -> None:
    (photos.parent / "odd.csv").write_bytes(b"\xefpath,label\na,b\n")
    with pytest.raises(UserError, match="cannot be read as a table"):
        read_labels(str(photos.parent / "odd.csv"), open_source(str(photos)))
