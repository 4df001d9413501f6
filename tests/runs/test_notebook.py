"""What a notebook shows of results: tables, of text that cannot act."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from result_rows import result_row

from layergraft.commands.pick import Picks
from layergraft.commands.predict.run import Predicted
from layergraft.runs.figure import Figure
from layergraft.runs.findings import Entry
from layergraft.runs.layout import Run
from layergraft.runs.notebook import html_table
from layergraft.runs.results import Results, summarize, write_results

ROW = result_row(
    encoder="<b>", protocol="knn", variant=None, shots="100%", value=50.0, n_train=10, n_test=40
).with_interval()


def test_names_are_text() -> None:
    assert html_table("a & b", ["c"], [["<img>"]]) == (
        "<p>a &amp; b</p><table><tr><th>c</th></tr><tr><td>&lt;img&gt;</td></tr></table>"
    )


def test_results_and_the_run_that_has_them(tmp_path: Path) -> None:
    shown = Results.of([ROW])._repr_html_()
    assert "&lt;b&gt;" in shown
    assert "50.0 (35.2–64.8)" in shown
    write_results(tmp_path / "results.json", [ROW])
    run = Run(out=tmp_path, encoder=tmp_path, results=tmp_path / "results.json", report=tmp_path / "report.html")
    assert shown in run._repr_html_()


def test_a_table_of_predictions_comes_back_with_its_types(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    (tmp_path / "p.csv").write_text(
        "path,label,probability,second,second_probability,sure,nearest,note\n"
        "a.png,007,0.7500,1.0,0.2500,true,b.png,\nb.png,,,,,,,not an image\n"
    )
    predicted = Predicted(
        out=tmp_path / "p.csv", page=tmp_path, images=2, unreadable=1, sure=1, error=0.1, classes={"007": 1, "1.0": 0}
    )
    frame = predicted.to_pandas()
    assert frame["label"].tolist()[0] == "007"
    assert frame["probability"].tolist()[0] == 0.75
    assert frame["sure"].tolist()[0] is True
    assert frame["second"].tolist()[0] == "1.0"
    assert frame.loc[1, ["label", "probability", "nearest"]].isna().all()
    assert "<td>007</td><td>1</td>" in predicted._repr_html_()


def test_the_frame_of_results_has_no_mean_among_splits(tmp_path: Path) -> None:
    """`groupby("encoder").mean()` over rows of splits and of their mean counted the mean as another split."""
    pytest.importorskip("pandas")
    values = (40.0, 50.0, 63.0)
    rows = [replace(ROW, value=value, split=str(number), shots="5") for number, value in enumerate(values)]
    write_results(tmp_path / "results.json", [*rows, *summarize(rows), ROW])
    run = Run(out=tmp_path, encoder=tmp_path, results=tmp_path / "results.json", report=tmp_path / "report.html")
    frame = run.measured().frame()
    assert len(frame) == 2
    five = frame[frame["shots"] == "5"].iloc[0]
    assert (five["mean"], five["n_splits"], five["n_test"]) == (51.0, 3, 40)
    assert frame.groupby("shots")["mean"].mean()["5"] == 51.0
    splits = run.measured().to_pandas()
    assert list(splits[splits["shots"] == "5"]["value"]) == [40.0, 50.0, 63.0]


def test_the_view_of_a_run_links_its_report(tmp_path: Path) -> None:
    folder = tmp_path / "a'><b>"
    run = Run(out=folder, encoder=folder, results=folder / "results.json", report=folder / "report.html")
    shown = run._repr_html_()
    assert "<b>" not in shown
    assert 'href="file:///' in shown


def test_an_analysis_is_shown_without_its_pictures() -> None:
    figure = Figure(name="f", title="t", caption="c", data=[{"image": "data:" + "x" * 10_000}], spec={})
    entry = Entry(
        analysis="rank",
        encoder="<graft>",
        against=None,
        data="d",
        seconds=1.0,
        numbers={"rankme": 3.5},
        notes=[],
        figures=[figure],
        snippet="",
    )
    assert repr(entry) == "rank of <graft>: rankme"
    assert "<td>rankme</td><td>3.5</td>" in entry._repr_html_()
    assert "&lt;graft&gt;" in entry._repr_html_()


def test_picks_are_a_table() -> None:
    picks = Picks(paths=["a&b.png"], method="random", out=Path("labels.csv"))
    assert "<td>1</td><td>a&amp;b.png</td>" in picks._repr_html_()
