from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from result_rows import result_row

from layergraft.config import dump_recipe, load_recipe
from layergraft.runs.report import recorded
from layergraft.runs.report.page import write_report
from layergraft.runs.report.sections.compared import TITLES, comparison_table
from layergraft.runs.results import ResultRow, write_results

MACHINE = {"cpu": "an abacus", "threads": 2}
CANDIDATES = [
    {"name": "all alike", "accuracy": {"1": [30.0, 32.0], "knn": [60.0, 61.0]}, "mean": 31.0, "chosen": True},
    {"name": "<slow>", "accuracy": {"1": [20.0, 22.0], "knn": [50.0, 51.0]}, "mean": 21.0, "chosen": False},
]


def row(encoder: str, value: float) -> ResultRow:
    images = {"source": "builtin:fashion-canvas", "test": "builtin:fashion-canvas:test", "n_train": 10, "n_test": 5000}
    return result_row(encoder=encoder, value=value, shots="1", split="mean", **images)


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of the demo's recipe."""
    part = {"command": "python x.py", "commit": "abc", "machine": MACHINE, "protocol": "p", "seeds": [1, 2]}
    content = {"plans": part | {"candidates": CANDIDATES}, "baseline": {"rows": [asdict(row("scratch", 28.5))]}}
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "fashion_tiny.json").write_text(json.dumps(content))
    monkeypatch.setattr(recorded, "RECORDED", tmp_path / "records")


def page(run: Path, changes: dict[str, object], rows: list[ResultRow]) -> str:
    run.mkdir()
    (run / "recipe.yaml").write_text(dump_recipe(load_recipe("fashion_tiny", changes)))
    write_results(run / "results.json", rows)
    return write_report([run]).read_text()


@pytest.mark.usefixtures("record")
def test_a_run_of_the_recipe_shows_what_was_recorded(tmp_path: Path) -> None:
    shown = page(tmp_path / "run", {"seed": 5}, [row("graft", 40.0)])
    assert "Graft plans compared (recorded)" in shown
    assert "all alike (chosen)" in shown
    assert "30.0 / 32.0" in shown
    assert "&lt;slow&gt;" in shown
    assert "scratch (recorded)" in shown
    assert "28.5" in shown
    assert {r["encoder"] for r in json.loads((tmp_path / "run" / "results.json").read_text())} == {"graft"}


@pytest.mark.usefixtures("record")
def test_own_baseline_replaces_the_recorded_one(tmp_path: Path) -> None:
    shown = page(tmp_path / "run", {}, [row("graft", 40.0), row("scratch", 29.5)])
    assert "scratch (recorded)" not in shown
    assert "29.5" in shown


@pytest.mark.usefixtures("record")
def test_another_recipe_shows_no_record(tmp_path: Path) -> None:
    shown = page(tmp_path / "run", {"stages.graft.epochs": 1}, [row("graft", 40.0)])
    assert "(recorded)" not in shown


def test_what_the_package_has_recorded_can_be_shown() -> None:
    tables = [
        comparison_table(title, record[name])
        for file in sorted(recorded.RECORDED.glob("*.json"))
        for record in [json.loads(file.read_text())]
        for name, title in TITLES.items()
        if name in record
    ]
    assert tables
    assert all(table.rows and "threads: " in table.note for table in tables)
