"""Sources that a fuzz met with a bug or waited for without end: refused in a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import two_classes

from layergraft.data.sources.labels import label_texts
from layergraft.data.sources.open import open_source
from layergraft.errors import UserError


@pytest.mark.parametrize(
    ("braces", "message"),
    [
        ("{0..99999999999}", "more than 1,000,000 shards"),
        ("{000..999}{0000..9999}", "more than 1,000,000 shards"),
        ("{0.." + "9" * 5000 + "}", "more than 1,000,000 shards"),
        ("{5..1}", "counts backwards"),
    ],
)
def test_braces_that_stand_for_too_many_shards(tmp_path: Path, braces: str, message: str) -> None:
    """Their names alone took all memory."""
    with pytest.raises(UserError, match=message):
        open_source(f"{tmp_path}/{braces}.tar")


@pytest.mark.parametrize("spec", ["images\ud800", "t.csv?image=\ud800", "images?seed=\udfff"])
def test_half_a_character(spec: str) -> None:
    with pytest.raises(UserError, match="half a character"):
        open_source(spec)


@pytest.mark.parametrize("spec", ["zip://x::y", "zip://", "hf:", "hf::", "hf::train", "hf:?streaming=true"])
def test_half_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    if spec.startswith("hf:"):
        pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="cannot be opened"):
        open_source(spec)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", "null"),
        ("state.json", "[]"),
        ("state.json", '{"_data_files": null}'),
        ("state.json", '{"_data_files": [{}]}'),
        ("state.json", "{"),
        ("dataset_info.json", "[]"),
        ("dataset_info.json", '"x"'),
        ("dataset_info.json", "{"),
    ],
)
def test_damaged_files_of_a_saved_dataset(tmp_path: Path, file: str, content: str) -> None:
    place = saved(tmp_path)
    (place / file).write_text(content)
    with pytest.raises(UserError, match=r"saved' cannot be opened"):
        open_source(f"hf:{place}")


def test_a_pipe_in_a_saved_dataset(tmp_path: Path) -> None:
    """Whoever opened it waited for ever, in a thread that no signal reaches."""
    place = saved(tmp_path)
    (file,) = place.glob("*.arrow")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match="is no regular file"):
        open_source(f"hf:{place}")


def saved(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    paths = [str(path) for path in sorted(two_classes(folder / "images", 4).rglob("*.png"))]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": paths}, features=features).save_to_disk(str(folder / "saved"))
    return folder / "saved"


@pytest.mark.parametrize("labels", [[0, 2], [0, 2**40], ["a"]])
def test_numbers_of_classes_that_are_not_there(labels: list[int] | list[str]) -> None:
    with pytest.raises(UserError, match="no numbers of the 2 classes"):
        label_texts(labels, ["a", "b"])
