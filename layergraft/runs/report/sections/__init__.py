"""The page's sections, one file each, in the order in which they appear.

A section is a function of the runs to show, usually one; it returns None where they hold nothing for it.
"""

from collections.abc import Callable

from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Section
from layergraft.runs.report.sections.analyses import layers, losses, pictures
from layergraft.runs.report.sections.answer import answer
from layergraft.runs.report.sections.audit import audited
from layergraft.runs.report.sections.compared import compared
from layergraft.runs.report.sections.curves import curves
from layergraft.runs.report.sections.mistakes import mistakes
from layergraft.runs.report.sections.plans import plans
from layergraft.runs.report.sections.provenance import provenance
from layergraft.runs.report.sections.results import results
from layergraft.runs.report.sections.warnings import warnings

SECTIONS: tuple[Callable[[list[RunFiles]], Section | None], ...] = (
    answer,
    warnings,
    mistakes,
    pictures,
    results,
    curves,
    losses,
    audited,
    layers,
    plans,
    compared,
    provenance,
)
