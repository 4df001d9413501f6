"""The default of `pick` and the table of its methods are what the committed study found."""

from __future__ import annotations

import importlib
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import load_encoder
from layergraft.evaluation.cache import features_of
from layergraft.evaluation.features import center_and_normalize
from layergraft.evaluation.picking.methods import AUTO

ROOT = Path(__file__).parents[2]
PAGE, STUDY = ROOT / "docs" / "thirty_labels.md", ROOT / "docs" / "pick_study.json"


def test_the_script_makes_the_table_again(tmp_path: Path) -> None:
    emptied = re.sub(r"(<!-- picks -->\n).*?(<!-- end picks -->)", r"\1\2", PAGE.read_text(), flags=re.DOTALL)
    assert len(emptied) < len(PAGE.read_text())
    (tmp_path / "page.md").write_text(emptied)
    words = [sys.executable, str(ROOT / "tools" / "pick_study.py"), "--study", str(STUDY)]
    subprocess.run([*words, "--page", str(tmp_path / "page.md")], check=True, capture_output=True)
    assert (tmp_path / "page.md").read_text() == PAGE.read_text()


@pytest.mark.parametrize("labels", ["30", "100"])
def test_the_default_beats_chance_on_test_images(labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = json.loads(STUDY.read_text())
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    assert importlib.import_module("pick_study").best(study["held-out"]) == AUTO
    picked, chance = (study["test"][method][labels] for method in (AUTO, "random"))
    assert len(picked) == len(chance) >= 20
    assert lower_end(picked, chance) > 0


def lower_end(picked: list[float], chance: list[float]) -> float:
    """Mean gain less two standard errors."""
    gains = [a - b for a, b in zip(picked, chance, strict=True)]
    return statistics.mean(gains) - 2 * statistics.stdev(gains) / len(gains) ** 0.5


@pytest.mark.slow
def test_the_default_beats_chance_with_a_demo_that_is_trained_again(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    pick_study = importlib.import_module("pick_study")
    monkeypatch.setattr(pick_study, "METHODS", (AUTO, "random"))
    monkeypatch.setattr(pick_study, "LABELS", (30,))
    source = open_source("builtin:fashion-canvas:test")
    features = features_of(load_encoder(str(demo.encoder)), source, ["cls"])["cls"]
    found = pick_study.measure(center_and_normalize(features), source.selected_labels, 20, 2000)
    assert lower_end(found[AUTO]["30"], found["random"]["30"]) > 0
