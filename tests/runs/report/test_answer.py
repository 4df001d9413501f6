"""The first screen of runs of every kind, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_sections import knn, row, run_files

from layergraft.runs.report.section import Tiles
from layergraft.runs.report.sections.answer import answer
from layergraft.runs.results import CROSS_VALIDATION, ResultRow, summarize

SUMMARY = {
    "recipe": "abc",
    "machine": {"cpu": "an abacus", "threads": 1, "gpu": None, "versions": {}},
    "seconds_since_start": 130.0,
    "data": {"source": "my photographs", "train": 1200, "holdout": 120, "fingerprint": None},
}


def splits(encoder: str, *values: float, **changes: Any) -> list[ResultRow]:
    single = [row(encoder, value, str(number), **({"n_train": 10} | changes)) for number, value in enumerate(values)]
    return [*single, *summarize(single)]


def said(*runs: Any) -> tuple[str, list[tuple[str, str, str]], str]:
    section = answer(list(runs))
    assert section is not None
    (tiles,) = section.blocks
    assert isinstance(tiles, Tiles)
    return section.lead, [(tile.label, tile.value, tile.note) for tile in tiles.tiles], tiles.step


def test_better_than_pixels() -> None:
    rows = (
        splits("graft", 50.0, 60.0)
        + splits("pixels", 51.0, 40.0, pooling=None)
        + splits("graft", 70.0, shots="9", n_train=18)
    )
    lead, tiles, _ = said(run_files("a", rows, summary=SUMMARY))
    assert "10 labels (5 a class)" in lead
    assert "names 55.0 % of 1,000 test images rightly; on raw pixels 45.5 %" in lead
    assert "With 18 labels (9 a class): 70.0 %" in lead
    assert "not learned" not in lead
    assert tiles[1][:2] == ("over raw pixels", "+9.5 points")
    assert "better in 1 of 2" in tiles[1][2]
    assert tiles[2][1:] == ("2 min 10 s", "since the run's last start, on an abacus, 1 thread")


def test_time_is_that_of_all_starts() -> None:
    taken = {"stages": {"mae": 60.0, "graft": 120.0}, "evaluation": 10.0, "analyses": 5.0}
    _, tiles, _ = said(run_files("a", [], summary=SUMMARY | {"time": {"told": None, "taken": taken}}, stages=[]))
    note = "mae 1 min, graft 2 min, evaluation 10 s, analyses 5 s; on an abacus, 1 thread"
    assert tiles[-1][1:] == ("3 min 15 s", note)


def test_worse_than_pixels() -> None:
    lead, tiles, step = said(run_files("a", splits("graft", 30.0) + splits("pixels", 31.0, pooling=None)))
    assert "has not learned these classes better than pixels do" in lead
    assert tiles[1][1] == "−1.0 points"
    assert "train longer" in step


def test_without_labels() -> None:
    lead, tiles, step = said(run_files("a", [], summary=SUMMARY, stages=[{"name": "mae", "steps": 70}]))
    assert "Trained on 1,200 images." in lead
    assert [tile[1] for tile in tiles] == ["1,200", "70", "2 min 10 s"]
    assert step.startswith("label 30 images")


def test_neighbours_alone() -> None:
    lead, _, _ = said(run_files("a", [knn("graft", 61.0), knn("pixels", 70.0)]))
    assert "With all 1 label nearest neighbours in the features of this encoder name" in lead


def test_thirty_labels_ask_for_more() -> None:
    rows = splits("graft", 60.0, 62.0, test=CROSS_VALIDATION, shots="100%", n_test=30)
    lead, tiles, step = said(run_files("a", rows))
    assert "the 30 labelled images, each by classifiers of the others," in lead
    assert len(tiles) == 1  # no pixels, no time: nothing is made up
    assert step.startswith("label")


@pytest.mark.parametrize(
    ("second", "verdict"), [(20.0, "41.0 % of 1,000 test images named rightly, b 20.0 %."), (40.0, "no proof")]
)
def test_several_runs(second: float, verdict: str) -> None:
    lead, tiles, _ = said(run_files("a", splits("graft", 41.0)), run_files("b", splits("graft", second)))
    assert "a is best of 2 runs" in lead
    assert verdict in lead
    assert [tile[0] for tile in tiles] == ["a", "b"]


def test_runs_of_other_images_are_not_ranked() -> None:
    runs = [run_files("a", splits("graft", 41.0)), run_files("b", splits("graft", 50.0, test="other"))]
    assert answer(runs) is None


@pytest.mark.parametrize(
    ("encoder", "file"), [("graft", "graft"), ("graft_long", "graft-long"), ("a-b/momentum", "a-b-momentum")]
)
def test_another_command_for_each_run(encoder: str, file: str, tmp_path: Path) -> None:
    (tmp_path / "probes").mkdir()
    for pooling in ("cls", "cls-block1"):  # that of an inner block is not what the page speaks of
        (tmp_path / "probes" / f"{file}-logistic-published-9-{pooling}.safetensors").touch()
    rows = splits(encoder, 50.0) + splits("pixels", 40.0, pooling=None) + splits(encoder, 70.0, shots="9", n_train=18)
    section = answer([run_files("a", rows, path=tmp_path)])
    assert section is not None
    (tiles,) = section.blocks
    assert isinstance(tiles, Tiles)
    assert "layergraft predict" in tiles.command
    assert "-9-cls.safetensors" in tiles.command
