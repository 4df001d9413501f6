"""What the sections make of rows, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layergraft.runs.report.label_efficiency import label_efficiency
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.sections.results import accuracy_table, knn_note, named_results
from layergraft.runs.report.sections.warnings import run_warnings
from layergraft.runs.results import ResultRow


def row(encoder: str, value: float, split: str = "mean", **changes: Any) -> ResultRow:
    own = {"source": "s", "test": "t", "protocol": "logistic", "variant": "published", "shots": "5", "pooling": "cls"}
    rest = {"metric": "top1", "n_train": 1, "n_test": 1, "chosen": {}, "seconds": 0.0, "seed": 0}
    return ResultRow(**(own | rest | {"encoder": encoder, "value": value, "split": split} | changes))


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
    table = accuracy_table([("a", r) for r in rows])
    assert table is not None
    assert table.columns == ["encoder", "kNN, all labels", "5 shots (published)"]
    assert table.rows == [["a", "61.0", "45.0 ± 7.1"]]


def test_columns_stand_in_order_of_labels() -> None:
    table = accuracy_table([("a", row("a", 1.0, shots=shots)) for shots in ("10", "1%", "2", "1")])
    assert table is not None
    assert table.columns[1:] == [f"{s} (published)" for s in ("1 shots", "2 shots", "10 shots", "1% labels")]


def test_several_runs_show_last_stages_and_each_floor_once() -> None:
    first = run_files(
        "first", [row("pixels", 30.0, pooling=None), row("random", 20.0), row("mae", 35.0), row("graft", 50.0)]
    )
    second = run_files("second", [row("pixels", 30.0, pooling=None), row("graft", 55.0)])
    other = run_files("other", [row("pixels", 10.0, pooling=None, test="u"), row("graft", 15.0, test="u")])
    names = [name for name, _ in named_results([first, second, other])]
    assert names == ["pixels", "first: graft", "second: graft", "other: pixels", "other: graft"]


def test_figure_has_the_band_of_one_standard_deviation() -> None:
    rows = [row("a", 45.0, n_train=50), row("a", 2.0, "std", n_train=50), row("a", 9.0, shots="1%", n_train=120)]
    (figure,) = label_efficiency([("a", own) for own in rows])
    assert figure.data == [
        {"encoder": "a", "labels": 50, "shots": "5", "top1": 45.0, "low": 43.0, "high": 47.0},
        {"encoder": "a", "labels": 120, "shots": "1%", "top1": 9.0, "low": 9.0, "high": 9.0},
    ]


def test_knn_note() -> None:
    assert knn_note([("pixels", knn("pixels", 70.0)), ("a", knn("a", 71.0))]) == ""
    assert "for b" in knn_note([("pixels", knn("pixels", 70.0)), ("a", knn("a", 71.0)), ("b", knn("b", 69.0))])


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
