"""report.html: one self-contained page, made from the run directory alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import yaml

from layergraft.checkpoints.atomic import write_text
from layergraft.config.objectives import MaeConfig
from layergraft.config.recipe import Recipe
from layergraft.errors import UserError
from layergraft.evaluation.results import ResultRow, read_results
from layergraft.report import pictures
from layergraft.report.figures import Figure, curve_figure, few_shot_figure
from layergraft.training.metrics import read_metrics

ASSETS = Path(__file__).with_name("assets")


def results_table(rows: list[ResultRow]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(columns, (encoder, cells)): mean ± standard deviation over splits."""
    spread = {(r.encoder, r.variant, r.shots, r.pooling): r.value for r in rows if r.split == "std"}
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.split == "mean" or row.protocol == "knn":
            column = "kNN, all labels" if row.protocol == "knn" else f"{row.shots} shots ({row.variant})"
            std = spread.get((row.encoder, row.variant, row.shots, row.pooling))
            cell = f"{row.value:.1f}" + (f" ± {std:.1f}" if std is not None else "")
            name = row.encoder if row.pooling in (None, "cls") else f"{row.encoder}, {row.pooling}"
            table.setdefault(name, {})[column] = cell
    columns = list(dict.fromkeys(column for cells in table.values() for column in cells))
    return columns, [(name, [cells.get(column, "") for column in columns]) for name, cells in table.items()]


def knn_note(rows: list[ResultRow]) -> str:
    """Says where kNN on all labels does not beat the pixels, and why."""
    knn = {row.encoder: row.value for row in rows if row.protocol == "knn"}
    below = [name for name, value in knn.items() if name not in ("pixels", "random") and value < knn.get("pixels", 0)]
    if not below:
        return ""
    return (
        f"kNN on all labels: {', '.join(below)} do not beat the pixels. With this many labelled images a nearest "
        "neighbour in raw pixels still finds an object of the same shape at the same place, so this number says little "
        "about few labels."
    )


def _stages(run: Path) -> list[tuple[Path, dict[str, Any]]]:
    directories = sorted((run / "stages").glob("*"), key=lambda path: int(path.name.split("-")[0]))
    return [(d, json.loads((d / "plan.json").read_text())) for d in directories if (d / "plan.json").is_file()]


def _images(run: Path, recipe: Recipe) -> list[tuple[str, str, str]]:
    """(title, caption, address) of each picture; none where the images are no longer there."""
    from layergraft.training.run import load_data

    try:
        train, holdout, _, _ = load_data(recipe)
    except UserError:
        return []
    if not len(holdout):
        return []
    found = []
    for directory, plan in _stages(run):
        objective = recipe.stages[plan["name"]].objective
        if isinstance(objective, MaeConfig):
            address = pictures.reconstructions(directory, objective, holdout, recipe.seed)
            caption = "Held-out images: original, what the encoder sees, and its reconstruction of the rest."
            found.append((f"Reconstructions of stage {plan['name']}", caption, address))
    address = pictures.neighbours(run / "encoder", train, holdout)
    found.append(("Nearest neighbours", "A held-out image (left) and the training images nearest to it.", address))
    return found


def write_report(runs: list[Path]) -> Path:
    """Build report.html in the first run's directory.

    Raises:
        UserError: a directory is no run.
    """
    run = runs[0]
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{str(run)!r} is no run.", "Give the --out of `layergraft train`.")
    recipe = msgspec.convert(yaml.safe_load((run / "recipe.yaml").read_text()), Recipe)
    results = read_results(run / "results.json")
    stages = _stages(run)
    metrics = [row for directory, _ in stages for row in read_metrics(directory / "metrics.jsonl")]
    figures: list[Figure | None] = [
        few_shot_figure(results),
        curve_figure(
            metrics, "loss", "Training loss", "The objectives differ, so the stages' losses cannot be compared."
        ),
        curve_figure(
            metrics,
            "knn",
            "kNN while training",
            "On held-out images, neighbours from a part of the training images (%).",
        ),
        curve_figure(
            metrics, "rankme", "Rank of the features", "RankMe of held-out features; a drop towards 1 is collapse."
        ),
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined
    )
    summary = json.loads((run / "run.json").read_text()) if (run / "run.json").is_file() else {}
    columns, table = results_table(results)
    page = environment.get_template("report.html.jinja").render(
        title=run.resolve().name,
        libraries=[(ASSETS / name).read_text(encoding="utf-8") for name in ("vega.min.js", "vega-lite.min.js")],
        figures=[asdict(figure) for figure in figures if figure is not None],
        columns=columns,
        table=table,
        note=knn_note(results),
        splits=max((int(row.split) + 1 for row in results if row.split.isdigit()), default=0),
        stages=[plan for _, plan in stages],
        images=_images(run, recipe),
        recipe=(run / "recipe.yaml").read_text(encoding="utf-8"),
        summary=summary,
    )
    write_text(run / "report.html", page)
    return run / "report.html"
