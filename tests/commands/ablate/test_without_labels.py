"""Studies that are chosen, or measured, without labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import layergraft
from layergraft.commands.cli import main
from layergraft.commands.reproduce.scales import SCALES
from layergraft.commands.reproduce.study import scale_for
from layergraft.commands.study.accuracy import SeedImages
from layergraft.commands.study.ranking import TITLES
from layergraft.commands.study.settings import contrastive_view
from layergraft.config.loading import load_recipe
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.evaluation.single_images import CONTRASTIVE

RECIPE = """
encoder: {name: vit_tiny_patch16_224, img_size: 36, in_chans: 1, patch_size: 18, embed_dim: 16, depth: 2, num_heads: 2}
data: {source: "builtin:fashion-canvas?fraction=0.01", holdout: 40, workers: 0}
stages:
  mae: {objective: {name: mae, decoder: {embed_dim: 16, depth: 1, num_heads: 2}}, epochs: 1, batch_size: 32}
  graft: {objective: {name: simclr, projector: [16, 16, 8]}, epochs: 1, batch_size: 32}
evaluate: {protocols: [logistic, knn], shots: [1, 2], splits: 1}
"""
ARMS = "arms: {even: {}, slow: {stages.graft.plan.lr_scale: [0.3, 1]}, mae: {stages.graft: null}}\n"


def study(folder: Path, more: str, **options: Any) -> dict[str, Any]:
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "plans.yaml").write_text(ARMS + more)
    layergraft.ablate(
        recipe=folder / "recipe.yaml",
        vary=folder / "plans.yaml",
        seeds=2,
        out=folder / "out",
        jobs=1,
        **options,
    )
    content: dict[str, Any] = json.loads((folder / "out" / "study.json").read_text())
    return content


def unlabelled(folder: Path) -> Path:
    """Images in one folder, without classes."""
    images = folder / "images"
    images.mkdir()
    random = np.random.default_rng(0)
    for number in range(60):
        Image.fromarray(random.integers(0, 256, (40, 40), dtype=np.uint8)).save(images / f"{number}.png")
    return images


def page(folder: Path) -> str:
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_images_without_labels_are_enough(tmp_path: Path) -> None:
    """Everything that a study with labels says is said, of views."""
    found = study(tmp_path, "choose: label_free\nsearch: [1, 2]\n", data=str(unlabelled(tmp_path)))
    assert (found["protocol"]["choose"], found["protocol"]["labelled"]) == ("label_free", False)
    for arm in found["arms"]:
        assert [seed["test"].keys() for seed in arm["seeds"]] == [{"1", "2"}] * 2
        if arm["name"] != "pixels":
            assert arm["seeds"][0]["test"] != arm["seeds"][0]["holdout"]  # other images
        assert len(arm["search"]) == (0 if arm["name"] in ("random", "pixels") else 2)
        for chosen in (trial for trial in arm["search"] if trial["chosen"]):
            assert chosen["holdout"] == max(trial["holdout"] for trial in arm["search"])
    table = (tmp_path / "out" / "table.tex").read_text()
    assert "1 view & 2 views" in table
    assert "on views of held-out images" in table
    assert "No label was used." in page(tmp_path)
    assert "views of each image" in page(tmp_path)
    assert "test images" not in page(tmp_path).split('id="made"')[0].replace("other held-out images", "")


def test_labels_judge_what_was_chosen_without_them(tmp_path: Path) -> None:
    found = study(tmp_path, "choose: label_free\nscores: true\nsearch: 1\n")
    assert found["protocol"]["labelled"]
    trained = [arm for arm in found["arms"] if arm["name"] != "pixels"]
    for arm in trained:
        for seed in arm["seeds"]:
            assert seed["test"].keys() == {"1", "2", "knn"}
            assert seed["holdout"].keys() == {"1", "2"}
            assert seed["scores"].keys() == TITLES.keys() - ({"loss"} if arm["name"] == "random" else set())
    assert "chosen without labels" in page(tmp_path)
    assert "over 4 arms and 2 seeds" in page(tmp_path)


def test_scores_change_no_other_number(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    studies = [study(tmp_path / "with", "scores: true\nsearch: 1\n"), study(tmp_path / "without", "search: 1\n")]
    for arms in zip(*(found["arms"] for found in studies), strict=True):
        for seeds in zip(*(arm["seeds"] for arm in arms), strict=True):
            assert seeds[0]["test"] == seeds[1]["test"]
            assert seeds[0]["holdout"] == seeds[1]["holdout"]
    assert "scores" not in studies[1]["arms"][0]["seeds"][0]
    assert "without labels?" not in page(tmp_path / "without")


def test_scores_of_images_of_which_some_cannot_be_read(tmp_path: Path) -> None:
    """They are left out as in every measurement, and what is not finite is no score."""
    random = np.random.default_rng(0)
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(40):
            pixels = random.integers(0, 256, (40, 40), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    for number in (0, 7, 8):
        (tmp_path / "train" / "a" / f"{number}.png").write_bytes(b"no picture")
    found = study(
        tmp_path,
        "scores: true\nsearch: 1\n",
        data=str(tmp_path / "train"),
        overrides={"data.max_bad": 0.5, "data.holdout": 16},
    )
    scores = [seed["scores"] for arm in found["arms"] for seed in arm["seeds"] if arm["name"] != "pixels"]
    assert all(np.isfinite(list(of_seed.values())).all() for of_seed in scores)
    assert all("single_images" in of_seed for of_seed in scores)


def test_views_are_those_of_the_contrastive_loss() -> None:
    """What they change is not to matter; all arms are judged by the same ones."""
    usual, grey = (load_recipe("fashion_paper", {"stages.graft.views.first.gray": share}) for share in (0.0, 0.8))
    alone = load_recipe("fashion_paper", {"stages.graft.objective": {"name": "mae"}, "stages.graft.views": {}})
    assert contrastive_view([grey, usual]) == grey.stages["graft"].views["first"]
    assert contrastive_view([alone, usual, grey]) == usual.stages["graft"].views["first"]
    assert contrastive_view([alone]) == CONTRASTIVE
    scale, _ = scale_for(SCALES["colour"], str(SCALES["colour"].source), print)
    assert (scale.view.gray, scale.view.crop_scale) == (0.8, (0.2, 1.0))


def test_scores_that_are_not_finite_are_left_out() -> None:
    recipe = load_recipe("fashion_paper", {"data.source": "builtin:fashion-canvas?fraction=0.03"})
    images, encoder = SeedImages(recipe), create_encoder(recipe.encoder, 0).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    assert "alpha_req" not in images.scores(encoder, CONTRASTIVE)


def test_scores_ask_for_what_they_need_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="scikit-learn"):
        study(tmp_path, "scores: true\n")
    with pytest.raises(UserError, match="scikit-learn"):
        layergraft.reproduce(scale="colour", out=tmp_path / "claims")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", [None, "unlabelled"])
@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        ("choose: label_free", ["--evaluate.shots", "50"], "by few views of each"),
        ("choose: label_free", ["--data.holdout", "3"], "Only 3 images"),
        ("choose: labels", [], "choose"),
    ],
)
def test_refusals(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: str,
    options: list[str],
    message: str,
    data: str | None,
) -> None:
    """With labels and test images as without."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "plans.yaml").write_text(ARMS + more)
    words = ["ablate", "--recipe", str(tmp_path / "recipe.yaml"), "--vary", str(tmp_path / "plans.yaml")]
    words += ["--data", str(unlabelled(tmp_path))] if data else []
    words += ["--out", str(tmp_path / "out"), *options]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
