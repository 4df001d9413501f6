"""The notebook of examples/ runs as it is, and shows what it speaks of."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "tour.ipynb"


def shown(cell: Any, kind: str) -> str:
    """What a cell's last line is shown as."""
    return "".join(output["data"][kind] for output in cell.outputs if kind in output.get("data", {}))


@pytest.mark.slow
def test_the_notebook_runs_and_shows_its_results(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel"), pytest.importorskip("pandas"), pytest.importorskip("sklearn")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    run, table, rows, picks, predicted, frame, shape = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "report.html</a>" in shown(run, "text/html")
    assert "<td>50 labels (5 a class)</td>" in shown(run, "text/html")
    for name in ("pixels", "random", "mae", "graft"):
        assert f"<th>{name}</th>" in shown(table, "text/html")
        assert f"<td>{name}</td>" in shown(rows, "text/html")
    assert "30 images to label" in shown(picks, "text/html")
    assert "500 images" in shown(predicted, "text/html")
    assert "probability" in shown(frame, "text/html")
    assert shown(shape, "text/plain") == "torch.Size([2, 64])"
    with open(tmp_path / "runs" / "notebook" / "predictions.csv", newline="") as file:
        assert sum(1 for _ in csv.DictReader(file)) == 500
    assert (tmp_path / "runs" / "notebook" / "report.html").is_file()


def test_its_cells_are_python() -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            compile(cell.source, "cell", "exec")
