"""`pick` leaves a file to fill in, which holds no image twice, and never takes labels away."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import cv2
import pytest

import layergraft
from layergraft.commands.cli import main
from layergraft.config import EncoderConfig
from layergraft.data.fashion.load import canvases
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError

CONFIG = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=32, depth=2, num_heads=2
)


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    save_encoder(create_encoder(CONFIG, 0), tmp_path / "encoder", {})
    return str(tmp_path / "encoder")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 images, a copy of the first, and a file that is none."""
    root = tmp_path / "photos"
    root.mkdir()
    for index, image in enumerate(canvases("train")[:60]):
        cv2.imwrite(str(root / f"{index:02d}, ä.png"), image)
    (root / "copy.png").write_bytes((root / "00, ä.png").read_bytes())
    (root / "broken.png").write_bytes(b"nothing")
    return root


def rows_of(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_pick_is_filled_in_and_given_back(
    encoder: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pick", "--encoder", encoder, "--data", str(folder), "--method", "maxherding", "--number"]
    assert main([*words, "30", "--out", str(tmp_path / "all.csv")]) == 0
    assert "1 image of 62 left out: unreadable" in capsys.readouterr().err
    assert main([*words, "10", "--out", str(tmp_path / "labels.csv")]) == 0
    ten, thirty = rows_of(tmp_path / "labels.csv"), rows_of(tmp_path / "all.csv")
    assert thirty[:10] == ten
    assert [row["rank"] for row in thirty] == [str(rank) for rank in range(1, 31)]
    assert {row["label"] for row in thirty} == {""}
    paths = {row["path"] for row in thirty}
    assert len(paths) == 30
    assert paths <= {path.name for path in folder.iterdir()} - {"broken.png"}
    assert not {"copy.png", "00, ä.png"} <= paths
    with open(tmp_path / "labels.csv", "w", newline="", encoding="utf-8") as stream:
        filled = csv.DictWriter(stream, list(ten[0]))
        filled.writeheader()
        filled.writerows(row | {"label": "ab"[index % 2]} for index, row in enumerate(ten))
    for method in ("auto", "margin"):
        more = layergraft.pick(
            encoder=encoder,
            data=str(folder),
            number=15,
            labels=tmp_path / "labels.csv",
            method=method,  # type: ignore[arg-type]
            out=tmp_path / f"{method}.csv",
        )
        assert len(more) == 15
        assert not set(more.paths) & {row["path"] for row in ten}
        assert more.paths[0] in repr(more)
        assert rows_of(more.out)[0]["path"] == more.paths[0]
        assert more.to_pandas()["path"].tolist() == more.paths


def test_without_scikit_learn_there_are_picks_too(
    encoder: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    words = ["pick", "--encoder", encoder, "--data", str(folder), "--number", "10", "--out"]
    assert main([*words, str(tmp_path / "labels.csv")]) == 0
    assert main([*words, str(tmp_path / "named.csv"), "--method", "maxherding"]) == 0
    assert rows_of(tmp_path / "labels.csv") == rows_of(tmp_path / "named.csv")
    capsys.readouterr()
    monkeypatch.setattr("layergraft.commands.pick.load_encoder", None)  # nothing is computed
    assert main([*words, str(tmp_path / "clusters.csv"), "--method", "typiclust"]) == 2
    assert "pip install 'layergraft[analysis]', or --method maxherding" in capsys.readouterr().err


def test_labels_are_never_overwritten(
    encoder: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pick", "--encoder", encoder, "--data", str(folder), "--number", "3", "--method", "random", "--out"]
    picked, text = tmp_path / "labels.csv", 'path,label\n"00, ä.png",cat\n'
    for content, message in (
        (text, "holds 1 label to keep"),
        ("a,b\n1,2\n", "no file of picks"),
        ("", "no file of picks"),
        ("path,label,date\n1.png,,May\n", "no file of picks: it has date"),
    ):
        picked.write_text(content, encoding="utf-8")
        assert main([*words, str(picked)]) == 2
        assert message in capsys.readouterr().err
        assert picked.read_text(encoding="utf-8") == content
    picked.unlink()
    for _ in range(2):  # a pick that nobody has filled in is made again
        assert main([*words, str(picked)]) == 0
    assert len(rows_of(picked)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "--number is 0"),
        ({"method": "margin"}, "labels of two classes"),
        ({"out": "picks.txt"}, "a .csv file"),
        ({"labels": "nowhere.csv"}, "no label file"),
    ],
)
def test_what_cannot_be_is_explained(options: dict[str, object], message: str, folder: Path, tmp_path: Path) -> None:
    given = {"encoder": "nowhere", "data": str(folder), "number": 3, "out": str(tmp_path / "picks.csv")}
    with pytest.raises(UserError, match=message):
        layergraft.pick(**(given | options))  # type: ignore[arg-type]


def test_fewer_than_asked_for_is_said(
    encoder: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pick", "--encoder", encoder, "--data", str(folder), "--number", "99", "--method", "maxherding"]
    assert main([*words, "--out", str(tmp_path / "picks.csv")]) == 0
    assert len(rows_of(tmp_path / "picks.csv")) <= 60
    assert "near-duplicates" in capsys.readouterr().err
