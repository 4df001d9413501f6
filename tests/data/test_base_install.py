"""What a plain install reads and writes: tables as text, and a kind word about Parquet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from layergraft.commands.cli import main
from layergraft.config import EncoderConfig
from layergraft.data.sources.open import open_source
from layergraft.data.sources.parquet import arrow_package
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError

EXTRAS = ("pyarrow", "scipy", "sklearn", "lightning_fabric", "torchmetrics", "transformers")
ASKED = f"""
import sys
import layergraft.commands.own_recipe, layergraft.commands.train, layergraft.commands.evaluate
import layergraft.commands.label.run, layergraft.commands.predict.run, layergraft.commands.embed
from layergraft.data.sources.open import open_source
from layergraft.training.launch import launch
assert launch().is_first
assert len(open_source(sys.argv[1])) == 2
print([name for name in {EXTRAS} if name in sys.modules])
"""


@pytest.fixture
def without_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    arrow_package.cache_clear()


def written(folder: Path, content: str | bytes) -> str:
    file = folder / "t.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def test_no_command_of_the_base_waits_for_a_package_of_an_extra(tmp_path: Path) -> None:
    spec = written(tmp_path, "path,label\na.png,x\nb.png,y\n")
    said = subprocess.run([sys.executable, "-c", ASKED, spec], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.usefixtures("without_arrow")
def test_parquet_names_its_extra(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    assert len(open_source(written(tmp_path, "path,label\na.png,x\nb.png,y\n"))) == 2
    for words in (
        ["train", "--data", str(tmp_path / "t.parquet"), "--out", str(tmp_path / "run")],
        ["embed", "--encoder", "nowhere", "--data", str(tmp_path), "--out", str(tmp_path / "f.parquet")],
        ["predict", "--encoder", "x", "--data", "y", "--labels", "z", "--out", str(tmp_path / "p.parquet")],
    ):
        assert main(words) == 2
        assert "layergraft[parquet]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "classes"),
    [
        ("\n\npath,label\n\na.png,x\n\nb.png,y\n", ["x", "y"]),
        ('path,label\n"a, 1.png","x"\nb.png,"say ""y"""\n', ['say "y"', "x"]),
        ("path,label\r\na.png,x\r\nb.png,y\r\n", ["x", "y"]),
        ("path,label\ra.png,x\rb.png,y\r", ["x", "y"]),
        ('path,note,label\na.png,"two\nlines",x\nb.png,,y', ["x", "y"]),
        (b"path,note,label\na.png,caf\xe9,x\nb.png,,y\n", ["x", "y"]),  # what lies in others may be anything
        (b"\xef\xbb\xbfpath,label\na.png,x\nb.png,y\n", ["x", "y"]),
        ("path;label\na.png;x\nb.png;y\n".encode("utf-16"), ["x", "y"]),
        ("path,label\na.png," + "x" * 200_000 + "\nb.png,y\n", ["x" * 200_000, "y"]),
    ],
)
def test_text_is_read_as_it_was_meant(tmp_path: Path, content: str | bytes, classes: list[str]) -> None:
    source = open_source(written(tmp_path, content))
    assert len(source) == 2
    assert source.classes == classes


@pytest.mark.parametrize(
    "content",
    [
        'path,label\n"a.png,x\nb.png,y\n',
        'path,label\na.png,"x\nb.png,y\n',
        "path,label\na.png\n",
        "path,label\na.png,x,1\n",
        b"path,label\na.png,caf\xe9\n",
        b"path,label,\xe9\na.png,x,1\n",
        "",
    ],
)
def test_text_that_is_no_table_is_refused(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(UserError, match="cannot be read as a table"):
        open_source(written(tmp_path, content))


def test_features_as_arrays(tmp_path: Path) -> None:
    encoder = create_encoder(EncoderConfig(img_size=36, patch_size=9, embed_dim=16, depth=1, num_heads=2), 0)
    save_encoder(encoder, tmp_path / "encoder", {})
    out = tmp_path / "features.npz"
    words = ["--encoder", str(tmp_path / "encoder"), "--data", "builtin:fashion-canvas:test?fraction=0.002"]
    assert main(["embed", *words, "--out", str(out)]) == 0
    arrays = np.load(out)
    assert arrays["feature"].shape[0] == len(arrays["key"]) == len(arrays["name"]) == len(arrays["label"]) == 10


def test_features_under_the_ending_of_text_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["embed", "--encoder", "nowhere", "--data", str(tmp_path), "--out", str(tmp_path / "f.csv")]
    assert main(words) == 2
    assert "Features are Parquet or .npz, not .csv" in capsys.readouterr().err
