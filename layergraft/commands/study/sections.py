"""Parts of the pages of all studies."""

from __future__ import annotations

from typing import Any

from layergraft.commands.study.figures import differences_figure, search_figure
from layergraft.commands.study.outcome import Outcome
from layergraft.commands.study.study_file import Budget
from layergraft.commands.study.tables import arms_table, differences_table, facts_table, search_table
from layergraft.runs.readable import duration
from layergraft.runs.report.section import Section, Table


def difference_blocks(outcome: Outcome, budget: Budget) -> list[Any]:
    """The differences from the reference as chart and table; nothing where there are none."""
    figure = differences_figure(outcome, budget)
    return [] if figure is None else [figure, differences_table(outcome, budget)]


def search_blocks(outcome: Outcome) -> list[Any]:
    """The arms, and what was tried."""
    figure = search_figure(outcome)
    searched = [] if figure is None else [figure, search_table(outcome)]
    return [arms_table(outcome), *searched]


def made_section(outcome: Outcome) -> Section:
    """Command, machine and time."""
    seconds = sum(seed.seconds for arm in outcome.measured.arms for seed in arm.seeds)
    note = f"The jobs that trained and measured the arms add up to {duration(seconds)}, their search not counted."
    table = facts_table(outcome)
    return Section(
        name="made",
        title="How it was made",
        blocks=[Table(title=table.title, columns=table.columns, rows=table.rows, note=note)],
    )
