"""The page's sections, one file each, in the order in which they appear.

A section is a function of the runs to show, usually one; it returns None where they hold nothing for it.
"""

from collections.abc import Callable

from layergraft.report.run_files import RunFiles
from layergraft.report.section import Section
from layergraft.report.sections.analyses import layers, losses, pictures
from layergraft.report.sections.compared import compared
from layergraft.report.sections.curves import curves
from layergraft.report.sections.plans import plans
from layergraft.report.sections.provenance import provenance
from layergraft.report.sections.results import results
from layergraft.report.sections.warnings import warnings

SECTIONS: tuple[Callable[[list[RunFiles]], Section | None], ...] = (
    warnings,
    results,
    curves,
    losses,
    layers,
    pictures,
    plans,
    compared,
    provenance,
)
