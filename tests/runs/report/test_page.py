"""report.html as a reader meets it."""

from __future__ import annotations

import csv
import json
import shutil
import typing
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Open, scroll_through

import layergraft
from layergraft.config.analysis import AnalysisName

HOSTILE = "<img src=x onerror=alert(1)>.png"
CLASSES = ("<b onmouseover=alert(2)>bold", "plain & simple")
SMALL: dict[str, Any] = {
    "data.holdout": 24,
    "data.workers": 0,
    "encoder.img_size": 16,
    "encoder.patch_size": 4,
    "encoder.in_chans": 3,
    "encoder.embed_dim": 16,
    "encoder.depth": 2,
    "encoder.num_heads": 2,
    "stages.mae.epochs": 2,
    "stages.mae.batch_size": 16,
    "stages.graft.epochs": 2,
    "stages.graft.batch_size": 16,
    "stages.graft.objective.projector": [16, 16, 8],
    "stages.graft.objective.predictor": [16, 8],
    "engine.log_every": 1,
    "monitor.every": 1,
    "evaluate.shots": [1, 2],
    "evaluate.splits": 2,
}


def write_images(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for index in range(count):
        own = folder / CLASSES[index % 2]
        own.mkdir(parents=True, exist_ok=True)
        image = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        image[:, :, index % 2] //= 4
        cv2.imwrite(str(own / (HOSTILE if index < 2 else f"{index}.png")), image)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with every analysis."""
    root = tmp_path_factory.mktemp("report")
    write_images(root / "images" / "train", 120)
    write_images(root / "images" / "test", 24)
    data = str(root / "images" / "train")
    layergraft.train(recipe="fashion_tiny", data=data, out=root / "run", overrides=SMALL)
    layergraft.analyze(encoder=root / "run", data=data, what=["all"])
    return root / "run"


def test_every_figure_is_drawn(run: Path, visit: Open) -> None:
    page = visit(run / "report.html")
    scroll_through(page)
    figures = page.locator("[data-figure]").count()
    analyses = json.loads((run / "analysis.json").read_text())
    assert {entry["analysis"] for entry in analyses} == set(typing.get_args(AnalysisName))
    assert figures >= sum(len(entry["figures"]) for entry in analyses) + 3
    for chart in page.locator("[data-figure] > .chart").all():
        assert chart.locator("svg path, svg image").count() > 0
        assert chart.bounding_box()["height"] > 60


def test_names_are_text(run: Path, visit: Open) -> None:
    page = visit(run / "report.html")
    scroll_through(page)
    page.locator('[data-figure^="neighbours"] [data-do="enlarge"]').click()
    page.locator("dialog summary").click()
    assert page.locator("dialog td", has_text=HOSTILE).count() > 0
    assert page.locator("dialog td", has_text=CLASSES[0]).count() > 0
    assert page.locator("img[src='x'], b[onmouseover]").count() == 0


def test_hover_shows_values(run: Path, visit: Open) -> None:
    page = visit(run / "report.html")
    page.locator('[data-figure^="neighbours"] > .chart').scroll_into_view_if_needed()
    page.locator('[data-figure^="neighbours"] svg image').first.hover()
    tip = page.locator("#tip")
    tip.wait_for(state="visible")
    assert "query" in tip.inner_text()
    assert tip.locator("script, b[onmouseover]").count() == 0


def test_theme_switch(run: Path, visit: Open) -> None:
    page = visit(run / "report.html", theme="dark")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    label = page.locator("[data-figure] svg text").first
    label.wait_for()
    before, background = label.get_attribute("fill"), page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.wait_for_function(
        "before => document.querySelector('[data-figure] svg text')?.getAttribute('fill') !== before", arg=before
    )
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background


def test_enlarge_by_pointer_and_by_keyboard(run: Path, visit: Open) -> None:
    page = visit(run / "report.html")
    chart = page.locator('[data-figure="loss"] > .chart')
    chart.scroll_into_view_if_needed()  # figures are drawn when they come into view
    chart.locator("svg").wait_for()
    small = chart.locator("svg").bounding_box()["width"]
    chart.click()
    large = page.locator("dialog .chart svg")
    large.wait_for()
    assert large.bounding_box()["width"] > 1.5 * small
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    page.locator('[data-figure="loss"] [data-do="enlarge"]').focus()
    page.keyboard.press("Enter")
    large.wait_for()
    page.locator("#close").click()
    assert not page.locator("dialog").is_visible()


def test_downloads(run: Path, visit: Open, tmp_path: Path) -> None:
    page = visit(run / "report.html")
    figures = json.loads(page.locator("#figures").text_content())
    for name in ("few-shot", next(name for name in figures if name.startswith("neighbours"))):
        files = {}
        for kind in ("svg", "csv"):
            with page.expect_download() as download:
                page.locator(f'[data-figure="{name}"] [data-do="{kind}"]').click()
            files[kind] = tmp_path / download.value.suggested_filename
            download.value.save_as(files[kind])
            assert files[kind].name == f"{name}.{kind}"
        assert ElementTree.parse(files["svg"]).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        with open(files["csv"], newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(figures[name]["data"])
        for row, own in zip(rows, figures[name]["data"], strict=True):
            for column, text in row.items():
                assert text == str(own[column]) or float(text) == own[column]


def test_phone(run: Path, visit: Open) -> None:
    page = visit(run / "report.html", width=360)
    scroll_through(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator('[data-figure="few-shot"] [data-do="enlarge"]').click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessibility(run: Path, visit: Open, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(run / "report.html", theme=theme)
    scroll_through(page)

    def serious() -> list[str]:
        found = axe.run(page).response["violations"]
        return [f"{v['id']}: {v['nodes'][0]['html']}" for v in found if v["impact"] in ("serious", "critical")]

    assert serious() == []
    page.locator('[data-figure="loss"] [data-do="enlarge"]').click()
    assert serious() == []


def test_several_runs_side_by_side(run: Path, visit: Open, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    page = visit(layergraft.report(runs=[str(run), str(other)], out=tmp_path / "both.html"))
    scroll_through(page)
    rows = page.locator("#results tbody th").all_inner_texts()
    assert rows == ["pixels", "run: graft", "other: graft"]
    figures = json.loads(page.locator("#figures").text_content())
    assert {row["run"] for row in figures["loss"]["data"]} == {"run", "other"}


def test_size(run: Path) -> None:
    assert (run / "report.html").stat().st_size < 5_000_000
