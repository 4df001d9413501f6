"""What an output directory may be gone on with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from layergraft.config import Recipe, load_recipe
from layergraft.errors import UserError
from layergraft.runs.resume import claim, open_run

KEYS = (
    "data.source",
    "start",
    "stages.graft.plan.source.norm",
    "stages.graft.plan.heads.source",
)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def recipe(key: str, value: str) -> Recipe:
    if key == "stages.graft.plan.source.norm":
        key, value = "stages.graft.plan.source", f"{{norm: '{value}'}}"
    return load_recipe("fashion_paper", {key: value})


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("other", ["images/", "./images", "other/../images", "link", "~/images", "ABSOLUTE"])
def test_same_folder_by_another_path(key: str, other: str, folders: Path) -> None:
    run = folders / "run"
    run.mkdir()
    other = str(folders / "images") if other == "ABSOLUTE" else other
    for options in ("", "?fraction=0.5"):
        claim(run, recipe(key, f"images{options}"))
        assert open_run(run, recipe(key, f"{other}{options}"), "must")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("other", ["other", "images?fraction=0.5", "nowhere", "hf:images", "builtin:fashion-canvas"])
def test_another_folder_is_refused(key: str, other: str, folders: Path) -> None:
    run = folders / "run"
    run.mkdir()
    claim(run, recipe(key, "images"))
    with pytest.raises(UserError, match=key.removesuffix(".norm")):
        open_run(run, recipe(key, other), "auto")


def test_same_words_in_a_key_that_names_no_path(folders: Path) -> None:
    run = folders / "run"
    run.mkdir()
    os.mkdir("patch_embed")
    claim(run, load_recipe("fashion_paper", {"stages.graft.plan.freeze": "[patch_embed]"}))
    with pytest.raises(UserError, match="differs in"):
        open_run(run, load_recipe("fashion_paper", {"stages.graft.plan.freeze": "[./patch_embed]"}), "auto")
