"""Tables as people write them: columns by any usual name, and why there are no labels where there are none."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from layergraft.data.sources.columns import Chosen, find_columns, one_column_a_class
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.errors import UserError

PNG = cv2.imencode(".png", np.full((5, 6, 3), 99, np.uint8))[1].tobytes()
NAMES = ["one.png", "b/two.png", "three.png", "four.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    return tmp_path


def labels_of(source: Source) -> list[str] | None:
    assert [source.images.name(key) for key in range(len(source))] == NAMES
    assert all(source.images.load(key, 3).shape == (5, 6, 3) for key in source.keys.tolist())
    return None if source.labels is None else [source.classes[label] for label in source.selected_labels]


def write(path: Path, header: list[str], rows: list[list[Any]], encoding: str = "utf-8", **options: str) -> str:
    with open(path, "w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, **options)  # type: ignore[arg-type]
        writer.writerow(header)
        writer.writerows(rows)
    return str(path)


PAIRS: list[list[Any]] = [[name, label] for name, label in zip(NAMES, ["cat", "dog", "cat", "a b"], strict=True)]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("path", "labels"),
        ("image", "diagnosis"),
        ("file_name", "fine_label"),  # Hugging Face
        ("filename", "class"),
        ("Image Path", "Category"),
        ("img", "target"),
        ("filepath", "species"),
        ("ImagePath", "Label"),
    ],
)
def test_usual_names_of_columns_are_taken_and_said(folder: Path, image: str, label: str) -> None:
    source = open_source(write(folder / "t.csv", [image, label], PAIRS))
    assert labels_of(source) == ["cat", "dog", "cat", "a b"]
    said = " ".join(source.remarks)
    assert (f"`{image}`" in said) == (image not in ("path", "image"))
    assert (f"`{label}`" in said) == (label != "Label")


def test_a_table_with_the_names_of_the_contract_says_nothing(folder: Path) -> None:
    rows = [[name, label, "x"] for name, label in PAIRS]
    source = open_source(write(folder / "t.csv", ["path", "label", "class"], rows))
    assert (labels_of(source), source.remarks) == (["cat", "dog", "cat", "a b"], ())
    assert open_source(write(folder / "t.csv", ["", "path"], [["0", name] for name in NAMES])).remarks == ()


def test_columns_can_be_chosen(folder: Path) -> None:
    rows = [[name, label, f"{index % 2}", "no.png"] for index, (name, label) in enumerate(PAIRS)]
    place = write(folder / "t.csv", ["where", "breed", "sex", "file"], rows)
    assert labels_of(open_source(f"{place}?image=where&label=breed")) == ["cat", "dog", "cat", "a b"]
    index = folder / "index"
    assert labels_of(open_source(f"{place}?image=where&label=sex", index)) == ["0", "1", "0", "1"]
    assert labels_of(open_source(f"{place}?image=where&label=breed", index)) == ["cat", "dog", "cat", "a b"]
    with pytest.raises(
        UserError, match=r"has no column 'bred' for .label=: it has breed, sex, file\.\nDid you mean 'br"
    ):
        open_source(f"{place}?image=where&label=bred")
    with pytest.raises(UserError, match="name columns of a table"):
        open_source(f"{folder}?label=breed")
    with pytest.raises(UserError, match="`root` says where the paths of a list or a table begin"):
        open_source(f"{folder}?root={folder}")


def test_blanks_around_names_labels_and_paths_do_not_count(folder: Path) -> None:
    place = folder / "t.csv"
    place.write_text("path, label\n" + "".join(f"{name}, {label} \n" for name, label in PAIRS))
    assert labels_of(open_source(str(place))) == ["cat", "dog", "cat", "a b"]
    place.write_text("label, path\n" + "".join(f"{label}, {name}\n" for name, label in PAIRS))
    assert labels_of(open_source(str(place))) == ["cat", "dog", "cat", "a b"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("ending", "delimiter"), [("csv", ","), ("csv", ";"), ("csv", "\t"), ("tsv", "\t"), ("CSV", ",")]
)
def test_tables_of_any_spreadsheet(folder: Path, encoding: str, ending: str, delimiter: str) -> None:
    rows = [[name, f"ü{label}, {label}"] for name, label in PAIRS]
    place = write(folder / f"t.{ending}", ["path", "label"], rows, encoding, delimiter=delimiter)
    assert labels_of(open_source(place)) == [f"ü{label}, {label}" for _, label in PAIRS]


def test_a_label_column_that_cannot_be_told_is_asked_for_by_name(folder: Path) -> None:
    rows = [[name, label, "3"] for name, label in PAIRS]
    for header, words in (
        (["path", "breed", "age"], "no column is called so; it has breed, age"),
        (["path", "target", "class"], "several columns may hold them, target, class"),
    ):
        source = open_source(write(folder / "t.csv", header, rows))
        assert labels_of(source) is None
        assert words in source.remarks[0]
        with pytest.raises(UserError, match=rf"\?label=COLUMN: it has {header[1]}, {header[2]}"):
            source.selected_labels  # noqa: B018


def test_a_column_that_only_looks_like_labels_costs_nobody_the_table(folder: Path) -> None:
    half = [[name, label if label == "cat" else ""] for name, label in PAIRS]
    source = open_source(write(folder / "t.csv", ["path", "class"], half))
    assert labels_of(source) is None
    assert "`class` is empty in some rows" in source.remarks[0]
    numbers = [[name, 0.25 * index] for index, name in enumerate(NAMES)]
    source = open_source(write(folder / "t.csv", ["path", "target"], numbers))
    assert labels_of(source) is None
    assert "`target` holds fractions" in source.remarks[0]
    with pytest.raises(UserError, match="some have none"):
        open_source(write(folder / "t.csv", ["path", "label"], half))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_for_each_class_is_explained(folder: Path, kind: str) -> None:
    hot = {"path": NAMES, "MEL": [1.0, 0.0, 0.0, 1.0], "NV": [0.0, 1.0, 0.0, 0.0], "BCC": [0.0, 0.0, 1.0, 0.0]}
    if kind == "csv":
        rows = [list(row) for row in zip(*hot.values(), strict=True)]
        source = open_source(write(folder / "t.csv", list(hot), rows))
    else:
        pa.parquet.write_table(pa.table(hot), folder / "t.parquet")
        source = open_source(str(folder / "t.parquet"))
    assert labels_of(source) is None
    assert "a column for each class (MEL, NV, BCC)" in source.remarks[0]
    with pytest.raises(UserError, match=r"\[\['MEL', 'NV', 'BCC'\]\].idxmax\(axis=1\)"):
        source.selected_labels  # noqa: B018


def test_one_column_a_class() -> None:
    assert one_column_a_class({"a": ["1", "0"], "b": ["0", "1"], "c": ["x", "y"]}) == ["a", "b"]
    assert one_column_a_class({"a": [True, False], "b": [False, True]}) == ["a", "b"]
    for rows in ({"a": ["1", "1"], "b": ["0", "1"]}, {"a": [1, 1]}, {"a": [None, 1], "b": [1, 0]}, {}, {"a": []}):
        assert one_column_a_class(rows) == []


def test_find_columns_refuses_what_it_cannot_tell() -> None:
    told = r"no column `path` or `image`: it has a, b.\nIts first line names .*: \?image=COLUMN"
    with pytest.raises(UserError, match=told):
        find_columns("t", ["a", "b"])
    with pytest.raises(UserError, match="several columns that may hold images, file, img"):
        find_columns("t", ["file", "img"])
    assert find_columns("t", ["file", "img"], Chosen(image="file")).image == "file"
    assert find_columns("t", ["path", "Image"]).image == "Image"
    assert find_columns("t", ["image", "Label", "label"]).label == "label"


@pytest.mark.parametrize("way", ["table", "hf", "stream"])
def test_classes_of_hugging_face_are_the_same_in_every_way(folder: Path, way: str) -> None:
    datasets = pytest.importorskip("datasets")
    named = datasets.ClassLabel(names=["zebra", "ant", "none seen", "bee"])
    features = datasets.Features({"img": datasets.Image(), "fine_label": named})

    def opened(labels: list[int]) -> Source:
        rows = {"img": [{"bytes": PNG, "path": None} for _ in NAMES], "fine_label": labels}
        (folder / "hub").mkdir(exist_ok=True)
        file = folder / "hub" / "train.parquet"
        datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
        if way == "table":
            return open_source(str(file))
        return open_source(f"hf:{folder / 'hub'}" + ("?streaming=true" if way == "stream" else ""))

    source = opened([3, 0, 1, 0])
    assert source.classes == ["zebra", "ant", "none seen", "bee"]
    assert source.selected_labels.tolist() == [3, 0, 1, 0]
    assert "`fine_label`" in source.remarks[0]
    assert [source.images.load(key, 3).shape for key in range(4)] == [(5, 6, 3)] * 4
    assert opened([-1, -1, -1, -1]).labels is None  # how the hub marks test images


def test_lists_in_utf_16_are_read(folder: Path) -> None:
    place = folder / "list.txt"
    for encoding in ("utf-16", "utf-8-sig"):  # as PowerShell's > writes them
        place.write_bytes("\r\n".join(f"{name}\t{label}" for name, label in PAIRS).encode(encoding))
        assert labels_of(open_source(str(place))) == ["cat", "dog", "cat", "a b"]
    place.write_bytes("\r\n".join(NAMES).encode("utf-16-le"))
    with pytest.raises(UserError, match="UTF-16 without a byte order mark"):
        open_source(str(place))


def test_declared_classes_with_blanks_around_them(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog "])})
    rows = {"img": [{"bytes": PNG, "path": None}] * 4, "label": [1, 0, 1, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "blanks.parquet")
    source = open_source(str(folder / "blanks.parquet"))
    assert source.labels is not None
    assert (source.classes, source.labels.tolist()) == (["cat", "dog"], [1, 0, 1, 1])
