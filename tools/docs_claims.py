"""Fill the documentation's pages of claims from the committed claims: every number on them.

    layergraft reproduce --scale tiny --seeds 5 --out runs/claims
    layergraft reproduce --scale colour --seeds 5 --out runs/colour
    cp runs/claims/claims.json docs/
    cp runs/colour/claims.json docs/claims_colour.json
    python tools/docs_claims.py --pictures

replaces what stands between `<!-- PART -->` and `<!-- end -->` in `docs/claims.md` and `docs/claims_colour.md`; the
text around is written by hand.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from layergraft.commands.ablate.outcome import MeasuredAblation
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
from layergraft.commands.study.formatting import AT
from layergraft.commands.study.ranking import ranking_table
from layergraft.commands.study.study_file import Budget
from layergraft.commands.study.tables import accuracy_table, arms_table, differences_table, facts_table, search_table
from layergraft.runs.json_files import read_json_as
from layergraft.runs.report.section import Table

DOCS = Path(__file__).parents[1] / "docs"
SETS = {"grey": DOCS / "claims.json", "colour": DOCS / "claims_colour.json"}  # images -> their study
PAGES = {DOCS / "claims.md": SETS["grey"], DOCS / "claims_colour.md": SETS["colour"]}
GREY_VIEWS = DOCS / "colour_views.json"  # an ablation of the share of grey views in colour
BOLD = {False: "{}", True: "**{}**"}  # where an interval leaves 0 out
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


def _scores(claims: Claims) -> str:
    table = ranking_table(claims.study, BOLD)
    return markdown(table) if table is not None else f"{NOT_MEASURED}\n"


def _sets(_: Claims) -> str:
    """The verdicts of both studies side by side."""
    by_set = [{(claim.number, claim.budget): claim for claim in read_claims(file).claims} for file in SETS.values()]
    rows = [
        [
            f"{claim.number}. {claim.statement}",
            AT[claim.budget] if claim.budget else "",
            *(claims[key].verdict for claims in by_set),
        ]
        for key, claim in by_set[0].items()
    ]
    return markdown(Table(title="", columns=["claim", "", *SETS], rows=rows, note=""))


def _grey_views(_: Claims) -> str:
    """What contrast reached with more and less grey views, on held-out images."""
    study = read_json_as(GREY_VIEWS, MeasuredAblation, "")
    rows = [[arm.title, arm.plan, f"{arm.seeds[0].holdout['5']:.1f}"] for arm in study.arms]
    command = f"```console\n$ {study.command}\n```\n"
    columns = ["", "keys", "held-out images (%), 5 labels a class"]
    return command + "\n" + markdown(Table(title="", columns=columns, rows=rows, note=""))


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
    "scores": _scores,
    "sets": _sets,
    "grey_views": _grey_views,
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
    parser.add_argument("--out", type=Path, help="folder of other copies of the pages")
    parser.add_argument("--pictures", action="store_true", help="take the pictures, too (it needs Chromium)")
    arguments = parser.parse_args()
    for page, file in PAGES.items():
        out = (arguments.out or DOCS) / page.name
        out.write_text(fill(out.read_text(encoding="utf-8"), read_claims(file)), encoding="utf-8")
    if arguments.pictures:
        take_pictures(read_claims(SETS["grey"]))


if __name__ == "__main__":
    main()
