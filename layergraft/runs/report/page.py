"""report.html: one self-contained page, made from run directories alone, or of any sections."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from layergraft.runs.atomic import write_text
from layergraft.runs.figure import Figure
from layergraft.runs.interruption import check
from layergraft.runs.readable import counted
from layergraft.runs.report.pdf import write_pdfs
from layergraft.runs.report.run_files import RunFiles, read_runs
from layergraft.runs.report.section import Section
from layergraft.runs.report.sections import SECTIONS

ASSETS = Path(__file__).with_name("assets")


def _subtitle(run: RunFiles) -> str:
    """`mae (mae, 20 epochs), then graft (moco, 1 epoch)`."""
    return ", then ".join(
        f"{stage['name']} ({stage['objective']}, {counted(stage['epochs'], 'epoch')})" for stage in run.stages
    )


def _without_gaps(section: Section) -> Section:
    """Figures stand in pairs; one that is left without a neighbour takes the whole row."""
    blocks = list(section.blocks)
    alone: int | None = None
    for index, block in enumerate(blocks):
        if isinstance(block, Figure) and not block.wide:
            alone = index if alone is None else None
        elif alone is not None:
            blocks[alone] = _widened(blocks[alone])
            alone = None
    if alone is not None:
        blocks[alone] = _widened(blocks[alone])
    return replace(section, blocks=blocks)


def _widened(block: Any) -> Any:
    assert isinstance(block, Figure)
    return replace(block, wide=True)


def write_report(runs: list[Path], out: Path | None = None, figures: Path | None = None) -> Path:
    """Build the page of one run, or of several side by side.

    Args:
        runs: their directories.
        out: the page; None is report.html in the first directory.
        figures: a new directory for a PDF of each figure, or None.

    Returns:
        The page's path.

    Raises:
        UserError: a directory is no run, or that of the figures is not empty.
    """
    run_files = read_runs(runs)
    sections = []
    for build in SECTIONS:
        check()
        if (section := build(run_files)) is not None:
            sections.append(section)
    return write_page(
        title=" · ".join(run.name for run in run_files),
        subtitles=[(run.name if len(run_files) > 1 else "", _subtitle(run)) for run in run_files],
        sections=sections,
        out=out or runs[0] / "report.html",
        figures=figures,
    )


def write_page(
    *,
    title: str,
    subtitles: list[tuple[str, str]],
    sections: list[Section],
    out: Path,
    figures: Path | None = None,
) -> Path:
    """Build a page of any sections.

    Args:
        title: headline.
        subtitles: (name, sentence without its full stop) below it; the name may be empty.
        sections: in order.
        out: the file.
        figures: a new directory for a PDF of each figure, or None.

    Returns:
        The page's path.

    Raises:
        UserError: that directory is not empty, or vl-convert is not installed.
    """
    sections = [_without_gaps(section) for section in sections]
    if figures is not None:  # which may be refused, before anything is written
        write_pdfs((figure for section in sections for figure in section.figures), figures)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.jinja").render(
        title=title,
        subtitles=subtitles,
        sections=sections,
        figures={figure.name: asdict(figure) for section in sections for figure in section.figures},
        style=(ASSETS / "report.css").read_text(encoding="utf-8"),
        scripts=[
            (ASSETS / name).read_text(encoding="utf-8") for name in ("vega.min.js", "vega-lite.min.js", "report.js")
        ],
        version=version("layergraft"),
    )
    write_text(out, page)
    return out
