"""The file of an index: whole or not there, whoever else opens the same source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layergraft.data.sources.index import Index, IndexBuilder, open_index, read_index
from layergraft.data.sources.open import open_source
from layergraft.errors import UserError

COLUMNS = {"label": np.int32}


def test_two_may_make_an_index_at_once(tmp_path: Path) -> None:
    """The second one starts and ends while the first one writes."""

    def build(path: Path | None, meanwhile: bool) -> Index:
        builder = IndexBuilder(COLUMNS, path)
        builder.add([b"a", b"b"], {"label": builder.class_ids(["x", "y"])})
        if meanwhile:
            assert opened(False).classes == ["x", "y"]
        return builder.finish("same")

    def opened(meanwhile: bool) -> Index:
        return open_index(tmp_path, "place", lambda old: old == "same", lambda path: build(path, meanwhile))

    index = opened(True)
    assert index.classes == ["x", "y"]
    assert [index.names[row] for row in (0, 1)] == [b"a", b"b"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".index"]  # one file: no pair can be torn apart
    assert open_index(tmp_path, "place", lambda old: old == "same", lambda _: pytest.fail("made again"))


@pytest.mark.parametrize("damage", ["empty", "cut", "two files"])
def test_a_damaged_index_is_made_again(tmp_path: Path, damage: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(b"")
    spec, index = str(tmp_path / "images"), tmp_path / "index"
    first = open_source(spec, index)
    file = next(index.glob("*.index"))
    if damage == "two files":  # as earlier versions kept it
        file.with_suffix(".json").write_text("")
    file.write_bytes(file.read_bytes()[:-100] if damage == "cut" else b"")
    assert read_index(file) is None
    assert open_source(spec, index).fingerprint == first.fingerprint
    assert read_index(file) is not None


@pytest.mark.parametrize("number", [2, -1])
def test_classes_without_a_name_are_refused(number: int) -> None:
    index = Index(columns={"label": np.array([0, number], np.int32)}, classes=["x", "y"], signature="", fingerprint="")
    with pytest.raises(UserError, match="damaged"):
        index.labels()


@pytest.mark.parametrize("in_file", [True, False])
def test_names_of_many_batches_some_without_a_row(tmp_path: Path, in_file: bool) -> None:
    builder = IndexBuilder({"label": np.int32, "offset": np.int64}, tmp_path / "x.index" if in_file else None)
    batches = [[b"a", b""], [], [b"\xff\x00c"], [], [b"dd", b"e"]]
    for number, names in enumerate(batches):
        builder.add(names, {"label": [number] * len(names), "offset": [2**40] * len(names)})
    index = builder.finish("")
    wanted = [name for names in batches for name in names]
    assert [index.names[row] for row in range(len(index.names))] == wanted
    assert index.columns["label"].tolist() == [0, 0, 2, 4, 4]
    assert index.columns["offset"].tolist() == [2**40] * 5
    with pytest.raises(IndexError):
        index.names[5]
