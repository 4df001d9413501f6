"""`layergraft analyze`: look inside any encoder, and keep what was found."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from layergraft.analysis.run import build_subject, check_names, run_analyses
from layergraft.errors import UserError
from layergraft.runs.findings import Entry
from layergraft.runs.layout import run_directory
from layergraft.runs.lock import locked
from layergraft.runs.report.page import write_report


def analyze_command(
    *, encoder: str, against: list[str], data: str, labels: str | None, what: list[str], out: Path | None
) -> list[Entry]:
    """See `layergraft.analyze`."""
    names = check_names(what)
    found = run_directory(encoder)
    out = out or (found[0] if found else None)
    if out is None:
        raise UserError(
            f"{encoder!r} is no run, so there is no place for analysis.json.", "Give a directory with --out."
        )
    console = Console(stderr=True, highlight=False)
    subject = build_subject(encoder, against, data, labels)
    file = out / "analysis.json"

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    images = data if labels is None else f"{data} labelled by {labels}"
    with locked(out, say):
        entries, skipped = run_analyses(subject, names, images, file, say)
    if not entries:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise UserError(f"Nothing of {', '.join(names)} could be said about {encoder!r}.", reasons)
    console.print(f"Numbers: {file}\nReport:  {write_report([out])}", markup=False)
    return entries
