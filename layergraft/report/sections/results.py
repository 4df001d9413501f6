"""How few labels? Accuracy as a chart over labelled images, and as a table."""

from __future__ import annotations

from typing import Any

from layergraft.evaluation.results import ResultRow
from layergraft.report.figure import Figure, field, tooltip
from layergraft.report.run_files import RunFiles
from layergraft.report.section import Notes, Section, Table

FLOORS = ("pixels", "random")


def named_results(runs: list[RunFiles]) -> list[tuple[str, ResultRow]]:
    """(how the page calls the encoder, row); with several runs the last stages alone, and the floors once."""
    if len(runs) == 1:
        return [*((row.encoder, row) for row in runs[0].results), *_recorded_baseline(runs[0])]
    found: list[tuple[str, ResultRow]] = []
    floor_of: dict[tuple[str, str], str] = {}
    for run in runs:
        for row in run.results:
            if row.encoder == "pixels":
                # The pixels are the same for all runs on the same images; other images have a floor of their own.
                owner = floor_of.setdefault((row.source, row.test), run.name)
                if owner == run.name:
                    alone = next(iter(floor_of.values())) == owner
                    found.append(("pixels" if alone else f"{run.name}: pixels", row))
            elif row.encoder not in FLOORS and row.encoder in (run.last_stage, *_others(run)):
                found.append((f"{run.name}: {row.encoder}", row))
    return found


def _recorded_baseline(run: RunFiles) -> list[tuple[str, ResultRow]]:
    """The recorded rows of a baseline run, where this one measured the same and trained no baseline itself."""
    rows = [ResultRow(**row) for row in run.record.get("baseline", {}).get("rows", [])]
    measured = {(row.test, row.protocol, row.variant, row.shots, row.split) for row in run.results}
    rows = [row for row in rows if (row.test, row.protocol, row.variant, row.shots, row.split) in measured]
    own = {row.encoder for row in run.results}
    return [(f"{row.encoder} (recorded)", row) for row in rows if row.encoder not in own]


def _others(run: RunFiles) -> set[str]:
    """Encoders that are no part of the run's recipe: baselines, and whatever else was measured into it."""
    own = {stage["name"] for stage in run.stages}
    return {row.encoder for row in run.results if row.encoder.split("/")[0] not in own}


def few_shot_figure(results: list[tuple[str, ResultRow]]) -> Figure | None:
    """Accuracy over labelled images, with the standard deviation over splits."""
    wanted = [(name, row) for name, row in results if row.protocol == "logistic" and row.variant == "published"]
    spread = {(name, row.shots, row.pooling): row.value for name, row in wanted if row.split == "std"}
    data: list[dict[str, Any]] = []
    for name, row in wanted:
        if row.split == "mean" and row.pooling in (None, "cls"):
            std = spread.get((name, row.shots, row.pooling), 0.0)
            band = {"low": row.value - std, "high": row.value + std}
            data.append({"encoder": name, "labels": row.n_train, "shots": row.shots, "top1": row.value, **band})
    if not data:
        return None
    scale = {"type": "log", "nice": False}
    axis = {"values": sorted({d["labels"] for d in data})}
    x = field("labels", "quantitative", "labelled images", scale=scale, axis=axis)
    low = field("low", "quantitative", "top-1 (%)", scale={"zero": False})
    floor = {"condition": {"test": "test(/(^|: )(pixels|random)$/, datum.encoder)", "value": [4, 4]}}
    spec = {
        "encoding": {"x": x, "color": field("encoder", "nominal", sort=None, legend={"title": None})},
        "layer": [
            {"mark": {"type": "area", "opacity": 0.13}, "encoding": {"y": low, "y2": {"field": "high"}}},
            {
                "mark": {"type": "line", "strokeWidth": 2.2},
                "encoding": {"y": field("top1", "quantitative", "top-1 (%)"), "strokeDash": {"value": [1, 0], **floor}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60},
                "encoding": {
                    "y": field("top1", "quantitative", "top-1 (%)"),
                    "tooltip": tooltip("encoder", "shots", "labels", top1=".1f", low=".1f", high=".1f"),
                },
            },
        ],
    }
    return Figure(
        name="few-shot",
        title="Accuracy over labelled images",
        caption="Frozen features, logistic regression (published protocol): mean over random splits, "
        "band = one standard deviation. Dashed: the floors, raw pixels and random weights.",
        data=data,
        spec=spec,
        wide=True,
    )


def results_table(results: list[tuple[str, ResultRow]]) -> Table | None:
    """A row per encoder, a column per protocol: mean ± standard deviation over splits, or the one value."""

    def measured(name: str, row: ResultRow) -> tuple[object, ...]:
        return name, row.protocol, row.variant, row.shots, row.pooling, row.metric

    spread = {measured(name, row): row.value for name, row in results if row.split == "std"}
    means = {measured(name, row) for name, row in results if row.split == "mean"}
    cells: dict[str, dict[str, str]] = {}
    order: dict[str, tuple[object, ...]] = {}
    for name, row in results:
        key = measured(name, row)
        if row.split == "mean" or (row.split == "0" and key not in means):
            text = f"{row.value:.1f}" + (f" ± {spread[key]:.1f}" if key in spread else "")
            full = name if row.pooling in (None, "cls") else f"{name}, {row.pooling}"
            cells.setdefault(full, {})[_column(row)] = text
            order[_column(row)] = (row.protocol, row.variant or "", "%" in row.shots, float(row.shots.rstrip("%")))
    if not cells:
        return None
    columns = sorted(order, key=lambda column: order[column])
    return Table(
        title="Top-1 accuracy (%)",
        columns=["encoder", *columns],
        rows=[[name, *(own.get(column, "") for column in columns)] for name, own in cells.items()],
    )


def _column(row: ResultRow) -> str:
    if row.protocol == "knn":
        return "kNN, all labels"
    labels = f"{row.shots} labels" if row.shots.endswith("%") else f"{row.shots} shots"
    what = "" if row.protocol == "logistic" else f"{row.protocol}, "
    variant = f" ({row.variant})" if row.variant else ""
    metric = "" if row.metric == "top1" else f", {row.metric}"
    return f"{what}{labels}{variant}{metric}"


def knn_note(results: list[tuple[str, ResultRow]]) -> str:
    """Says where kNN on all labels does not beat the pixels, and why."""
    knn = {name: row.value for name, row in results if row.protocol == "knn"}
    below = [name for name, value in knn.items() if name not in FLOORS and value < knn.get("pixels", 0)]
    if not below:
        return ""
    return (
        f"kNN on all labels does not beat the pixels for {', '.join(below)}. With this many labelled images a nearest "
        "neighbour in raw pixels still finds an object of the same shape at the same place, so this number says little "
        "about few labels."
    )


def results(runs: list[RunFiles]) -> Section | None:
    """Every protocol that was measured."""
    rows = named_results(runs)
    table = results_table(rows)
    if table is None:
        return None
    splits = max((int(row.split) + 1 for _, row in rows if row.split.isdigit()), default=1)
    figure, note = few_shot_figure(rows), knn_note(rows)
    return Section(
        name="results",
        title="How few labels?",
        intro=f"Frozen features of the test view; mean ± standard deviation over {splits} random splits. "
        "Logistic regression without intercept on row-centred, L2-normalised features; kNN: cosine, k = 20, weights "
        "exp(s/0.07).",
        blocks=[*([figure] if figure else []), table, *([Notes(lines=[note])] if note else [])],
    )
