"""What a page is made of: sections of tables, figures, notes and code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from layergraft.runs.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text.

    Args:
        title: what is in it.
        columns: headlines; the first column holds the rows' names.
        rows: cells as text.
        note: a sentence below it.
        best: (row, column) of the cells to stand out.
    """

    kind: ClassVar[str] = "table"

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    best: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Sentences, each a paragraph; `warning` marks what should not be overlooked, a title folds them away below it."""

    kind: ClassVar[str] = "notes"

    lines: list[str]
    warning: bool = False
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image of a sheet.

    Args:
        image: a data address.
        title: the name of its file.
        address: where the file is, as a URL; empty where that is nowhere to go to.
        caption: a few words below it.
        marked: whether it should catch the eye.
        edge: `right` or `wrong` colours its edge; empty leaves it without.
    """

    image: str
    title: str
    address: str = ""
    caption: str = ""
    marked: bool = False
    edge: Literal["right", "wrong", ""] = ""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Images side by side, each with its path as title and link.

    Args:
        title: what they have in common.
        pictures: in order.
        note: a sentence below the title.
    """

    kind: ClassVar[str] = "sheet"

    title: str
    pictures: list[Picture]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A number that matters.

    Args:
        label: what it is.
        value: as it is read.
        note: how sure it is, or what it is made of.
    """

    label: str
    value: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Numbers side by side, and what to do next.

    Args:
        tiles: in order.
        step: what to do next, in a sentence.
        command: the line that does it.
    """

    kind: ClassVar[str] = "tiles"

    tiles: list[Tile]
    step: str = ""
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Code:
    """Text to copy, folded away below its title."""

    kind: ClassVar[str] = "code"

    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What was found about a question.

    Args:
        word: `holds`, `does not hold` or `undecided`.
        label: what it was found about.
        text: why, in a sentence.
    """

    word: Literal["holds", "does not hold", "undecided"]
    label: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A question with its answers, and the tables that they rest on.

    Args:
        title: the question, or what is claimed.
        judgements: the answer, or several under different conditions.
        tables: the numbers that they rest on.
    """

    kind: ClassVar[str] = "verdict"

    title: str
    judgements: list[Judgement]
    tables: list[Table]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page under one headline.

    Args:
        name: its anchor.
        title: headline.
        intro: a sentence or two below it.
        blocks: what it shows, in order.
        short: how the navigation calls it; empty is the title.
        folded: whether it is shown only when it is asked for.
        lead: the sentence that the page is there for, large.
    """

    name: str
    title: str
    intro: str = ""
    blocks: list[Table | Notes | Code | Figure | Verdict | Sheet | Tiles] = field(default_factory=list)
    short: str = ""
    folded: bool = False
    lead: str = ""

    @property
    def figures(self) -> list[Figure]:
        return [block for block in self.blocks if isinstance(block, Figure)]
