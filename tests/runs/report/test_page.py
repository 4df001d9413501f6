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
from conftest import Open, from_menu, scroll_through

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
    layergraft.train(recipe="fashion_paper", data=data, out=root / "run", overrides=SMALL)
    layergraft.analyze(encoder=root / "run", data=data, what=["all"])
    return root / "run"


def test_every_figure_is_drawn(run: Path, visit: Open) -> None:
    page = visit(run / "report.html")
    page.evaluate("for (const fold of document.querySelectorAll('details.fold')) fold.open = true")
    scroll_through(page)
    figures = page.locator("[data-figure]").count()
    analyses = json.loads((run / "analysis.json").read_text())
    assert {entry["analysis"] for entry in analyses} == set(typing.get_args(AnalysisName))
    # A plan that lets all blocks move alike is said in a sentence.
    assert figures >= sum(len(entry["figures"]) for entry in analyses if entry["analysis"] != "suggest") + 3
    for chart in page.locator("[data-figure] > .chart").all():
        assert chart.locator("svg path, svg image").count() > 0
        assert chart.bounding_box()["height"] > 60


def test_names_are_text(run: Path, visit: Open) -> None:
    page = visit(run / "report.html")
    scroll_through(page)
    from_menu(page, '^="neighbours"', "enlarge")
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


def test_neighbours_say_class_and_score(run: Path, visit: Open) -> None:
    """In half of the page, too, where nine pictures stand side by side."""
    page = visit(run / "report.html")
    page.evaluate("document.querySelector('.blocks').style.width = '1130px'")
    page.locator('[data-figure^="neighbours"] > .chart').scroll_into_view_if_needed()
    page.locator('[data-figure^="neighbours"] svg image').first.wait_for()
    words = page.evaluate(
        """[...document.querySelectorAll('[data-figure^="neighbours"] svg .mark-text text')].map(text =>
            [getComputedStyle(text).opacity, [...text.querySelectorAll('tspan')].map(line => line.textContent)])"""
    )
    assert words
    assert {opacity for opacity, _ in words} == {"1"}
    scores = [lines[1] for _, lines in words if lines[1] != "query"]
    assert scores
    assert all(-1 <= float(score) <= 1 for score in scores)


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
    chart = page.locator('[data-figure="loss-mae"] > .chart')
    chart.scroll_into_view_if_needed()
    chart.locator("svg").wait_for()
    small = chart.locator("svg").bounding_box()["width"]
    chart.click()
    large = page.locator("dialog .chart svg")
    large.wait_for()
    assert large.bounding_box()["width"] > 1.5 * small
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    page.locator('[data-figure="loss-mae"] .menu summary').focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    large.wait_for()
    page.locator("#close").click()
    assert not page.locator("dialog").is_visible()


def test_downloads(run: Path, visit: Open, tmp_path: Path) -> None:
    page = visit(run / "report.html")
    figures = json.loads(page.locator("#figures").text_content())
    for name in ("few-shot", next(name for name in figures if name.startswith("neighbours"))):
        files = {}
        for kind in ("svg", "csv", "png"):
            with page.expect_download() as download:
                from_menu(page, f'="{name}"', kind)
            files[kind] = tmp_path / download.value.suggested_filename
            download.value.save_as(files[kind])
            assert files[kind].name == f"{name}.{kind}"
        assert ElementTree.parse(files["svg"]).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert files["png"].read_bytes().startswith(b"\x89PNG")
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
    from_menu(page, '="few-shot"', "enlarge")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_navigation_fits(run: Path, visit: Open) -> None:
    page = visit(run / "report.html")
    assert page.evaluate("(nav => nav.scrollWidth <= nav.clientWidth)(document.querySelector('nav'))")
    inside = page.evaluate(
        "[...document.querySelectorAll('nav a')].every(a => a.getBoundingClientRect().right <= innerWidth)"
    )
    assert inside
    assert page.evaluate("document.querySelector('header').clientHeight") < 90


def test_print_keeps_every_picture(run: Path, visit: Open) -> None:
    """Figures of pictures came out blank: printing drew them anew and did not wait for their images."""
    page = visit(run / "report.html", theme="dark")
    page.evaluate("for (const fold of document.querySelectorAll('details.fold')) fold.open = true")
    page.wait_for_function("document.documentElement.dataset.drawn === 'all'")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 900})
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    state = page.evaluate(
        """[...document.querySelectorAll('[data-figure] > .chart')].map(chart => ({
            name: chart.parentElement.dataset.figure, marks: chart.querySelectorAll('svg path, svg image').length,
            blank: [...chart.querySelectorAll('svg image')].some(i => !i.getAttribute('href')?.startsWith('data:')),
            width: chart.querySelector('svg').getBoundingClientRect().width }))"""
    )  # at once: the print does not wait either
    assert any(one["name"].startswith("neighbours") for one in state)
    assert [one["name"] for one in state if not one["marks"] or one["blank"] or one["width"] > 700] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    dark = page.evaluate(
        "[...document.querySelectorAll('.chart text')].filter(t => getComputedStyle(t).fill === 'rgb(231, 235, 241)')"
    )
    assert dark == []  # no letters for a dark page on white paper
    assert len(page.pdf(print_background=True)) > 100_000


def test_folded_sections_open_by_their_link(run: Path, visit: Open) -> None:
    page = visit(run / "report.html")
    chart = page.locator("#layers [data-figure] > .chart").first
    assert not chart.is_visible()
    page.locator('nav a[href="#layers"]').click()
    chart.locator("svg").wait_for()


def test_lone_figures_take_the_whole_row(run: Path, visit: Open) -> None:
    page = visit(run / "report.html")
    page.evaluate("for (const fold of document.querySelectorAll('details.fold')) fold.open = true")
    gaps = page.evaluate(
        """[...document.querySelectorAll('.blocks')].flatMap(blocks => {
            const rows = {};
            for (const card of blocks.querySelectorAll(':scope > figure')) {
                const box = card.getBoundingClientRect();
                rows[Math.round(box.top)] = (rows[Math.round(box.top)] ?? 0) + box.width;
            }
            return Object.values(rows).map(width => width / blocks.clientWidth); })"""
    )
    assert gaps
    assert min(gaps) > 0.9


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessibility(run: Path, visit: Open, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(run / "report.html", theme=theme)
    page.evaluate("for (const fold of document.querySelectorAll('details.fold')) fold.open = true")
    scroll_through(page)

    def serious() -> list[str]:
        found = axe.run(page).response["violations"]
        return [f"{v['id']}: {v['nodes'][0]['html']}" for v in found if v["impact"] in ("serious", "critical")]

    assert serious() == []
    from_menu(page, '="loss-mae"', "enlarge")
    assert serious() == []


def test_the_first_screen_says_what_results_json_holds(run: Path, visit: Open) -> None:
    """Sentence and tiles, worked out here from the splits alone."""
    page = visit(run / "report.html")
    rows = json.loads((run / "results.json").read_text())
    few = [
        {
            row["split"]: row["value"]
            for row in rows
            if (row["encoder"], row["protocol"]) == (name, "logistic")
            and row["shots"] == "1"
            and row["split"].isdigit()
        }
        for name in ("graft", "pixels", "random")
    ]
    ours, pixels, random = (np.mean(list(values.values())) for values in few)
    better = sum(few[0][split] > few[1][split] for split in few[0])
    text = page.locator("#answer").inner_text()
    assert f"With 2 labels (1 a class) a linear classifier on this encoder names {ours:.1f} % of 24 test images" in text
    assert f"on raw pixels {pixels:.1f} %" in text
    assert f"{ours - pixels:+.1f} points".replace("-", "−") in text
    assert f"better in {better} of {len(few[0])} choices" in text
    assert f"random weights reach {random:.1f} %" in text
    assert ("not learned these classes better" in text) == (ours <= pixels)
    assert page.locator("#answer .tiles > div").count() == 3
    first = page.locator("main section").first.get_attribute("id")
    assert first == "answer"


def test_examples_are_those_of_the_measurement(run: Path, visit: Open) -> None:
    (kept,) = [one for one in json.loads((run / "examples.json").read_text()) if one["encoder"] == "graft"]
    rows = json.loads((run / "results.json").read_text())
    keys = ("encoder", "source", "test", "protocol", "variant", "shots", "split", "pooling", "seed", "n_train")
    (row,) = [row for row in rows if all(row[key] == kept[key] for key in keys)]
    right = sum(count for one, other, count in kept["taken"] if one == other)
    assert sum(kept["images"]) == row["n_test"] == sum(count for *_, count in kept["taken"])
    assert row["value"] == pytest.approx(100 * right / row["n_test"])
    page = visit(run / "report.html")
    assert f"{right} were named rightly ({row['value']:.1f} %)" in page.locator("#mistakes").inner_text()
    hits = [one for one in kept["examples"] if one["label"] == one["predicted"]]
    assert page.locator("#mistakes li.right").count() == len(hits) == min(10, right)
    assert page.locator("#mistakes li.wrong").count() == min(10, row["n_test"] - right)
    assert page.locator('[data-figure="confusion"]').count() == (right < row["n_test"])


def test_several_runs_side_by_side(run: Path, visit: Open, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    page = visit(layergraft.report(runs=[str(run), str(other)], out=tmp_path / "both.html"))
    scroll_through(page)
    rows = page.locator("#results tbody th").all_inner_texts()
    assert rows == ["pixels", "run: graft", "other: graft"]
    figures = json.loads(page.locator("#figures").text_content())
    assert {row["run"] for row in figures["loss-mae"]["data"]} == {"run", "other"}
    samples = page.locator('[data-figure="lr"] .role-legend-symbol path[stroke-dasharray]')
    strokes = [sample.get_attribute("stroke") for sample in samples.all()]
    assert len(strokes) == 2  # a dash a stage
    assert "transparent" not in strokes


def test_size(run: Path) -> None:
    assert (run / "report.html").stat().st_size < 5_000_000
