"""The page of a study as a reader meets it."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Open, from_menu, scroll_through
from synthetic_study import SHOTS, synthetic_study

import layergraft
from layergraft.commands.reproduce.claims import write_claims
from layergraft.commands.reproduce.study_file import MeasuredClaims
from layergraft.commands.study.study_file import as_study
from layergraft.errors import UserError


def page_of(content: Any, folder: Path) -> str:
    return html.unescape(write_claims(as_study(content, MeasuredClaims), folder).read_text())


def test_verdicts_stand_on_top_in_words(tmp_path: Path) -> None:
    page = page_of(synthetic_study({"graft_frozen": 38.0}), tmp_path)
    words = re.findall(r'<span class="word [\w-]+">([\w ]+)</span>', page)
    # Both comparisons with the parents; claim 1 once, the others at equal epochs and at equal compute.
    assert words == ["holds"] * 7 + ["does not hold"] * 2
    assert page.index("beats both parents at every number of shots") < page.index("Top-1 accuracy (%)")


def test_numbers_of_the_bar_are_those_of_the_file(tmp_path: Path) -> None:
    page = page_of(synthetic_study(), tmp_path)
    row = json.loads((tmp_path / "claims.json").read_text())["graft_vs_parents"][0]["rows"][0]["difference"]
    shown = f"+{row['mean']:.2f} [+{row['low']:.2f}, +{row['high']:.2f}]"
    assert f'<th scope="row">1 shot, over mae</th><td><span>{shown}</span></td>' in page


def test_one_seed_and_missing_parts_still_make_a_page(tmp_path: Path) -> None:
    content = synthetic_study(seeds=1, without=("joint", "scratch", "scratch_compute", "cl_mim"))
    content["conflict"] = []
    page = page_of(content, tmp_path)
    assert "not measured" in page
    assert "one seed, so no interval" in page
    assert 'id="conflict"' not in page


def test_report_makes_the_outcome_again(tmp_path: Path) -> None:
    content = synthetic_study()
    (tmp_path / "study.json").write_text(json.dumps(content))
    page = layergraft.report(runs=[str(tmp_path)])
    assert page == tmp_path / "report.html"
    written = json.loads((tmp_path / "claims.json").read_text())["study"]
    assert as_study(written, MeasuredClaims) == as_study(content, MeasuredClaims)
    with pytest.raises(UserError, match="stands alone"):
        layergraft.report(runs=[str(tmp_path), str(tmp_path)])


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (360, "dark")])
def test_every_figure_is_drawn_without_trouble(tmp_path: Path, visit: Open, width: int, theme: str) -> None:
    content = synthetic_study()
    content["arms"][0]["title"] = '<img src=x onerror=alert(1)>\'s "weights"'
    write_claims(as_study(content, MeasuredClaims), tmp_path)
    page = visit(tmp_path / "report.html", width=width, theme=theme)
    scroll_through(page)
    figures = json.loads(page.locator("#figures").text_content())
    names = {"differences-epochs", "differences-compute", "compute", "conflict-share", "conflict-cosine", "search"}
    assert set(figures) == names
    for name in names:
        assert page.locator(f'[data-figure="{name}"] svg path').count() > len(figures[name]["data"]) / 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_downloads(tmp_path: Path, visit: Open) -> None:
    write_claims(as_study(synthetic_study(), MeasuredClaims), tmp_path)
    page = visit(tmp_path / "report.html")
    with page.expect_download() as download:
        from_menu(page, '="differences-epochs"', "csv")
    download.value.save_as(tmp_path / "rows.csv")
    rows = list(csv.DictReader((tmp_path / "rows.csv").open(newline="")))
    assert [row["shots"] for row in rows if row["arm"] == "mae"] == list(SHOTS)
    claims = json.loads((tmp_path / "claims.json").read_text())
    (own,) = (
        d["difference"]
        for d in claims["differences"]
        if (d["budget"], d["against"], d["column"]) == ("epochs", "mae", "50")
    )
    found = next(row for row in rows if (row["arm"], row["shots"]) == ("mae", "50"))
    assert float(found["low"]) == own["low"]
    with page.expect_download() as download:
        from_menu(page, '="compute"', "svg")
    download.value.save_as(tmp_path / "compute.svg")
    assert "<svg" in (tmp_path / "compute.svg").read_text()
