"""Figures of ours beside a rival's, in the JSON files of docs/performance/ that a page is made of."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from layergraft.commands.study.directory import commit

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """How much longer a rival takes than we, paired round by round.

    Args:
        case: what is measured.
        rival: beside whom.
        median: of theirs over ours; above 1 we are faster.
        min: the smallest ratio of any round.
        max: the largest.
        n: rounds.
        ours: median processor seconds of ours.
        theirs: of theirs.
    """

    case: str
    rival: str
    median: float
    min: float
    max: float
    n: int
    ours: float
    theirs: float

    @classmethod
    def of(cls, case: str, rival: str, ours: Numbers, theirs: Numbers) -> Row:
        """From the processor seconds of each round."""
        ratios = theirs / ours
        figures = (np.median(ratios), ratios.min(), ratios.max())
        median, low, high = (round(float(figure), 3) for figure in figures)
        return cls(case, rival, median, low, high, len(ratios), _short(np.median(ours)), _short(np.median(theirs)))


def _short(seconds: Any) -> float:
    return float(f"{float(seconds):.4g}")


def machine() -> str:
    """The processor, what it multiplies with, and how many of its cores there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in told.get("flags", "").split()]
    name = told.get("model name", platform.processor() or platform.machine())
    family = f", family {told['cpu family']}" if "cpu family" in told else ""
    return f"{name}{family} ({', '.join(known)}), {os.cpu_count()} cores"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of the packages that are installed."""
    installed = {"python": platform.python_version()}
    for name in packages:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def write_rows(file: Path, about: dict[str, str], packages: Sequence[str], rows: Sequence[Row]) -> None:
    """Put rows into a file, in place of those of the same case and rival; one of other versions starts anew.

    Args:
        file: where to, as `docs_performance.py` reads it; its folder may be missing.
        about: `title`, `about` and `command`.
        packages: whose versions count.
        rows: of some cases; those of a rival that `is_part` go to `parts`, which the page does not show.
    """
    head = about | {"machine": machine(), "versions": versions(packages)}
    before: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    same = all(before.get(key) == value for key, value in head.items())
    new = {(row.case, row.rival) for row in rows}
    tables: dict[str, list[dict[str, Any]]] = {}
    for table in ("rows", "parts"):
        kept = [row for row in before.get(table, []) if (row["case"], row["rival"]) not in new] if same else []
        tables[table] = [*kept, *(_entry(row) for row in rows if is_part(row.rival) == (table == "parts"))]
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(head | {"commit": commit()} | tables, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def is_part(rival: str) -> bool:
    """Whether it is a part of ours that was timed alone."""
    return rival.startswith("of ours")


def _entry(row: Row) -> dict[str, Any]:
    """A row of the page: milliseconds, and the ratio by rounds in its note."""
    note = f"by rounds {row.median:.2f}, {row.min:.2f} to {row.max:.2f} in {row.n}"
    times = {"theirs": _short(1e3 * row.theirs), "ours": _short(1e3 * row.ours), "unit": "ms", "better": "less"}
    return {"case": row.case, "rival": row.rival} | times | {"note": note} | asdict(row) | times
