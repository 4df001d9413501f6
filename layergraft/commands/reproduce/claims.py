"""claims.json and report.html: the outcome of a study, and the numbers that it was computed from."""

from __future__ import annotations

from pathlib import Path

import msgspec

from layergraft.commands.reproduce.outcome import Claims, make_claims
from layergraft.commands.reproduce.page import write_claims_page
from layergraft.commands.reproduce.study_file import MeasuredClaims
from layergraft.commands.study.study_file import read_study
from layergraft.runs.atomic import write_text
from layergraft.runs.json_files import read_json_as

FILE = "claims.json"
PAGE = "report.html"


def read_claims(path: Path) -> Claims:
    """A claims.json.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    return read_json_as(path, Claims)


def write_claims(study: MeasuredClaims, out: Path, page: Path | None = None, figures: Path | None = None) -> Path:
    """Write claims.json and the page of a study.

    Args:
        study: what was measured.
        out: directory of both.
        page: the page's file, where it is to be another.
        figures: see `runs.report.page.write_page`.

    Returns:
        The page's path.
    """
    claims = make_claims(study)
    write_text(out / FILE, msgspec.json.format(msgspec.json.encode(claims), indent=1).decode() + "\n")
    return write_claims_page(claims, page or out / PAGE, figures)


def report_claims(directory: Path, page: Path | None, figures: Path | None = None) -> Path:
    """Make the outcome of a study again from its study.json.

    Args:
        directory: of the study.
        page: its page; None is report.html in the directory.
        figures: see `runs.report.page.write_page`.

    Raises:
        UserError: the file is damaged.
    """
    return write_claims(read_study(directory, MeasuredClaims), directory, page, figures)
