"""`layergraft report`: the page of a run, of several or of a study, made again from their files."""

from __future__ import annotations

from pathlib import Path

from layergraft.commands.ablate.files import report_ablation
from layergraft.commands.reproduce.claims import report_claims
from layergraft.commands.study.study_file import FILE, is_study
from layergraft.errors import UserError
from layergraft.runs.json_files import read_json
from layergraft.runs.report.model_card import write_model_card
from layergraft.runs.report.page import write_report


def write_page(runs: list[Path], out: Path | None, figures: Path | None) -> Path:
    """See `layergraft.report`."""
    if any(is_study(run) for run in runs):
        study = next(run for run in runs if is_study(run))
        if len(runs) > 1:
            raise UserError("The page of a study stands alone.", "Give its directory and no other.")
        of_claims = "chosen_graft" in read_json(study / FILE)
        page = (report_claims if of_claims else report_ablation)(study, out, figures)
    else:
        for run in runs:
            if (run / "encoder").is_dir():
                write_model_card(run, run / "encoder")
        page = write_report(runs, out, figures)
    print(f"Report: {page}")
    if figures is not None:
        print(f"Figures: {figures}")
    return page
