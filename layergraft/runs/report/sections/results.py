"""How few labels? Accuracy as a chart over labelled images, and as a table."""

from __future__ import annotations

from layergraft.runs.report.headline import FLOORS
from layergraft.runs.report.label_efficiency import label_efficiency
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Notes, Section, Table
from layergraft.runs.result_tables import ResultGroup, group_by_images, results_table
from layergraft.runs.results import ResultRow

_PROTOCOL = Notes(
    title="How this was measured",
    lines=[
        "Features of the test view, frozen; mean ± standard deviation over random choices of the labels (splits).",
        "All but nearest neighbours fit a linear classifier to row-centred, L2-normalised features, the logistic "
        "regression without intercept. How its penalty was found: published (the value of the paper), cv (folds over "
        "the labels) or holdout (held-out images). Nearest neighbours: cosine, votes weighted.",
        "pixels are the images themselves, row-centred and L2-normalised; random is the encoder before training. "
        "results.json holds every split, and says every choice (chosen).",
    ],
)


def named_results(runs: list[RunFiles]) -> list[tuple[str, ResultRow]]:
    """(how the page calls the encoder, row); with several runs the last stages alone, and the floors once."""
    if len(runs) == 1:
        return [*((row.encoder, row) for row in runs[0].results), *_recorded_baseline(runs[0])]
    results: list[tuple[str, ResultRow]] = []
    floor_of: dict[tuple[object, ...], str] = {}
    for run in runs:
        for row in run.results:
            if row.encoder == "pixels":
                # The pixels are the same for all runs on the same images; other images have a floor of their own.
                owner = floor_of.setdefault(row.images, run.name)
                if owner == run.name:
                    alone = next(iter(floor_of.values())) == owner
                    results.append(("pixels" if alone else f"{run.name}: pixels", row))
            elif row.encoder not in FLOORS and row.encoder in (run.last_stage, *_others(run)):
                results.append((f"{run.name}: {row.encoder}", row))
    return results


def _recorded_baseline(run: RunFiles) -> list[tuple[str, ResultRow]]:
    """The recorded rows of a baseline run, where this one measured the same and trained no baseline itself."""
    rows = [ResultRow(**row) for row in run.record.get("baseline", {}).get("rows", [])]
    measured = {_protocol(row) for row in run.results}
    trained = {row.encoder for row in run.results}
    return [
        (f"{row.encoder} (recorded)", row) for row in rows if _protocol(row) in measured and row.encoder not in trained
    ]


def _protocol(row: ResultRow) -> tuple[object, ...]:
    return row.source, row.test, row.protocol, row.variant, row.shots, row.split


def _others(run: RunFiles) -> set[str]:
    """Encoders that are no part of the run's recipe: baselines, and whatever else was measured into it."""
    stages = {stage["name"] for stage in run.stages}
    return {row.encoder for row in run.results if row.encoder.split("/")[0] not in stages}


def accuracy_tables(groups: list[ResultGroup], of_runs: bool = False) -> list[Table]:
    """One table for each pair of labelled and test images, a row per encoder.

    Args:
        groups: measurements that can be compared.
        of_runs: whether they are of several runs, so that each row says its seed and its splits.
    """
    tables = []
    for group in groups:
        content = results_table(group.results, of_runs)
        title = "Accuracy (%)" if len(groups) == 1 else f"Accuracy (%) on {group.test}, labels of {group.source}"
        note = f"{group.caption}. {group.warning}".rstrip()
        tables.append(Table(title=title, columns=content.columns, rows=content.rows, note=note, best=content.best))
    return [table for table in tables if table.rows]


def knn_note(results: list[tuple[str, ResultRow]]) -> str:
    """Say where kNN on all labels does not beat the pixels of the same images, and why."""
    names: dict[str, None] = {}
    for group in group_by_images(results):
        knn = [(name, row.value) for name, row in group.results if row.protocol == "knn" and row.usual]
        floor = max((value for name, value in knn if _is_floor(name, "pixels")), default=0.0)
        names |= {name: None for name, value in knn if value < floor and not _is_floor(name, *FLOORS)}
    if not names:
        return ""
    built_in = all(row.source.startswith("builtin:") for _, row in results)
    reason = (
        " In the built-in images a nearest neighbour in raw pixels finds an object of the same shape at the same place."
    )
    return (
        f"With all labels, nearest neighbours in the features of {', '.join(names)} name fewer images rightly than "
        f"nearest neighbours in raw pixels do.{reason if built_in else ''}"
    )


def _is_floor(name: str, *floors: str) -> bool:
    """Whether a row is a floor's: `pixels`, `other: pixels`, `pixels, seed 1`."""
    return name.rpartition(": ")[2].partition(", seed ")[0] in floors


def results(runs: list[RunFiles]) -> Section | None:
    """Show every protocol that was measured."""
    rows = named_results(runs)
    groups = group_by_images(rows)
    tables = accuracy_tables(groups, of_runs=len(runs) > 1)
    if not tables:
        return None
    figures = [figure for number, group in enumerate(groups) for figure in label_efficiency(group, number)]
    note = knn_note(rows)
    return Section(
        name="results",
        title="How few labels?",
        short="Labels",
        intro="How often a linear classifier on the encoder's features is right, over the number of labelled images "
        "that it was fitted to. Bands, and the numbers in brackets, are 95 % intervals: how far another choice of as "
        "many test images and labels could lead.",
        blocks=[*figures, *tables, *([Notes(lines=[note])] if note else []), _PROTOCOL],
    )
