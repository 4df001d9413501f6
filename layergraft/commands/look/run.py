"""`layergraft look`: kinds, sizes, channels and numbers of a source's images, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from layergraft.commands.look.page import write_look_page
from layergraft.data.first_look import look_at, remarks_on_files
from layergraft.data.reading import settle
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.data.survey import Survey, channels_of, survey
from layergraft.errors import UserError
from layergraft.runs.announce import announce
from layergraft.runs.notebook import html_table


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the package sees of a source.

    Args:
        source: the SOURCE, with options as they were settled: it opens the same images in the same way.
        images: how many there are.
        lines: (what, how it is), as they are printed.
        out: the page, or None.
    """

    source: str
    images: int
    lines: list[tuple[str, str]]
    out: Path | None

    def __repr__(self) -> str:
        return "\n".join([self.source, *(f"  {what}: {how}" for what, how in self.lines)])

    def _repr_html_(self) -> str:
        return html_table(self.source, ("what", "how it is"), self.lines)


def look_command(*, data: str, out: Path | None, channels: int | None, images: int) -> Look:
    """Print what there is, and write a page where one is wanted; see `layergraft.look`."""
    if images < 1 or (channels is not None and channels < 1):
        raise UserError("--images and --channels are 1 or more.")
    source = open_source(data)
    if not len(source):
        raise UserError(f"{data!r} has no image.")
    channels = channels or channels_of(source)
    source = settle(source, channels, announce)
    seen = survey(source, channels, images)
    lines = summary(source, seen, channels)
    said = [*source.remarks, *remarks_on_files(look_at(source, channels), source)]
    table = Table(title=source.spec, show_header=False)
    for line in lines:
        table.add_row(*line)
    Console().print(table)
    announce(*said)
    page = None if out is None else write_look_page(out / "look.html", source, seen, channels, lines, said)
    if page is not None:
        announce(f"The page is {page}.")
    return Look(source=source.spec, images=len(source), lines=lines, out=page)


def _counted(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return "; ".join(f"{count:,} {name}" for name, count in ordered[:8]) + ("; …" if len(ordered) > 8 else "")


def summary(source: Source, seen: Survey, channels: int) -> list[tuple[str, str]]:
    """What was seen, a line each, as (what, how it is)."""
    looked_at = len(seen.keys) + sum(seen.reasons.values())
    lines = [("images", f"{len(source):,} ({_counted(seen.endings)})"), ("looked at", f"{looked_at:,}")]
    if source.classes and source.labels is not None:
        of_class = np.bincount(source.labels[source.keys][source.labels[source.keys] >= 0].astype(np.int64))
        present = of_class[of_class > 0]
        text = f"{len(present)}, of {_span(present.min(), present.max())} images" if len(present) else "none"
        lines.append(("classes", text))
    else:
        lines.append(("classes", "no labels"))
    if len(seen.sizes):
        short = np.sort(seen.sizes.min(axis=1))
        middle = f", median {int(np.median(short)):,}" if short[0] < short[-1] else ""
        lines.append(("shorter side", f"{_span(short[0], short[-1])} pixels{middle}"))
        lines.append(("stored as", _counted(seen.layouts)))
    for numbers in seen.stored:
        lines.append((f"channel {numbers.name}", f"numbers from {numbers.low:.6g} to {numbers.high:.6g}"))
    options = str(source.options) or "as they are: of more than 8 bits the upper 8 count"
    lines.append(("read with", f"{options}; {channels} channel{'s' * (channels > 1)}"))
    for numbers in seen.levels:
        lines.append((f"given channel {numbers.name}", _levels(numbers.counts, numbers.edges)))
    unreadable = sum(seen.reasons.values())
    lines.append(("unreadable", f"{unreadable:,} of {looked_at:,}: {_counted(seen.reasons)}" if unreadable else "none"))
    return lines


def _span(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _levels(counts: np.ndarray, edges: np.ndarray) -> str:
    """Where the middle half of the grey levels lies."""
    share = np.cumsum(counts) / max(1, counts.sum())
    quarter, three = (int(edges[np.searchsorted(share, part)]) for part in (0.25, 0.75))
    middle = f"half of them from about {quarter} to {three}"
    return f"levels from {int(edges[0])} to {round(edges[-1])} of 255, {middle}"
