"""What was compared beforehand to settle the recipe: recorded, on held-out images, no part of this run."""

from __future__ import annotations

from typing import Any

from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Section, Table

TITLES = {"plans": "Graft plans compared (recorded)", "lengths": "Lengths compared (recorded)"}


def comparison_table(title: str, part: dict[str, Any]) -> Table:
    """One list of candidates, the best first."""
    columns = list(part["candidates"][0]["accuracy"])
    rows = []
    for candidate in sorted(part["candidates"], key=lambda candidate: -candidate["mean"]):
        name = f"{candidate['name']} (chosen)" if candidate["chosen"] else candidate["name"]
        cells = [" / ".join(f"{value:.1f}" for value in candidate["accuracy"][column]) for column in columns]
        rows.append([name, *cells, f"{candidate['mean']:.1f}"])
    shown = ["nearest neighbours" if column == "knn" else f"{column} a class" for column in columns]
    seeds = ", ".join(map(str, part["seeds"]))
    return Table(
        title=title,
        columns=["candidate", *shown, "mean over labels"],
        rows=rows,
        note=f"Top-1 (%): {part['protocol']} ({seeds}). Made by `{part['command']}` at commit {part['commit']} on "
        f"{part['machine']['cpu']}, threads: {part['machine']['threads']}.",
    )


def compared(runs: list[RunFiles]) -> Section | None:
    """The record of the package's recipe, where the runs followed one."""
    record = next((run.record for run in runs if run.record), {})
    tables = [comparison_table(title, record[name]) for name, title in TITLES.items() if name in record]
    if not tables:
        return None
    return Section(
        name="compared",
        title="Why this plan?",
        short="Why",
        folded=True,
        intro="Recorded when the recipe was made, with other seeds than this run's: candidates were judged on held-out "
        "images alone. The plan with the best mean over the numbers of shots was taken, with the longest training that "
        "fits into its time.",
        blocks=[*tables],
    )
