"""The documentation's code blocks run, and the site builds without a warning.

`python` and `sh` blocks are run page by page in a directory where the runs they speak of exist, shortened. Commands on
ImageNet are checked without it; `console` and `bash` blocks (installing, a Slurm script) are not run.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from dicom_files import dicom
from slide_files import tissue, write_slide

import layergraft
from layergraft.commands.ablate.arms import arm_recipes
from layergraft.commands.ablate.vary import parse_vary
from layergraft.commands.cli import build_parser, main
from layergraft.config import load_recipe
from layergraft.config.yaml_text import read_yaml
from layergraft.data.fashion.load import CLASSES, embedded

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
QUIET = {"NO_MKDOCS_2_WARNING": "1"}  # an advertisement of the theme's authors
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHORT: dict[str, Any] = {
    "data.holdout": 60,
    "data.workers": 0,
    "encoder.embed_dim": 16,
    "encoder.depth": 4,
    "encoder.num_heads": 2,
    "stages.mae.epochs": 0.1,
    "stages.graft.epochs": 0.05,
    "stages.mae.warmup_epochs": 0,
    "stages.graft.warmup_epochs": 0,
    "stages.mae.batch_size": 32,
    "stages.graft.batch_size": 32,
    "stages.graft.objective.projector": [16, 16, 128],  # as wide as the predictor of chosen recipes
    "monitor.every": 0,
    "evaluate.shots": [1, 2],
    "evaluate.splits": 2,
}
SHORT_WORDS = [
    word
    for key, value in SHORT.items()
    for word in (f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)]))
]


def blocks(page: str, kind: str) -> list[str]:
    return [text for own, text in BLOCK.findall((ROOT / "docs" / page).read_text()) if own == kind]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with images, `runs/demo` and `runs/mine`."""
    root = tmp_path_factory.mktemp("docs")
    random = np.random.default_rng(0)
    for part, count in (("train", 80), ("test", 20)):
        for index in range(count):
            folder = root / "images" / part / ("cats", "dogs")[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{index}.png"), random.integers(0, 256, (72, 72, 3), dtype=np.uint8))
    (root / "plans.yaml").write_text("arms: {even: {}, slow: {stages.graft.plan.lr_scale: [0.3, 1]}}\nsearch: 1\n")
    layergraft.train(recipe="fashion_tiny", out=root / "runs" / "demo", overrides=SHORT)
    colour = SHORT | {"encoder.img_size": 72, "encoder.in_chans": 3, "data.source": str(root / "images" / "train")}
    layergraft.train(recipe="fashion_tiny", out=root / "runs" / "mine", overrides=colour)
    return root


def write_microscopy(root: Path) -> None:
    tifffile, zarr = pytest.importorskip("tifffile"), pytest.importorskip("zarr")
    writer = pytest.importorskip("ome_zarr.writer")
    random = np.random.default_rng(0)
    (root / "cells").mkdir()
    for index in range(80):
        deep = random.integers(0, 4000, (5, 48, 48)).astype(np.uint16)
        axes = {"axes": "CYX", "mode": "composite"}
        tifffile.imwrite(root / "cells" / f"{index}.tif", deep, imagej=True, metadata=axes)
    deep = random.integers(0, 4000, (3, 2, 64, 64)).astype(np.uint16)
    group = zarr.open_group(str(root / "zarrs" / "0.ome.zarr"), mode="w", zarr_format=3)
    writer.write_image(deep, group, axes="czyx")
    channels = [{"label": name, "color": "FF0000", "active": True} for name in ("DAPI", "GFP", "RFP")]
    group.attrs["ome"] = {**group.attrs["ome"], "omero": {"channels": channels}}
    for index in range(1, 80):
        shutil.copytree(root / "zarrs" / "0.ome.zarr", root / "zarrs" / f"{index}.ome.zarr")


def write_pathology(root: Path) -> None:
    pytest.importorskip("openslide")
    pixels = tissue(1024, 1536, 500)
    first = write_slide(root / "slides" / "benign" / "0.svs", pixels)
    names = [f"{('benign', 'tumour')[index % 2]}/{index}.svs" for index in range(10)]
    for name in names[1:]:
        (root / "slides" / name).parent.mkdir(exist_ok=True)
        shutil.copy(first, root / "slides" / name)
    (root / "slides.csv").write_text("path,label\n" + "".join(f"slides/{name},{name[:6]}\n" for name in names))


def write_radiology(root: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    random = np.random.default_rng(0)
    for folder in ("ct", "mri"):
        (root / folder).mkdir()
    for index in range(80):
        deep = random.integers(0, 4000, (6, 48, 48)).astype(np.int16)
        (root / "ct" / f"{index}.dcm").write_bytes(dicom(deep[0], RescaleIntercept="-1024"))
        nibabel.save(nibabel.Nifti1Image(np.moveaxis(deep, 0, 2), np.eye(4)), root / "mri" / f"{index}.nii.gz")


def write_remote_sensing(root: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    random = np.random.default_rng(0)
    for folder in ("tiles", "scenes"):
        (root / folder).mkdir()
    how = {"photometric": "minisblack", "planarconfig": "separate"}
    for index in range(80):
        tifffile.imwrite(
            root / "tiles" / f"{index}.tif", random.integers(0, 4000, (6, 48, 48)).astype(np.uint16), **how
        )
    scene = random.integers(0, 4000, (6, 640, 640)).astype(np.uint16)
    tifffile.imwrite(root / "scenes" / "0.tif", scene, tile=(128, 128), compression="zlib", **how)


def write_astronomy(root: Path) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    random = np.random.default_rng(0)
    for folder in ("sky", "frames"):
        (root / folder).mkdir()
    for index in range(80):
        fits.PrimaryHDU(random.normal(100, 10, (48, 48)).astype(np.float32)).writeto(root / "sky" / f"{index}.fits")
    fits.PrimaryHDU(random.normal(100, 10, (640, 640)).astype(np.float32)).writeto(root / "frames" / "0.fits")


FIELDS = {  # page -> what writes the small files of its field, as that field's software does
    "microscopy.md": write_microscopy,
    "pathology.md": write_pathology,
    "radiology.md": write_radiology,
    "remote_sensing.md": write_remote_sensing,
    "astronomy.md": write_astronomy,
}


def run_command(line: str, page: str) -> None:
    words = shlex.split(line, comments=True)
    start = words.index("layergraft") + 1
    command, arguments = words[start], words[start + 1 :]
    if "imagenet/" in line or start > 1 or command == "demo":
        known, rest = build_parser().parse_known_args([command, *arguments])
        if command == "train":
            assert main(["plan", "--recipe", known.recipe, *rest]) == 0
        else:
            assert not rest
    elif command == "train":
        folder = Path(arguments[arguments.index("--out") + 1] + f"-{page}")
        arguments[arguments.index("--out") + 1] = str(folder)
        refused = "never" in arguments and folder.exists()
        assert main([command, *arguments, *SHORT_WORDS]) == (2 if refused else 0)
    else:
        trained = [name for name in ("linear", "finetune", "segment") if name in arguments]
        short = [word for name in trained for word in (f"--{name}.epochs", "0.05", f"--{name}.warmup_epochs", "0")]
        if command == "ablate" or (command == "plan" and "--data" in arguments):
            short += SHORT_WORDS  # a plan for images of one's own asks for as many shots as train does
        assert main([command, *arguments, *short]) == 0
        if command == "pick":
            fill_in(Path(arguments[arguments.index("--out") + 1]))


def fill_in(file: Path) -> None:
    """Label the built-in images that were picked, as the reader does by hand."""
    with open(file, newline="") as stream:
        rows = list(csv.DictReader(stream))
    classes = embedded("train")[1]
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(row | {"label": CLASSES[classes[int(row["path"].split()[1])]]} for row in rows)


@pytest.mark.parametrize("kind", ["sh", "python", "yaml"])
def test_there_are_code_blocks(kind: str) -> None:
    """Without any, the tests of every block would be none."""
    assert any(blocks(page, kind) for page in PAGES)


def test_the_slurm_script_that_is_shown_is_the_one_in_examples() -> None:
    assert (ROOT / "examples" / "train.sbatch").read_text() in blocks("imagenet.md", "bash")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_code_blocks(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    if page in FIELDS:
        FIELDS[page](place)

    def short(function: Any, **arguments: Any) -> Any:
        return function(**(arguments | {"overrides": SHORT | arguments.get("overrides", {})}))

    for name in ("train", "ablate"):
        monkeypatch.setattr(layergraft, name, partial(short, getattr(layergraft, name)), raising=False)
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            run_command(line, page)
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), {})


@pytest.mark.parametrize("page", PAGES)
def test_recipes_are_valid(page: str, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        for part in block.splitlines() if block.startswith("plan:") else [block]:
            if part.startswith("plan:"):
                layergraft.plan(recipe="fashion_tiny", overrides={"stages.graft.plan": yaml.safe_load(part)["plan"]})
            else:
                (tmp_path / "recipe.yaml").write_text(part)
                layergraft.plan(recipe=tmp_path / "recipe.yaml")


def test_files_of_arms_are_valid() -> None:
    shown = blocks("ablate.md", "text")
    assert len(shown) == 2
    for block in shown:
        vary = parse_vary(read_yaml(block), "ablate.md")
        assert len(arm_recipes(vary, lambda _, changes: load_recipe("fashion_tiny", changes))) == len(vary.arms)


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | QUIET)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    assert (tmp_path / "index.html").is_file()
    missing = [
        f"{page.name}: {target}"
        for page in tmp_path.glob("*.html")
        for target in re.findall(r'<img[^>]* src="([^"]+)"', page.read_text())
        if not target.startswith("data:") and not (page.parent / target).is_file()
    ]
    assert missing == []
