"""Fill the documentation's page of claims from the committed claims.json: every number on it.

    layergraft reproduce --scale tiny --seeds 5 --out runs/claims
    cp runs/claims/claims.json docs/
    python tools/docs_claims.py --pictures

replaces what stands between `<!-- PART -->` and `<!-- end -->` in `docs/claims.md`; the text around is written by hand.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from layergraft.commands.reproduce.claims import read_claims
from layergraft.commands.reproduce.outcome import Claims
from layergraft.commands.reproduce.page import RULE, write_claims_page
from layergraft.commands.reproduce.separations import separations_table
from layergraft.commands.reproduce.tables import (
    bar_sentence,
    bar_table,
    conflict_during_table,
    conflict_table,
    parts_table,
    pilot_table,
    verdict_table,
)
from layergraft.commands.study.study_file import Budget
from layergraft.commands.study.tables import accuracy_table, arms_table, differences_table, facts_table, search_table
from layergraft.runs.report.section import Table

DOCS = Path(__file__).parents[1] / "docs"
PAGE, CLAIMS = DOCS / "claims.md", DOCS / "claims.json"
NOT_MEASURED = "The recorded study has not measured this."
PICTURES = {
    "claims-differences": "differences-epochs",
    "claims-compute": "compute",
    "claims-conflict": "conflict-share",
}
NUMBER = re.compile(r"[\d+−<–]|$")  # how a cell of numbers begins
PART = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(table: Table) -> str:
    """The table, and its note below it."""
    columns = list(zip(*table.rows, strict=True))
    sides = ["---", *("--:" if all(map(NUMBER.match, column)) else "---" for column in columns[1:])]
    lines = [table.columns, sides, *table.rows]
    rows = ["| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in line) + " |" for line in lines]
    return "\n".join([*rows, *(["", table.note] if table.note else [])]) + "\n"


def _bar(claims: Claims, budget: Budget) -> str:
    bars = [bar for bar in claims.graft_vs_parents if bar.budget == budget]
    return "\n".join(f"**{bar_sentence(claims, bar)}**\n\n{markdown(bar_table(claims, bar))}" for bar in bars)


def _parts(claims: Claims) -> str:
    tables = [parts_table(claim) for claim in claims.claims]
    return "\n".join(f"### {table.title}\n\n{markdown(table)}" for table in tables)


PARTS: dict[str, Callable[[Claims], str]] = {
    "command": lambda claims: f"```console\n$ {claims.study.command}\n```\n",
    "verdicts": lambda claims: markdown(verdict_table(claims)),
    "pilot": lambda claims: markdown(pilot_table(claims)),
    "rule": lambda claims: RULE + "\n",
    "parents_epochs": lambda claims: _bar(claims, "epochs"),
    "parents_compute": lambda claims: _bar(claims, "compute"),
    "accuracy_epochs": lambda claims: markdown(accuracy_table(claims, "epochs")),
    "accuracy_compute": lambda claims: markdown(accuracy_table(claims, "compute")),
    "differences_epochs": lambda claims: markdown(differences_table(claims, "epochs")),
    "differences_compute": lambda claims: markdown(differences_table(claims, "compute")),
    "parts": _parts,
    "separations": lambda claims: (
        markdown(separations_table(claims.separations)) if claims.separations else f"{NOT_MEASURED}\n"
    ),
    "conflict": lambda claims: markdown(conflict_table(claims)),
    "conflict_during": lambda claims: (
        markdown(conflict_during_table(claims)) if claims.conflict_during else f"{NOT_MEASURED}\n"
    ),
    "arms": lambda claims: markdown(arms_table(claims)),
    "trials": lambda claims: markdown(search_table(claims)),
    "facts": lambda claims: markdown(facts_table(claims)),
}


def fill(text: str, claims: Claims) -> str:
    """The page with every part made again."""
    return PART.sub(lambda part: part[1] + "\n" + PARTS[part[2]](claims) + "\n" + part[3], text)


def take_pictures(claims: Claims) -> None:
    """Write docs/pictures/claims-*.svg, from the study's page."""
    from docs_pictures import opened, save_svg

    with tempfile.TemporaryDirectory() as folder, opened(write_claims_page(claims, Path(folder) / "page.html")) as page:
        for name, figure in PICTURES.items():
            save_svg(page, figure, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--claims", type=Path, default=CLAIMS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--pictures", action="store_true", help="take the pictures, too (it needs Chromium)")
    arguments = parser.parse_args()
    claims = read_claims(arguments.claims)
    arguments.page.write_text(fill(arguments.page.read_text(encoding="utf-8"), claims), encoding="utf-8")
    if arguments.pictures:
        take_pictures(claims)


if __name__ == "__main__":
    main()
