"""The file of an index: whole or not there, whoever else opens the same source."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from layergraft.data.sources.index import Index, IndexBuilder, open_index, read_index
from layergraft.data.sources.open import open_source
from layergraft.errors import UserError

SCHEMA = pa.schema([("path", pa.large_binary()), ("label", pa.int32())])


def test_two_may_make_an_index_at_once(tmp_path: Path) -> None:
    """The second one starts and ends while the first one writes."""

    def build(path: Path | None, meanwhile: bool) -> Index:
        builder = IndexBuilder(SCHEMA, path, "path")
        builder.add({"path": pa.array([b"a", b"b"], pa.large_binary()), "label": builder.class_ids(["x", "y"])})
        if meanwhile:
            assert opened(False).classes == ["x", "y"]
        return builder.finish("same")

    def opened(meanwhile: bool) -> Index:
        return open_index(tmp_path, "place", lambda old: old == "same", lambda path: build(path, meanwhile))

    index = opened(True)
    assert index.classes == ["x", "y"]
    assert [index.names("path")[row] for row in (0, 1)] == [b"a", b"b"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"]  # one file: no pair can be torn apart
    assert open_index(tmp_path, "place", lambda old: old == "same", lambda _: pytest.fail("made again"))


@pytest.mark.parametrize("damage", ["empty", "cut", "two files"])
def test_a_damaged_index_is_made_again(tmp_path: Path, damage: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(b"")
    spec, index = str(tmp_path / "images"), tmp_path / "index"
    first = open_source(spec, index)
    file = next(index.glob("*.arrow"))
    if damage == "two files":  # as earlier versions kept it
        file.with_suffix(".json").write_text("")
    file.write_bytes(file.read_bytes()[:-100] if damage == "cut" else b"")
    assert read_index(file) is None
    assert open_source(spec, index).fingerprint == first.fingerprint
    assert read_index(file) is not None


@pytest.mark.parametrize("number", [2, -1])
def test_classes_without_a_name_are_refused(number: int) -> None:
    table = pa.table({"path": pa.array([b"a", b"b"], pa.large_binary()), "label": pa.array([0, number], pa.int32())})
    index = Index(table=table, classes=["x", "y"], signature="", fingerprint="")
    with pytest.raises(UserError, match="damaged"):
        index.labels()
