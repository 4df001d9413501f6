"""The stamps of a Debian package (Tux Paint's: transparent pictures of mixed size), as they come out of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from test_skipped import words

from layergraft.commands.cli import main
from layergraft.data.decode import BadImage
from layergraft.data.sources.open import open_source

PACKAGE = "tuxpaint-stamps-default"
INSTALLED = Path("/usr/share/tuxpaint/stamps")


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if INSTALLED.is_dir():
        return INSTALLED
    folder = tmp_path_factory.mktemp("package")
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip(f"{PACKAGE} is not installed, and there is no apt-get to fetch it")
    fetched = subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, capture_output=True)
    packages = list(folder.glob(f"{PACKAGE}*.deb"))
    if fetched.returncode or not packages:
        pytest.skip(f"{PACKAGE} is not installed and cannot be fetched")
    subprocess.run(["dpkg-deb", "-x", packages[0], folder / "content"], check=True)
    return folder / "content" / INSTALLED.relative_to("/")


@pytest.mark.slow
def test_stamps_train_and_evaluate_without_preparation(stamps: Path, tmp_path: Path) -> None:
    source = open_source(str(stamps))
    assert len(source) > 700
    assert len(source.classes) > 10
    sizes = set()
    for key in range(len(source)):
        try:
            sizes.add(source.images.load(key, 3).shape)
        except BadImage as error:
            pytest.fail(f"{source.images.name(key)}: {error}")
    assert len(sizes) > 100
    extra = {"data.holdout": 0.1, "stages.mae.batch_size": 64, "stages.graft.batch_size": 64, "evaluate.shots": 1}
    assert main(words(stamps, tmp_path / "run", **extra)) == 0
    evaluate = ["evaluate", "--encoder", str(tmp_path / "run"), "--data", str(stamps), "--test", "holdout"]
    assert main([*evaluate, "--protocols", "knn", "logistic", "--shots", "1", "2"]) == 0
    rows = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {row["test"] for row in rows} == {"holdout"}
    assert {row["n_test"] for row in rows} == {round(0.1 * len(source))}
    assert not (tmp_path / "run" / "skipped.jsonl").exists()
