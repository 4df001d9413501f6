"""The page of claims says what the committed claims.json says, and that says what was measured."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from layergraft.commands.reproduce.claims import read_claims
from layergraft.commands.reproduce.outcome import make_claims

ROOT = Path(__file__).parents[2]
PAGES = {"claims.md": "claims.json", "claims_colour.md": "claims_colour.json"}
PAGE, CLAIMS = ROOT / "docs" / "claims.md", ROOT / "docs" / "claims.json"
# 97.5 % quantiles of Student's t by degrees of freedom, from a printed table.
QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


def test_script_makes_every_number_of_the_pages_again(tmp_path: Path) -> None:
    pages = {name: (ROOT / "docs" / name).read_text() for name in PAGES}
    for name, text in pages.items():
        emptied = re.sub(r"(<!-- \w+ -->\n).*?(<!-- end -->)", r"\1\2", text, flags=re.DOTALL)
        assert len(emptied) < len(text) / 2
        (tmp_path / name).write_text(emptied)
    subprocess.run([sys.executable, str(ROOT / "tools" / "docs_claims.py"), "--out", str(tmp_path)], check=True)
    for name, text in pages.items():
        assert (tmp_path / name).read_text() == text


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, part in parts for key, leaf in flat(part, f"{path}.{name}").items()}
    return {path: value}


@pytest.mark.parametrize("name", PAGES.values())
def test_statistics_follow_from_what_was_measured(name: str) -> None:
    claims = read_claims(ROOT / "docs" / name)
    again = flat(msgspec.to_builtins(make_claims(claims.study)))
    recorded = flat(msgspec.to_builtins(claims))
    assert again.keys() == recorded.keys()
    for path, value in recorded.items():
        assert again[path] == (pytest.approx(value, abs=1e-9) if isinstance(value, float) else value), path


def test_the_graft_against_its_parents_by_hand() -> None:
    """Differences of the recorded accuracies, with the standard library and a printed table."""
    claims, page = read_claims(CLAIMS), PAGE.read_text()
    arms = {arm.name: {own.seed: own.test for own in arm.seeds} for arm in claims.study.arms}
    rows = [row for bar in claims.graft_vs_parents for row in bar.rows]
    assert len(rows) == 2 * 2 * len(claims.study.few_shots)  # budgets, parents
    for row in rows:
        graft, parent = arms[row.arm], arms[row.against]
        seeds = sorted(graft.keys() & parent.keys())
        differences = [graft[seed][row.column] - parent[seed][row.column] for seed in seeds]
        half = QUANTILES[len(seeds) - 1] * statistics.stdev(differences) / len(seeds) ** 0.5
        assert row.difference.mean == pytest.approx(statistics.mean(differences))
        assert row.difference.low == pytest.approx(statistics.mean(differences) - half, abs=2e-3)
        shown = f"{row.difference.mean:+.2f} [{row.difference.low:+.2f}, {row.difference.high:+.2f}]"
        assert shown.replace("-", "−") in page


def test_the_page_of_the_method_says_what_was_measured_of_conflict() -> None:
    claims = read_claims(CLAIMS)
    study, parts = claims.study, [part for claim in claims.claims for part in claim.parts]
    shares = [100 * statistics.mean(found.blocks[block].negative for found in study.conflict) for block in (0, -1)]
    last = study.conflict[0].blocks[-1].block
    sentence = f"over {len(study.conflict)} seeds, the losses disagree on {shares[0]:.0f}% of the images in block 0 "
    text = (ROOT / "docs" / "method.md").read_text()
    assert sentence + f"and on {shares[1]:.0f}% in block {last}" in text
    first = claims.conflict_during[0]
    assert f"at {100 * first.part:.0f}% of the steps, it is {first.negative.mean:.0f}% over all blocks" in text
    assert [part.verdict for part in parts if part.hypothesis == "conflict grows with depth"] == ["undecided"]
