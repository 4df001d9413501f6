"""Rows of results.json: what a repeated measurement replaces, files of earlier versions, and what Python gets."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from result_rows import result_row

from layergraft.runs.results import ResultRow, Results, read_results, summarize, write_results


def row(value: float, split: str = "0", **changes: Any) -> ResultRow:
    return result_row(value=value, split=split, **changes).with_interval()


def measured(*values: float) -> list[ResultRow]:
    rows = [row(value, str(split)) for split, value in enumerate(values)]
    return rows + summarize(rows)


@pytest.mark.parametrize("again", [measured(30.0), measured(30.0, 32.0), [row(30.0)]])
def test_what_is_measured_again_leaves_nothing_of_before(tmp_path: Path, again: list[ResultRow]) -> None:
    """The deviation of three splits stood beside the mean of another one, and splits beside a mean without them."""
    file, other = tmp_path / "results.json", row(1.0, shots="1")
    write_results(file, [*measured(40.0, 45.0, 50.0), other])
    write_results(file, again)
    assert read_results(file) == [other, *again]


def test_files_of_earlier_versions_have_no_interval(tmp_path: Path) -> None:
    old = [{k: v for k, v in asdict(one).items() if k not in ("low", "high")} for one in measured(40.0, 50.0)]
    (tmp_path / "results.json").write_text(json.dumps(old))
    rows = read_results(tmp_path / "results.json")
    assert [one.low for one in rows] == [None] * 4
    assert [one.identity for one in rows] == [one.identity for one in measured(40.0, 50.0)]


def test_python_gets_no_mean_among_its_rows() -> None:
    results = Results.of([*measured(40.0, 50.0), row(70.0, protocol="knn", variant=None, shots="100%")])
    assert [one.split for one in results] == ["0", "1", "0"]
    assert len(results) == 3
    few_shot, knn = results.summary
    assert (few_shot.mean, few_shot.n_splits, few_shot.n_test) == (45.0, 2, 200)
    assert few_shot.std == pytest.approx(50**0.5)
    assert few_shot.low is not None
    assert few_shot.high is not None
    assert few_shot.low < 40 < 50 < few_shot.high
    assert (knn.mean, knn.std, knn.n_splits) == (70.0, None, 1)
    assert "45.0 ± 7.1 over 2 splits" in repr(results)


def test_only_shares_of_images_have_wilsons_interval() -> None:
    """Pixels of one image are not independent: their number says nothing about the interval."""
    assert row(40.0, metric="miou").low is None
    assert summarize([row(40.0, metric="miou"), row(50.0, "1", metric="miou")])[0].low is None
