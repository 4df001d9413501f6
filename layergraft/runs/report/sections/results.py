"""How few labels? Accuracy as a chart over labelled images, and as a table."""

from __future__ import annotations

from layergraft.runs.report.label_efficiency import label_efficiency
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Notes, Section, Table
from layergraft.runs.results import ResultRow, results_table

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


def accuracy_table(rows: list[tuple[str, ResultRow]]) -> Table | None:
    """A row per encoder; None where nothing was measured."""
    columns, cells = results_table(rows)
    return Table(title="Top-1 accuracy (%)", columns=columns, rows=cells) if cells else None


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
    table = accuracy_table(rows)
    if table is None:
        return None
    splits = max((int(row.split) + 1 for _, row in rows if row.split.isdigit()), default=1)
    figures, note = label_efficiency(rows), knn_note(rows)
    return Section(
        name="results",
        title="How few labels?",
        intro=f"Frozen features of the test view; mean ± standard deviation over {splits} random splits. "
        "All but kNN fit a linear classifier to row-centred, L2-normalised features, the logistic regression without "
        "intercept; in brackets how its penalty was found. kNN: cosine, votes weighted. results.json says every choice "
        "(chosen).",
        blocks=[*figures, table, *([Notes(lines=[note])] if note else [])],
    )
