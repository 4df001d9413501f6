"""`layergraft analyze`: look inside any encoder, and keep what was found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from layergraft.analysis.run import BLOCK_CHOICE, build_subject, check_names, run_analyses
from layergraft.errors import UserError
from layergraft.evaluation.features import check_block
from layergraft.runs.findings import Entry
from layergraft.runs.layout import run_directory
from layergraft.runs.lock import locked
from layergraft.runs.report.page import write_report


def analyze_command(
    *,
    encoder: str,
    against: list[str],
    data: str,
    labels: str | None,
    block: int | None,
    what: list[str],
    out: Path | None,
) -> list[Entry]:
    """See `layergraft.analyze`."""
    names = check_names(what)
    if block is not None and names != [BLOCK_CHOICE]:
        raise UserError(f"--block is for {BLOCK_CHOICE} alone.", f"Give --what {BLOCK_CHOICE}.")
    found = run_directory(encoder)
    out = out or (found[0] if found else None)
    if out is None:
        raise UserError(
            f"{encoder!r} is no run, so there is no place for analysis.json.", "Give a directory with --out."
        )
    console = Console(stderr=True, highlight=False)
    subject = replace(build_subject(encoder, against, data, labels), block=block)
    check_block(block, subject.encoder, repr(encoder))
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
