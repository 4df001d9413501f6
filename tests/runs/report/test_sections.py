"""What the sections make of rows, without a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from result_rows import result_row

from layergraft.runs.intervals import wilson
from layergraft.runs.report.label_efficiency import label_efficiency
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Table
from layergraft.runs.report.sections.results import accuracy_tables, knn_note, named_results, results
from layergraft.runs.report.sections.warnings import run_warnings
from layergraft.runs.result_tables import group_by_images
from layergraft.runs.results import ResultRow, summarize


def row(encoder: str, value: float, split: str = "mean", **changes: Any) -> ResultRow:
    return result_row(**({"encoder": encoder, "value": value, "split": split, "n_train": 1, "n_test": 1000} | changes))


def run_files(name: str, results: list[ResultRow], **changes: Any) -> RunFiles:
    stages: list[dict[str, Any]] = [{"name": "mae", "batch_size": 8}, {"name": "graft", "batch_size": 8}]
    empty: dict[str, Any] = {
        "recipe": None,
        "recipe_text": "",
        "metrics": [],
        "analyses": [],
        "summary": {},
        "record": {},
    }
    return RunFiles(**({"path": Path(name), "name": name, "results": results, "stages": stages} | empty | changes))


def knn(encoder: str, value: float) -> ResultRow:
    return row(encoder, value, "0", protocol="knn", variant=None, shots="100%")


def test_table_shows_means_and_single_values() -> None:
    rows = [row("a", 40.0, "0"), row("a", 50.0, "1"), row("a", 45.0), row("a", 7.07, "std"), knn("a", 61.0)]
    (table,) = accuracy_tables(group_by_images([("a", r) for r in rows]))
    assert table.columns == ["encoder", "nearest neighbours, all 1 label", "1 label (5 a class)"]
    assert not table.best  # of one encoder nothing is best
    assert table.rows == [["a", "61.0 (57.9–64.0)", "45.0 ± 7.1 (0.0–100.0)"]]


def test_columns_stand_in_order_of_labels() -> None:
    rows = [("a", row("a", 1.0, shots=shots)) for shots in ("10", "1%", "2", "1")]
    (table,) = accuracy_tables(group_by_images(rows))
    assert table.columns[1:] == [f"1 label ({each})" for each in ("1 a class", "2 a class", "10 a class", "1 %")]


def test_variants_are_told_apart_where_there_are_several() -> None:
    rows = [("a", row("a", 1.0, variant=variant)) for variant in ("published", "cv")]
    (table,) = accuracy_tables(group_by_images(rows))
    assert table.columns[1:] == ["1 label (5 a class), cv", "1 label (5 a class), published"]


def test_the_best_of_each_column_stands_out() -> None:
    rows = [row("a", 40.0), row("b", 50.0), knn("a", 61.0), knn("b", 60.0), row("b", 9.0, shots="7")]
    (table,) = accuracy_tables(group_by_images([(one.encoder, one) for one in rows]))
    best = {(table.rows[line][0], table.columns[column]) for line, column in table.best}
    assert best == {
        ("a", "nearest neighbours, all 1 label"),
        ("b", "1 label (5 a class)"),
        ("b", "1 label (7 a class)"),
    }


def test_several_runs_show_last_stages_and_each_floor_once() -> None:
    first = run_files(
        "first", [row("pixels", 30.0, pooling=None), row("random", 20.0), row("mae", 35.0), row("graft", 50.0)]
    )
    second = run_files("second", [row("pixels", 30.0, pooling=None), row("graft", 55.0)])
    other = run_files("other", [row("pixels", 10.0, pooling=None, test="u"), row("graft", 15.0, test="u")])
    names = [name for name, _ in named_results([first, second, other])]
    assert names == ["pixels", "first: graft", "second: graft", "other: pixels", "other: graft"]


def test_figure_has_the_band_of_the_interval() -> None:
    rows = [row("a", 45.0, n_train=50), row("a", 2.0, "std", n_train=50), row("a", 9.0, shots="1%", n_train=120)]
    rows[0] = replace(rows[0], low=41.0, high=48.5)
    (group,) = group_by_images([("a", own) for own in rows])
    (figure,) = label_efficiency(group)
    low, high = wilson(9.0, 1000)
    assert figure.data == [
        {"encoder": "a", "labels": 50, "shots": "5", "top1": 45.0, "std": 2.0, "low": 41.0, "high": 48.5},
        {"encoder": "a", "labels": 120, "shots": "1%", "top1": 9.0, "std": None, "low": low, "high": high},
    ]


@pytest.mark.parametrize("changes", [{"source": "other"}, {"test": "other"}])
def test_rows_of_other_images_have_a_table_and_a_chart_of_their_own(changes: dict[str, Any]) -> None:
    """Twenty splits on 5,000 images and two on 200 shared a line, a chart and a caption."""
    many = [row("graft", 40.0, str(split), n_test=5000, n_train=50) for split in range(20)]
    few = [row("graft", 80.0, str(split), n_test=200, n_train=10, **changes) for split in range(2)]
    rows = [*many, *summarize(many), *few, *summarize(few), replace(knn("pixels", 50.0), n_test=5000)]
    section = results([run_files("a", rows)])
    assert section is not None
    tables = [block for block in section.blocks if isinstance(block, Table)]
    assert [table.rows[0][0] for table in tables] == ["graft", "graft"]
    assert "40.0" in tables[0].rows[0][-1]
    assert "80.0" in tables[1].rows[0][-1]
    assert "5,000 images of" in tables[0].note
    assert "200 images of" in tables[1].note
    assert "random splits: 20" in tables[0].note
    assert "random splits: 2" in tables[1].note
    assert [[point["top1"] for point in figure.data] for figure in section.figures] == [[40.0], [80.0]]
    assert len({figure.name for figure in section.figures}) == 2


def test_two_runs_of_the_same_stages_have_as_many_splits_as_each() -> None:
    """Encoders of one name were counted together: `random splits: 2 to 4`."""
    rows = [row("graft", value, str(number)) for number, value in enumerate((40.0, 41.0))]
    (group,) = group_by_images([(f"{name}: graft", one) for name in "ab" for one in rows])
    assert group.caption.endswith("random splits: 2")


def test_an_encoder_of_two_seeds_has_two_lines() -> None:
    rows = [row("graft", 40.0, seed=0), row("graft", 80.0, seed=5)]
    (table,) = accuracy_tables(group_by_images([("graft", one) for one in rows]))
    assert [line[0] for line in table.rows] == ["graft, seed 0", "graft, seed 5"]


def test_a_table_of_runs_says_seeds_and_splits() -> None:
    rows = {
        name: [row("graft", 40.0 + split, str(split), seed=seed) for split in range(splits)]
        for name, seed, splits in (("a", 0, 2), ("b", 7, 3))
    }
    runs = [
        run_files(name, [*own, *summarize(own), replace(knn("pixels", 50.0), seed=0)]) for name, own in rows.items()
    ]
    section = results(runs)
    assert section is not None
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    assert table.columns[:3] == ["encoder", "seed", "splits"]
    assert [line[:3] for line in table.rows] == [["a: graft", "0", "2"], ["pixels", "0", ""], ["b: graft", "7", "3"]]
    assert {(table.rows[line][0], table.columns[column]) for line, column in table.best} == {
        ("b: graft", "1 label (5 a class)"),
        ("pixels", "nearest neighbours, all 1 label"),
    }


@pytest.mark.parametrize("changes", [{"test": "holdout", "seed": 1}, {"n_test": 90}])
def test_runs_with_other_test_images_share_no_line(changes: dict[str, Any]) -> None:
    """Held-out images of another seed are other images of the same name; so are those of a folder that has changed."""
    usual = {"test": "holdout"} if "seed" in changes else {}
    first = run_files("a", [row("graft", 50.0, **usual), row("pixels", 30.0, pooling=None, **usual)])
    second = run_files("b", [row("graft", 60.0, **changes), row("pixels", 31.0, pooling=None, **changes)])
    groups = group_by_images(named_results([first, second]))
    assert [[name for name, _ in group.results] for group in groups] == [
        ["a: graft", "pixels"],
        ["b: graft", "b: pixels"],
    ]
    assert len({group.caption for group in groups}) == 2


def test_pixels_of_other_images_are_no_floor() -> None:
    assert knn_note([("pixels", replace(knn("pixels", 70.0), test="other")), ("a", knn("a", 60.0))]) == ""


def test_few_test_images_are_named_and_help_is_offered() -> None:
    (table,) = accuracy_tables(group_by_images([("a", row("a", 0.0, "0", n_test=3))]))
    assert "Only 3 test images" in table.note
    assert "Cross-validate" in table.note
    assert table.rows[0][1] == "0.0 (0.0–56.1)"


def test_knn_note() -> None:
    assert knn_note([("pixels", knn("pixels", 70.0)), ("a", knn("a", 71.0))]) == ""
    below = [("pixels", knn("pixels", 70.0)), ("a", knn("a", 71.0)), ("b", knn("b", 69.0))]
    assert "features of b name fewer" in knn_note(below)
    inner = replace(knn("a", 60.0), pooling="cls/block1")
    assert knn_note([("pixels", knn("pixels", 70.0)), ("a", knn("a", 71.0)), ("a", inner)]) == ""
    assert "built-in" not in knn_note(below)  # what is true of our own images is not said of others
    ours = [(name, replace(one, source="builtin:fashion-canvas")) for name, one in below]
    assert "built-in" in knn_note(ours)


def test_warnings() -> None:
    metrics = [
        {"stage": "mae", "step": 1, "rankme": 40.0, "data_wait": 0.5},
        {"stage": "mae", "step": 2, "rankme": 3.0, "data_wait": 0.3},
        {"stage": "graft", "step": 1, "rankme": 40.0, "data_wait": 0.1},
    ]
    found = run_warnings(run_files("a", [], metrics=metrics))
    assert len(found) == 2
    assert "from 40 to 3" in found[0]
    assert "40%" in found[1]
